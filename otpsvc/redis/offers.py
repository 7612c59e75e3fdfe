"""The pool of phones in the store: turns a call into one script call and its reply into an outcome. It decides nothing.

After a step that put something into a phone's inbox, whoever holds the phone's stream is called. That call may be lost:
the phone asks by itself now and then, and a message that it does not come for goes to another.
"""

import logging
import secrets
from collections.abc import Collection, Sequence
from typing import Any

from redis.exceptions import RedisError

from otpsvc.devices.model import Device, DeviceStatus, Offer, PhoneReport, Pulled, Tenant, Told
from otpsvc.errors import ApiError
from otpsvc.ids import new_event_id, parse_message_id
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys

MOST_PULLED = 100
_MOST_UNANSWERED = 1000
_MOST_DUE = 1000
_LEAST_LUCK = 10**12

_log = logging.getLogger(__name__)


class RedisOffers:
    """Implements `devices.ports.DeviceOffers`; with `is_fenced` an OTP ends with the primary that it was made on."""

    def __init__(self, client: RedisClient, keys: Keys, *, is_fenced: bool = False) -> None:
        self._client = client
        self._keys = keys
        self._is_fenced = int(is_fenced)
        self._unanswered: dict[str, str] = {}

    async def offer(
        self,
        *,
        message_id: str,
        tenant: Tenant,
        sender: str,
        recipient: str,
        operator: str,
        sealed: bytes,
        expires_at_ms: int,
        pull_within_ms: int,
        report_within_ms: int,
        give_up_ms: int,
        pinned: str = "",
    ) -> Offer:
        """Run `offer_make`; raises ids.MalformedId for a message id that is none."""
        partition = self._keys.partitions[parse_message_id(message_id).partition]
        names = self._keys.devices(tenant.client_id)
        status, values = await self._client.run(
            "offer_make",
            {
                "offer": names.offer_base + message_id,
                "text": names.text_base + message_id,
                "pool": names.pool_base + tenant.mode,
                "spent": names.spent_base + tenant.mode,
                "message": partition.message_base + message_id,
                "offers": self._keys.offers,
                "events": partition.events,
            },
            {
                "message_id": message_id,
                "client": tenant.client_id,
                "mode": tenant.mode,
                "sender": sender,
                "recipient": recipient,
                "operator": operator,
                "sealed": sealed,
                "expires_at": expires_at_ms,
                "pull_ms": pull_within_ms,
                "report_ms": report_within_ms,
                "give_up_ms": give_up_ms,
                "pinned": pinned,
                "luck": _luck(),
                "device_base": names.device_base,
                "inbox_base": names.inbox_base,
                "sim_base": names.sim_base,
                "recipients_base": names.recipients_base,
                "otp_base": partition.otp_base,
                "is_fenced": self._is_fenced,
                "event_id": new_event_id(),
            },
        )
        if status == "offered":
            device_id = values[0].decode()
            await self._call(f"{device_id} enqueued")
            return Offer(status, device_id, values[1])
        return Offer(status, age_ms=values[0] if values else 0)

    async def pull(self, device: Device, *, limit: int, slots: Collection[bytes]) -> Sequence[Pulled] | None:
        """Run `offer_pull` for at most `MOST_PULLED` messages. One that the phone is to drop comes without its text."""
        names = self._keys.devices(device.client_id)
        # What a lost answer had given is given again to the same call alone.
        call = self._unanswered.pop(device.id, "") or new_event_id()
        try:
            status, values = await self._client.run(
                "offer_pull",
                {
                    "device": names.device_base + device.id,
                    "inbox": names.inbox_base + device.id,
                    "offers": self._keys.offers,
                },
                {
                    "device_id": device.id,
                    "version": device.version,
                    "is_active": int(device.status is DeviceStatus.ACTIVE),
                    "limit": min(limit, MOST_PULLED),
                    "inbox_base": names.inbox_base,
                    "sim_base": names.sim_base,
                    "recipients_base": names.recipients_base,
                    "offer_base": names.offer_base,
                    "text_base": names.text_base,
                    "slots": b"".join(slots),
                    "is_fenced": self._is_fenced,
                    "call": call,
                    "event_id": new_event_id(),
                },
            )
        except ApiError:
            if len(self._unanswered) < _MOST_UNANSWERED:
                self._unanswered[device.id] = call
            raise
        if status == "retired":
            return None
        n_unopened, listed = values
        if n_unopened:
            log = "device %s: %d messages wait that are sealed under a master which this process does not have"
            _log.warning(log, device.id, n_unopened)
        return [_pulled(*one) for one in listed]

    async def report(self, device: Device, report: PhoneReport) -> Told:
        """Run `offer_report`."""
        names = self._keys.devices(device.client_id)
        status, values = await self._client.run(
            "offer_report",
            {
                "offer": names.offer_base + report.message_id,
                "text": names.text_base + report.message_id,
                "device": names.device_base + device.id,
                "inbox": names.inbox_base + device.id,
                "offers": self._keys.offers,
            },
            {
                "message_id": report.message_id,
                "device_id": device.id,
                "version": device.version,
                "status": report.status,
                "kind": report.kind,
                "next_may_try": int(report.next_may_try),
                "error": report.error,
                **self._for_choice(device.client_id),
            },
        )
        return await self._told(status, values, device.client_id, report.message_id)

    async def withdraw(self, tenant: Tenant, message_id: str) -> bool:
        """Run `offer_withdraw`; False too where nothing is known of such an offer."""
        names = self._keys.devices(tenant.client_id)
        status, values = await self._client.run(
            "offer_withdraw",
            {
                "offer": names.offer_base + message_id,
                "text": names.text_base + message_id,
                "offers": self._keys.offers,
            },
            {
                "message_id": message_id,
                "mode": tenant.mode,
                "inbox_base": names.inbox_base,
                "sim_base": names.sim_base,
                "recipients_base": names.recipients_base,
                "is_fenced": self._is_fenced,
                "event_id": new_event_id(),
            },
        )
        if status == "pulled":
            await self._call(f"{values[0].decode()} cancelled {message_id}")
        return status == "withdrawn"

    async def due(self, *, limit: int, again_in_ms: int) -> Sequence[str]:
        """Run `offers_due` for at most a thousand."""
        _, values = await self._client.run(
            "offers_due",
            {"offers": self._keys.offers},
            {"limit": min(limit, _MOST_DUE), "again_in_ms": again_in_ms},
        )
        return [member.decode() for member in values]

    async def look(self, offer: str) -> Told:
        """Run `offer_look`; raises ValueError for a name that `due` has not given."""
        client_id, message_id = offer.split(" ")
        names = self._keys.devices(client_id)
        status, values = await self._client.run(
            "offer_look",
            {
                "offer": names.offer_base + message_id,
                "text": names.text_base + message_id,
                "offers": self._keys.offers,
                "presence": self._keys.presence,
            },
            {"client": client_id, "message_id": message_id, **self._for_choice(client_id)},
        )
        return await self._told(status, values, client_id, message_id)

    async def done(self, client_id: str, message_id: str, status: str) -> None:
        """Run `offer_done`."""
        await self._client.run(
            "offer_done",
            {"offer": self._keys.devices(client_id).offer_base + message_id, "offers": self._keys.offers},
            {"client": client_id, "message_id": message_id, "status": status},
        )

    async def reach(self, tenant: Tenant, pinned: str = "") -> str:
        """Run `pool_reach`: presence alone, budgets are not asked."""
        names = self._keys.devices(tenant.client_id)
        status, _ = await self._client.run(
            "pool_reach",
            {"pool": names.pool_base + tenant.mode},
            {"mode": tenant.mode, "pinned": pinned, "device_base": names.device_base},
        )
        return "" if status == "reachable" else status

    def _for_choice(self, client_id: str) -> dict[str, str | int]:
        """Name what a script needs that may give a message to another phone."""
        names = self._keys.devices(client_id)
        return {
            "luck": _luck(),
            "device_base": names.device_base,
            "pool_base": names.pool_base,
            "spent_base": names.spent_base,
            "inbox_base": names.inbox_base,
            "sim_base": names.sim_base,
            "recipients_base": names.recipients_base,
            "is_fenced": self._is_fenced,
            "event_id": new_event_id(),
        }

    async def _told(self, outcome: str, values: list[Any], client_id: str, message_id: str) -> Told:
        if not values:
            return Told("ignored" if outcome == "over" else outcome, client_id, message_id)
        sender, status, kind, device_id, may_duplicate, why, age_ms, call = values
        if call:
            await self._call(call.decode())
        return Told(
            outcome,
            client_id,
            message_id,
            sender=sender.decode(),
            status=status.decode(),
            kind=kind.decode(),
            device_id=device_id.decode(),
            may_duplicate=bool(may_duplicate),
            why=why.decode(),
            seconds=age_ms / 1000,
        )

    async def _call(self, words: str) -> None:
        """Say something to whoever holds a phone's stream."""
        try:
            await self._client.command("PUBLISH", self._keys.device_calls, words)
        except (ApiError, RedisError) as error:
            _log.info("a phone was not called: %s", type(error).__name__)


def _luck() -> int:
    # Thirteen digits, which pass for no code wherever the store shows them, and which Lua holds exactly.
    return _LEAST_LUCK + secrets.randbelow(8 * _LEAST_LUCK)


def _pulled(message_id: bytes, sealed: bytes, sim_number: bytes, created_at: int, expires_at: int) -> Pulled:
    return Pulled(
        message_id=message_id.decode(),
        sealed=sealed,
        sim_number=int(sim_number) if sim_number else None,
        created_at=created_at,
        expires_at=expires_at,
        is_cancelling=not sealed,
    )
