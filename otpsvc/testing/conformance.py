"""The conformance suite: what every sender must keep to, tried out against a double of its gateway.

Subclass `SenderConformance` in a file of tests, give it a `scene` and `accepted_texts`, and pytest (with pytest-asyncio
in its mode `auto`) runs it. It looks for the lies that cost money or lose a code: a message sent twice, one called sent
that was not, one called not sent that was. docs/senders.md shows it in use.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    CheckOutcome,
    Health,
    OutboundMessage,
    Outcome,
    Rejected,
    RetryLater,
    Sender,
    Unknown,
)
from otpsvc.testing.discretion import breach, secrets_in
from otpsvc.testing.forgeries import with_other_secrets
from otpsvc.testing.pulse import pulse
from otpsvc.testing.receipt_conformance import ReceiptConformance
from otpsvc.testing.scenes import Fault, Scene, fail, must
from otpsvc.testing.told_lives import told_lives

__all__ = ("Fault", "Scene", "SenderConformance")

_AT_ONCE = 20
_ASKED_PAUSE_S = 7  # what the double's Retry-After says
_LOOKS, _LOOK_EVERY_S = 400, 0.005
_QUIET_S = 0.4
_ANSWERED_AT_ONCE = frozenset({Fault.HTML_500, Fault.TOO_MANY, Fault.NOT_JSON, Fault.REFUSE})
_LONGEST = 300  # more than three parts help nobody to find a fault
_TEXTS = (
    "583920 ist Ihr Code. N\u00e9 \u201cuno\u201d n\u00e9 'due' & 100 % + 1 = 1?",
    "\u0412\u0430\u0448 \u043a\u043e\u0434: 583920",
    '583920 <b>&amp;</b> {"code": 1} \\ $HOME %s',
)


class SenderConformance(ReceiptConformance):
    """The suite. Hooks are in `Stage`: `scene` and `accepted_texts` must be given, the rest may be."""

    async def test_what_it_claims_can_be_read(self) -> None:
        """Capabilities are of the right kind and hang together."""
        async with self.scene() as scene:
            able = scene.sender.capabilities
            must(isinstance(able, Capabilities), "`capabilities` is no Capabilities")
            must(bool(able.channels), "a sender needs at least one channel")
            spans = (able.longest_text, able.max_lifetime_s, able.receipt_within_s, able.polls_every_s)
            must(all(span is None or span > 0 for span in spans), "a length or a time must be above zero, or None")
            must(able.has_receipts or able.receipt_within_s is None, "receipt_within_s needs has_receipts")

    async def test_a_message_arrives_once_with_its_number_and_text(self) -> None:
        """The plain good case, and one after it on the same connection."""
        async with self.scene() as scene:
            for number in (1, 2):
                message = self.message(scene, number)
                n_before = len(scene.gateway.written)
                outcome = await self.send(scene, message)
                must(isinstance(outcome, Accepted), f"a plain message was answered with {type(outcome).__name__}")
                must(not _is_of_another(outcome, scene, n_before), "the provider id is that of another message")
                texts = await self.accepted_texts(scene)
                must(len(texts) == number, f"the double took {len(texts)} messages, not {number}")
                is_whole = scene.sender.capabilities.owns_code or texts[-1] == message.text
                must(is_whole, "another text arrived than was given")
                must(self.carries_number(scene, message), "the number is in no request (see `carries_number`)")

    async def test_every_letter_arrives_or_the_text_is_refused(self) -> None:
        """Accents, other scripts, quotes, signs: whole, or honestly rejected; also as long as is claimed."""
        async with self.scene() as scene:
            able = scene.sender.capabilities
            if able.owns_code:
                return
            longest = "583920 " + "x" * (min(able.longest_text or _LONGEST, _LONGEST) - 7)
            for number, text in enumerate((*_TEXTS, longest)):
                fitting = text[: able.longest_text]
                n_before = len(await self.accepted_texts(scene))
                outcome = await self.send(scene, self.message(scene, number, text=fitting))
                new = (await self.accepted_texts(scene))[n_before:]
                must(
                    not isinstance(outcome, Unknown | RetryLater), f"{type(outcome).__name__} for a text on a good day"
                )
                must(new == ([fitting] if isinstance(outcome, Accepted) else []), "a text arrived changed, or in vain")

    async def test_many_at_once_all_arrive_once(self) -> None:
        """Messages under way together do not mix, and none is lost or doubled."""
        async with self.scene() as scene:
            messages = [self.message(scene, number) for number in range(_AT_ONCE)]
            outcomes = await asyncio.gather(*(self.send(scene, message) for message in messages))
            must(all(isinstance(outcome, Accepted) for outcome in outcomes), "not all of twenty at once were accepted")
            texts = await self.accepted_texts(scene)
            is_whole = scene.sender.capabilities.owns_code or sorted(texts) == sorted(m.text for m in messages)
            must(len(texts) == _AT_ONCE and is_whole, "twenty at once did not arrive once each")
            ids = [outcome.provider_id for outcome in outcomes if isinstance(outcome, Accepted) and outcome.provider_id]
            must(len(set(ids)) == len(ids), "two messages were given the same provider id")

    async def test_the_event_loop_is_never_held_up(self) -> None:
        """Twenty calls at once leave the loop free, and so does a gateway in trouble: one that blocks blocks all."""
        async with self.scene() as scene:
            async with pulse() as felt:
                messages = [self.message(scene, number) for number in range(_AT_ONCE)]
                await asyncio.gather(*(self.send(scene, message) for message in messages))
            must(not felt.is_held_up, "send holds up the event loop: await, or use a thread")
            for fault in (one for one in self.faults if one in _ANSWERED_AT_ONCE):
                scene.gateway.misbehave(fault)
                async with pulse() as felt:
                    await self.send(scene, self.message(scene))
                must(not felt.is_held_up, f"{fault.name}: send holds up the event loop: a pause is the dispatcher's")
                await scene.gateway.restore()

    async def test_the_same_message_twice_is_one_where_that_is_claimed(self) -> None:
        """`is_idempotent`: after an answer, and after one that never came."""
        async with self.scene() as scene:
            if not scene.sender.capabilities.is_idempotent:
                return
            taken = [fault for fault in (Fault.HTML_500_AFTER, Fault.CLOSE_MID_BODY) if fault in self.faults]
            for number, fault in enumerate((None, *taken)):
                message = self.message(scene, number)
                if fault is not None:
                    scene.gateway.misbehave(fault)
                await self.send(scene, message)
                again = await self.send(scene, message)
                must(isinstance(again, Accepted), f"the same message again was answered with {type(again).__name__}")
                n_taken = len(await self.accepted_texts(scene))
                must(n_taken == number + 1, "is_idempotent is claimed, but the same message went out twice")

    async def test_the_gateway_is_told_when_the_code_ends_where_that_is_claimed(self) -> None:
        """`honours_expiry`: some field follows the life of the code, and never goes beyond it."""
        async with self.scene() as scene:
            if not scene.sender.capabilities.honours_expiry:
                return
            told = []
            for number, life_s in enumerate((300.0, 90.9)):
                n_before = len(scene.gateway.requests)
                message = self.message(scene, number, life_s=life_s)
                await self.send(scene, message)
                told.append(self.told_fields(scene, message, n_before))
            must(bool(told[0] & told[1]), "honours_expiry is claimed, but no field says an end within the code's life")

    def told_fields(self, scene: Scene, message: OutboundMessage, n_before: int) -> set[str]:
        """Name the fields of the requests after the first `n_before` that say a life up to that of the message.

        Override where the gateway is told in a form that is neither a number nor a date in JSON, form, query or header.
        """
        return {f"{told.field} in {told.unit}" for told in told_lives(scene.gateway.requests[n_before:], message)}

    async def test_a_bad_day_is_told_truly(self) -> None:
        """Each fault of the gateway: answered in time, and never with a word that loses or doubles a message."""

        async def live_through(fault: Fault, scene: Scene) -> None:
            outcome = await self.send(scene, self.message(scene))
            n_taken = len(await self.accepted_texts(scene))
            must(n_taken <= 1, f"{fault.name}: one call sent the message {n_taken} times")
            _judge(fault, outcome, is_taken=n_taken == 1)
            must(scene.gateway.n_strayed == 0, f"{fault.name}: a redirect was followed")
            await self._works_again(scene, f"after {fault.name}")
            # A message that is kept for later inside a sender is one that the dispatcher gives to another meanwhile.
            n_taken = len(await self.accepted_texts(scene))
            await asyncio.sleep(_QUIET_S)
            n_later = len(await self.accepted_texts(scene))
            must(n_later == n_taken, f"{fault.name}: something was sent although nobody asked for it any more")

        await self._at_each_fault(live_through)

    async def test_nothing_is_repeated_inside_one_call(self) -> None:
        """A call makes no more requests on a bad day than on a good one: repeating is the dispatcher's work."""
        async with self.scene() as scene:
            await self.send(scene, self.message(scene))
            n_good = len(scene.gateway.requests)

        async def count(fault: Fault, scene: Scene) -> None:
            n_before = len(scene.gateway.requests)
            await self.send(scene, self.message(scene))
            n_made = len(scene.gateway.requests) - n_before
            must(n_made <= n_good, f"{fault.name}: one call made {n_made} requests, on a good day {n_good}")

        await self._at_each_fault(count)

    async def test_a_refusal_is_told_as_one(self) -> None:
        """What the gateway refuses in its own words was not sent."""
        async with self.scene() as scene:
            if not await self.refuse_next(scene):
                return
            outcome = await self.send(scene, self.message(scene))
            must(not await self.accepted_texts(scene), "the double took what it was told to refuse")
            is_told = isinstance(outcome, Rejected | RetryLater)
            must(is_told, f"a refusal in the gateway's own words was told as {type(outcome).__name__}")

    async def test_a_cancelled_call_ends_and_leaves_the_sender_whole(self) -> None:
        """The step time-out cancels `send`: it must end then, and the next message must go out."""
        if Fault.HANG not in self.faults:
            return
        async with self.scene() as scene:
            n_before = len(scene.gateway.requests)
            scene.gateway.misbehave(Fault.HANG)
            task = asyncio.ensure_future(scene.sender.send(self.message(scene)))
            for _ in range(_LOOKS):
                if len(scene.gateway.requests) > n_before or task.done():
                    break
                await asyncio.sleep(_LOOK_EVERY_S)
            task.cancel()
            await asyncio.wait({task}, timeout=self.patience_s)
            must(task.done(), "a cancelled send goes on")
            must(task.cancelled(), "a cancelled send must end as cancelled: let CancelledError pass")
            await self._works_again(scene, "after a cancelled call")

    async def test_secrets_do_not_print(self) -> None:
        """Neither the sender nor its settings show a secret, however they are printed."""
        async with self.scene() as scene:
            sender = scene.sender
            for what, said in (("the sender", sender), ("its settings", sender.settings)):
                must(breach(said, None, secrets_in(sender.settings)) is None, f"{what} shows a secret when printed")

    async def test_its_settings_stay_as_they_were_given(self) -> None:
        """They are shared and shown elsewhere: what a sender learns it keeps in itself."""
        async with self.scene() as scene:
            settings = scene.sender.settings
            must(type(settings).__struct_config__.frozen, "Settings must be a frozen struct: frozen=True")
            given = (repr(msgspec.structs.asdict(settings)), secrets_in(settings))
            await self.send(scene, self.message(scene))
            await self.within(scene.sender.health(), "health")
            kept = (repr(msgspec.structs.asdict(scene.sender.settings)), secrets_in(scene.sender.settings))
            must(scene.sender.settings is settings and kept == given, "its settings changed while it worked")

    async def test_two_of_a_kind_live_side_by_side(self) -> None:
        """Two tables of one type are two senders: neither uses, replaces or closes what belongs to the other."""
        async with self.scene() as scene:
            async with self._opened_stranger_to(scene.sender) as twin:
                await self.send(scene._replace(sender=twin), self.message(scene, 1))
                await self._works_again(scene, "beside another sender of its type")
            await self._works_again(scene, "after another sender of its type was closed")

    async def test_it_leaves_nothing_behind(self) -> None:
        """After `close` there is neither a connection nor a task of it."""
        async with self.scene() as scene:
            await self.send(scene, self.message(scene))  # whatever is made at the first use of the scene is there then
            n_before, tasks_before = scene.gateway.n_connected, asyncio.all_tasks()
            twin = self.twin_of(scene.sender)
            try:
                await self.within(twin.open(), "open")
                await self.send(scene._replace(sender=twin), self.message(scene, 1))
                await self.within(twin.health(), "health")
            finally:
                await self.within(twin.close(), "close")
            for _ in range(_LOOKS):
                if scene.gateway.n_connected <= n_before and asyncio.all_tasks() <= tasks_before:
                    return
                await asyncio.sleep(_LOOK_EVERY_S)
            must(scene.gateway.n_connected <= n_before, "a connection to the gateway is open after close")
            fail("a task goes on after close")

    async def test_it_closes_twice_and_without_having_opened(self) -> None:
        """`close` comes after a failed `open`, and may come again."""
        async with self.scene() as scene:
            await self.within(self.twin_of(scene.sender).close(), "close without open")
            await self.within(scene.sender.close(), "close")
            await self.within(scene.sender.close(), "close again")

    async def test_it_opens_while_its_gateway_is_down(self) -> None:
        """The house starts without a gateway: `open` raises nothing, and `health` tells in bounded time."""
        async with self.scene() as scene:
            down = [fault for fault in (Fault.REFUSE, Fault.HANG) if fault in self.faults]
            for fault in (None, *down):
                if fault is not None:
                    scene.gateway.misbehave(fault)
                twin = self.twin_of(scene.sender)
                try:
                    await self.within(twin.open(), "open")
                    health = await self.within(twin.health(), "health")
                    must(isinstance(health, Health), f"health answered {type(health).__name__}")
                    must(breach(health, None, secrets_in(twin.settings)) is None, "health gives away a secret")
                finally:
                    await self.within(twin.close(), "close")
                await scene.gateway.restore()

    async def test_cancel_and_check_answer_in_time(self) -> None:
        """`cancel` promises nothing it cannot keep; a guess is never right without the gateway's word."""
        async with self.scene() as scene:
            able, message = scene.sender.capabilities, self.message(scene)
            outcome = await self.send(scene, message)
            sent = self.sent(scene, message, outcome.provider_id if isinstance(outcome, Accepted) else None)
            is_cancelled = await self.within(scene.sender.cancel(sent), "cancel")
            must(able.can_cancel or is_cancelled is False, "cancel promises something although can_cancel is False")
            unheard = [one for one in self.faults if able.can_cancel and not one.is_processed]
            for number, fault in enumerate(unheard, start=1):
                # A new one each time: of the first a sender may remember truly that it was taken back.
                other = self.message(scene, number)
                outcome = await self.send(scene, other)
                scene.gateway.misbehave(fault)
                provider_id = outcome.provider_id if isinstance(outcome, Accepted) else None
                is_cancelled = await self.within(scene.sender.cancel(self.sent(scene, other, provider_id)), "cancel")
                must(is_cancelled is False, f"{fault.name}: cancel promises what the gateway never heard of")
                await scene.gateway.restore()
            for fault in self.faults if able.owns_code else ():
                scene.gateway.misbehave(fault)
                said = await self.within(scene.sender.check(sent, "000000"), "check")
                must(said is not CheckOutcome.RIGHT, f"{fault.name}: a guess was called right without an answer")
                await scene.gateway.restore()

    async def _at_each_fault(self, look: Callable[[Fault, Scene], Awaitable[None]]) -> None:
        """Look at every fault on a scene of its own, all at once: most of the time is spent waiting for nothing."""

        async def meet(fault: Fault) -> None:
            async with self.scene() as scene:
                scene.gateway.misbehave(fault)
                await look(fault, scene)

        ends = await asyncio.gather(*map(meet, self.faults), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    @asynccontextmanager
    async def _opened_stranger_to(self, sender: Sender[Any]) -> AsyncIterator[Sender[Any]]:
        """Open a sender of the same type, with other secrets if any can be made up and `open` does not refuse them."""
        try:
            twin = self.twin_of(sender, with_other_secrets(sender.settings))
        except ConfigurationError:
            twin = self.twin_of(sender)
        try:
            await self.within(twin.open(), "open")
        except ConfigurationError:
            await self.within(twin.close(), "close")
            twin = self.twin_of(sender)
            await self.within(twin.open(), "open")
        try:
            yield twin
        finally:
            await self.within(twin.close(), "close")

    async def _works_again(self, scene: Scene, when: str) -> None:
        await scene.gateway.restore()
        n_before = len(await self.accepted_texts(scene))
        outcome = await self.send(scene, self.message(scene, 3))
        must(isinstance(outcome, Accepted), f"{when} the next message was answered with {type(outcome).__name__}")
        must(len(await self.accepted_texts(scene)) == n_before + 1, f"{when} the next message did not arrive once")


def _judge(fault: Fault, outcome: Outcome, *, is_taken: bool) -> None:
    word = type(outcome).__name__
    if is_taken:
        must(isinstance(outcome, Accepted | Unknown), f"{fault.name}: {word} for a message that was taken doubles it")
    else:
        must(not isinstance(outcome, Accepted), f"{fault.name}: Accepted for a message that was not taken loses it")
    if fault is Fault.REFUSE:
        must(not isinstance(outcome, Unknown), "REFUSE: nothing left, so say RetryLater or Rejected, not Unknown")
        must(
            not isinstance(outcome, RetryLater) or outcome.is_fault,
            "REFUSE: a gateway that is away is a fault: say is_fault=True, or its breaker never opens",
        )
    if isinstance(outcome, RetryLater):
        is_heard = fault is not Fault.TOO_MANY or outcome.after_s >= _ASKED_PAUSE_S
        must(is_heard, "TOO_MANY: the pause that the gateway asked for (Retry-After) is cut short")


def _is_of_another(outcome: Outcome, scene: Scene, n_before: int) -> bool:
    """Whether an id stands in the answers to earlier messages alone; a sender may also make one of its own."""
    if not isinstance(outcome, Accepted) or outcome.provider_id is None:
        return False
    earlier, own = (b"".join(part) for part in (scene.gateway.written[:n_before], scene.gateway.written[n_before:]))
    provider_id = outcome.provider_id.encode()
    return provider_id in earlier and provider_id not in own
