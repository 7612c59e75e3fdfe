"""What single steps of a send and a verify cost, each alone, in µs of CPU: where the whole request's time can go.

The steps are the product's own functions on the product's own defaults; the store is the one imitation, an answer that
is ready at once, so that the two `service` rows are everything of ours between HTTP and Redis. Best of several rounds,
because nothing can make code faster than it is and everything else on the machine makes it slower.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

import msgspec

from otpsvc import ids, phone
from otpsvc.clients.model import Principal
from otpsvc.crypto import Keyring
from otpsvc.http.v1 import wire
from otpsvc.messages.text import Texts
from otpsvc.otp.checks import GatewayChecks
from otpsvc.otp.codes import CodeHasher, new_code
from otpsvc.otp.model import SendRequest, VerifyRequest
from otpsvc.otp.policy import Limits, Policy
from otpsvc.otp.ports import (
    Accepted,
    CheckCommand,
    Refusal,
    ResendCommand,
    Right,
    SendCommand,
    StoredOtp,
    Tenant,
    VerifyCommand,
)
from otpsvc.otp.service import OtpService

_ROUNDS = 5
_CALLS = 400
_NUMBER = "+33612345678"
_CALLER = Principal("client_100000000000", "live", "0" * 12, Policy())


class _ReadyStore:
    """An `OtpStore` that takes everything at once."""

    async def send(self, command: SendCommand) -> Accepted:
        return Accepted(now=0, expires_at=command.ttl_ms, resend_at=0, attempts_remaining=command.max_attempts)

    async def verify(self, command: VerifyCommand) -> Right:
        return Right(is_replay=False, to="+336****5678", purpose=command.purpose, metadata="", verified_at=0)

    async def check(self, command: CheckCommand) -> Refusal:
        return Refusal(status="not_found", now=0)

    async def resend(self, command: ResendCommand) -> Refusal:
        return Refusal(status="not_found", now=0)

    async def cancel(self, tenant: Tenant, otp_id: ids.OtpId, *, event_limit: int) -> Refusal | None:
        return None

    async def get(self, tenant: Tenant, otp_id: ids.OtpId) -> StoredOtp | None:
        return None


def table() -> str:
    """Measure every step and write them for people."""
    rows = asyncio.run(_measure())
    return "\n".join(["single steps, µs of CPU each (best)", *(f"  {name:<44}{us:8.1f}" for name, us in rows), ""])


async def _measure() -> list[tuple[str, float]]:
    keyring = Keyring.from_masters({"bench": secrets.token_bytes(32)})
    hasher = CodeHasher(keyring)
    texts = Texts()
    service = OtpService(
        store=_ReadyStore(),
        keyring=keyring,
        hasher=hasher,
        texts=texts,
        limits=Limits(),
        partitions=1,
        checker=GatewayChecks(),
    )
    plain_hasher = CodeHasher(keyring, "hmac-sha256")
    otp_id = ids.new_otp_id(partition=0, slot=keyring.current.slot, profile=hasher.profile.number)
    plain_id = otp_id._replace(profile=plain_hasher.profile.number)
    sent = await service.send(_CALLER, SendRequest(to=_NUMBER))
    body = msgspec.json.encode({"to": _NUMBER})
    decoder, encoder = msgspec.json.Decoder(wire.SendBody), msgspec.json.Encoder()

    async def hash_code(hasher: CodeHasher, otp_id: ids.OtpId) -> None:
        await hasher.hash(otp_id, client_id=_CALLER.client_id, mode=_CALLER.mode, code="123456")

    async def verify() -> None:
        await service.verify(_CALLER, VerifyRequest(otp_id=otp_id.text, code="123456"))

    return [
        ("JSON in, fields folded", _best(lambda: decoder.decode(body).to_request())),
        ("JSON out", _best(lambda: encoder.encode(wire.SendAnswer.of(sent)))),
        ("number: normalise", _best(lambda: phone.normalise(_NUMBER))),
        ("number: mask", _best(lambda: phone.mask(_NUMBER))),
        ("number: blind index", _best(lambda: keyring.index("number", _NUMBER).hex())),
        ("one id (a send makes four, a verify two)", _best(ids.new_event_id)),
        ("code: make", _best(lambda: new_code(6))),
        ("code: hash, hmac-sha256", await _best_awaited(lambda: hash_code(plain_hasher, plain_id))),
        ("code: hash, argon2id-64k (the default)", await _best_awaited(lambda: hash_code(hasher, otp_id))),
        (
            "text: render",
            _best(lambda: texts.render(code="123456", ttl_s=300, template=None, locale=None, region="FR")),
        ),
        ("seal once (a send seals twice)", _best(lambda: keyring.seal(body, record_id="x", count=0, bound_to=("x",)))),
        ("service: a whole send short of the store", await _best_awaited(lambda: _send(service))),
        ("service: a whole verify short of the store", await _best_awaited(verify)),
    ]


async def _send(service: OtpService) -> None:
    await service.send(_CALLER, SendRequest(to=_NUMBER))


def _best(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        from_s = time.process_time()
        for _ in range(_CALLS):
            call()
        taken.append(time.process_time() - from_s)
    return min(taken) / _CALLS * 1e6


async def _best_awaited(call: Callable[[], Awaitable[None]]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        from_s = time.process_time()
        for _ in range(_CALLS):
            await call()
        taken.append(time.process_time() - from_s)
    return min(taken) / _CALLS * 1e6
