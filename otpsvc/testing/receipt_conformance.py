"""The part of the conformance suite about receipts: genuine ones are read, and nothing a stranger sends is believed.

All of it runs on a sender that was never opened, because that is what a process has that answers requests.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    OutboundMessage,
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    Sender,
)
from otpsvc.testing.discretion import breach, secrets_in
from otpsvc.testing.forgeries import (
    GARBAGE,
    NEVER_A_PROOF,
    emptied,
    illegible,
    misproven,
    unproven,
    with_body,
    with_other_secrets,
)
from otpsvc.testing.pulse import pulse
from otpsvc.testing.scenes import Scene, Stage, fail, must
from otpsvc.testing.shapes import misshapen

Said = Receipts | ReceiptRefusal


class _Carried(NamedTuple):
    scene: Scene
    message: OutboundMessage
    provider_id: str | None
    requests: list[ReceiptRequest]
    reader: Sender[Any]

    def is_named_in(self, said: Said) -> bool:
        """Whether this message is told anything in `said`."""
        ours = {self.message.message_id, self.provider_id} - {None}
        return isinstance(said, Receipts) and any(
            {item.message_id, item.provider_id} & ours and item.status is not ReceiptStatus.UNKNOWN
            for item in said.items
        )


class ReceiptConformance(Stage):
    """Tests of `parse_receipt`; they need `receipts_for` where the sender claims `has_receipts`."""

    def forgeries_of(self, genuine: ReceiptRequest) -> Mapping[str, ReceiptRequest]:
        """Give versions of a genuine request that must be refused; override where the proof stands in an odd place."""
        return {
            "without its proof": unproven(genuine),
            "with a proof that is wrong by one letter": misproven(genuine),
            "with an empty proof": emptied(genuine),
            "with a proof in strange letters": illegible(genuine),
        }

    async def test_a_genuine_receipt_is_read(self) -> None:
        """Each request that the author shows tells of the message, and says the same when it is repeated."""
        async with self._carried() as carried:
            for request in carried.requests:
                said = await self._read(carried, request)
                must(isinstance(said, Receipts), f"a genuine receipt was refused: {said!r}")
                must(carried.is_named_in(said), "a genuine receipt names neither our id nor the gateway's")
                must(await self._read(carried, request) == said, "a repeated receipt says something else")

    async def test_a_failure_that_no_table_knows_is_marked(self) -> None:
        """`is_unmapped`: a code that nobody knows is counted, so that somebody looks at it."""
        async with self._carried() as carried:
            request = self.odd_failure_for(carried.scene, carried.message, carried.provider_id)
            if request is None:
                return
            said = await self._read(carried, request)
            items = said.items if isinstance(said, Receipts) else ()
            must(carried.is_named_in(said), "a failure under a code that nobody knows was not read")
            failures = [item for item in items if item.status is ReceiptStatus.FAILED]
            must(bool(failures), "a failure under a code that nobody knows was not told as one")
            must(all(item.is_unmapped for item in failures), "a code that nobody knows goes uncounted: say is_unmapped")

    async def test_receipts_are_shown_where_they_are_claimed(self) -> None:
        """`has_receipts` is true only of a sender that can read one, or poll."""
        async with self._carried() as carried:
            capabilities = carried.scene.sender.capabilities
            if capabilities.has_receipts and not self.receipts_come_otherwise:
                is_polled = capabilities.polls_every_s is not None
                must(
                    bool(carried.requests) or is_polled,
                    "has_receipts is claimed; let `receipts_for` show a genuine one",
                )

    async def test_a_forged_receipt_is_refused(self) -> None:
        """What lacks its proof, or has a wrong one, is refused as a whole."""
        async with self._carried() as carried:
            for genuine in carried.requests:
                for how, forged in self.forgeries_of(genuine).items():
                    said = await self._read(carried, forged)
                    must(isinstance(said, ReceiptRefusal), f"a receipt {how} was believed")

    async def test_a_receipt_made_with_another_secret_is_refused(self) -> None:
        """The secrets of the settings decide, not the form of a proof."""
        async with self._carried() as carried:
            others = with_other_secrets(carried.scene.sender.settings)
            if others is None:
                return
            try:
                stranger = self.twin_of(carried.scene.sender, others)
            except ConfigurationError:
                return  # these secrets have a form of their own, so no other can be made up here
            for genuine in carried.requests:
                said = await self._read(carried._replace(reader=stranger), genuine)
                must(isinstance(said, ReceiptRefusal), "a receipt was believed that another secret proves")

    async def test_a_cut_receipt_is_not_believed(self) -> None:
        """Half a request tells nothing about a message."""
        async with self._carried() as carried:
            for genuine in carried.requests:
                halves = [with_body(genuine, genuine.body[: len(genuine.body) // 2])] if genuine.body else []
                for half in halves:
                    must(not carried.is_named_in(await self._read(carried, half)), "half a receipt was believed")

    async def test_a_proof_of_another_body_is_refused(self) -> None:
        """Where a proof covers the body (`receipt_with`), it proves no other one, however often it was good."""
        async with self._carried() as carried:
            other = self.message(carried.scene, 1)
            outcome = await self.send(carried.scene, other)
            provider_id = outcome.provider_id if isinstance(outcome, Accepted) else None
            foreign = self.receipts_for(carried.scene, other, provider_id)
            for genuine, another in zip(carried.requests, foreign, strict=False):
                if self._is_covered(carried.scene, genuine.body, another.body):
                    await self._read(carried, genuine)
                    said = await self._read(carried, with_body(genuine, another.body))
                    must(isinstance(said, ReceiptRefusal), "a receipt was believed by the proof of another one")

    async def test_garbage_is_refused_and_raises_nothing(self) -> None:
        """Whatever stands in the body, under a genuine proof of it or not, is answered with a refusal."""
        async with self._carried() as carried:
            for what, body in GARBAGE.items():
                requests = [with_body(genuine, body) for genuine in carried.requests if genuine.body]
                proven = self.receipt_with(carried.scene, body)
                requests += [proven] if proven is not None else []
                requests += [ReceiptRequest(method="POST", url="https://a.example/receipts/a", headers={}, body=body)]
                for request in requests:
                    said = await self._read(carried, request)
                    is_empty = isinstance(said, Receipts) and not said.items
                    must(isinstance(said, ReceiptRefusal) or (is_empty and request is proven), f"{what} was believed")

    async def test_a_receipt_never_holds_up_the_event_loop(self) -> None:
        """The process that reads receipts answers all requests: what blocks in `parse_receipt` blocks them."""
        async with self._carried() as carried:
            bare = ReceiptRequest(method="POST", url="https://a.example/receipts/a", headers={}, body=b"")
            for body in (*(genuine.body for genuine in carried.requests), *GARBAGE.values()):
                async with pulse() as felt:
                    await self._read(carried, self.receipt_with(carried.scene, body) or with_body(bare, body))
                must(not felt.is_held_up, "parse_receipt holds up the event loop")

    async def test_an_odd_request_raises_nothing(self) -> None:
        """Address, method and headers come from strangers as well."""
        async with self._carried() as carried:
            bare = ReceiptRequest(method="POST", url="https://a.example/receipts/a", headers={}, body=b"{}")
            for genuine in [*carried.requests, bare]:
                for url in (
                    "",
                    "http://[",
                    "https://a.example/receipts/a/%ff%00/",
                    "/receipts/a?sig=%C3%A9&&=&a=b&a=c",
                ):
                    odd = ReceiptRequest(method="DELETE", url=url, headers=genuine.headers, body=b"")
                    said = await self._read(carried, odd)
                    must(not carried.is_named_in(said), "a request with neither body nor query was believed")

    async def test_a_poll_tells_of_what_it_was_asked(self) -> None:
        """`poll` asks about the messages it is given, in bounded time, and about nothing if there are none."""
        async with self._carried() as carried:
            if carried.scene.sender.capabilities.polls_every_s is None:
                return
            asked = self.sent(carried.scene, carried.message, carried.provider_id)
            said = await self.within(carried.scene.sender.poll([asked]), "poll")
            _must_be_receipts(said)
            for item in said:
                is_asked = item.message_id == asked.message_id or item.provider_id == asked.provider_id
                must(is_asked, "poll told of a message that it was not asked about")
            must(not list(await self.within(carried.scene.sender.poll([]), "poll")), "poll of nothing told something")

    def _is_covered(self, scene: Scene, *bodies: bytes) -> bool:
        """Whether the author's proofs of these bodies differ, so that each covers its own."""
        proven = [self.receipt_with(scene, body) for body in bodies]
        proofs = [
            (one.url, {name: value for name, value in one.headers.items() if name not in NEVER_A_PROOF})
            for one in proven
            if one is not None
        ]
        return len(set(bodies)) == len(proofs) == len(bodies) and proofs[0] != proofs[1]

    async def _read(self, carried: _Carried, request: ReceiptRequest) -> Said:
        try:
            said = await self.within(carried.reader.parse_receipt(request), "parse_receipt")
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - that it raises at all is the finding
            fail(f"parse_receipt raised {type(error).__name__} at what a stranger may send")
        must(isinstance(said, Said), f"parse_receipt answered {type(said).__name__}")
        secrets = secrets_in(carried.scene.sender.settings)
        # The answer is for the gateway alone; what is kept and logged are the items and the refusal.
        told = said.items if isinstance(said, Receipts) else said
        given_away = breach(told, carried.message, secrets)
        must(given_away is None, f"a receipt gives away {given_away}")
        _must_be_receipts(said.items if isinstance(said, Receipts) else ())
        return said

    @asynccontextmanager
    async def _carried(self) -> AsyncIterator[_Carried]:
        """Send a message and give the receipts about it, with a sender to read them that was never opened."""
        async with self.scene() as scene:
            message = self.message(scene)
            outcome = await self.send(scene, message)
            must(isinstance(outcome, Accepted), f"the double answered a plain message with {type(outcome).__name__}")
            provider_id = outcome.provider_id if isinstance(outcome, Accepted) else None
            requests = self.receipts_for(scene, message, provider_id)
            yield _Carried(scene, message, provider_id, requests, self.twin_of(scene.sender))


def _must_be_receipts(items: Iterable[Receipt]) -> None:
    for item in items:
        must(isinstance(item, Receipt), f"a receipt is of the type {type(item).__name__}")
        fault = misshapen(item)
        must(fault is None, f"a receipt's {fault}")
        is_failure = item.status is ReceiptStatus.FAILED
        must(is_failure or not item.is_unmapped, "is_unmapped is said of a receipt that tells no failure")
