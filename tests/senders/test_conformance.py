"""The conformance suite passes for an honest sender; each way of being wrong fails the methods that are named here."""

import asyncio
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import OutboundMessage, ReceiptRequest, Secret, SenderContext, SentMessage
from otpsvc.senders.http_client import NoAnswer, NotSent
from otpsvc.skeleton import render
from otpsvc.testing import Fault, Scene, SenderConformance, sender_context
from tests.senders import mutants, mutants_of_manners, mutants_of_receipts
from tests.senders.sample.otpsvc_sample.sender import SampleSender, SampleSettings
from tests.senders.sample.tests.gateway import RECEIPT_SECRET, TOKEN, SampleGateway, receipt, signed

Settings = Callable[[SampleSettings], SampleSettings]
SAMPLE = Path(__file__).parent / "sample"


class TestHonest(SenderConformance):
    """The sample sender; the mutants take its place one after the other."""

    kind: type[SampleSender] = SampleSender

    def change(self, settings: SampleSettings) -> SampleSettings:
        return settings

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with SampleGateway() as gateway:
            settings = SampleSettings(
                base_url=gateway.url,
                token=Secret(TOKEN),
                receipt_secret=Secret(RECEIPT_SECRET),
                timeout_s=1,
                allow_private=True,
            )
            sender = self.kind("sample", self.change(settings), sender_context())
            await sender.open()
            try:
                yield Scene(sender, gateway)
            finally:
                await SampleSender.close(sender)  # not the mutant's own way, which may be what is wrong

    async def accepted_texts(self, scene: Scene) -> list[str]:
        return [str(message["text"]) for message in gateway_of(scene).taken.values()]

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        return [receipt(message.message_id, provider_id or "", "sent", at=scene.sender.context.clock.time())]

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest:
        return signed(body, at=scene.sender.context.clock.time())

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        at = scene.sender.context.clock.time()
        return receipt(message.message_id, provider_id or "", "failed", at=at, error="never-heard-of")

    async def refuse_next(self, scene: Scene) -> bool:
        gateway_of(scene).refuse_with.append("bad_number")
        return True


def gateway_of(scene: Scene) -> SampleGateway:
    assert isinstance(scene.gateway, SampleGateway)
    return scene.gateway


ARRIVES = "test_a_message_arrives_once_with_its_number_and_text"
LETTERS = "test_every_letter_arrives_or_the_text_is_refused"
MANY = "test_many_at_once_all_arrive_once"
LOOP = "test_the_event_loop_is_never_held_up"
TWICE = "test_the_same_message_twice_is_one_where_that_is_claimed"
END = "test_the_gateway_is_told_when_the_code_ends_where_that_is_claimed"
BAD_DAY = "test_a_bad_day_is_told_truly"
REPEATS = "test_nothing_is_repeated_inside_one_call"
REFUSAL = "test_a_refusal_is_told_as_one"
CANCELLED = "test_a_cancelled_call_ends_and_leaves_the_sender_whole"
PRINTS = "test_secrets_do_not_print"
CLOSES = "test_it_closes_twice_and_without_having_opened"
OPENS = "test_it_opens_while_its_gateway_is_down"
CANCEL = "test_cancel_and_check_answer_in_time"
CLAIMS = "test_what_it_claims_can_be_read"
GENUINE = "test_a_genuine_receipt_is_read"
FORGED = "test_a_forged_receipt_is_refused"
OTHER_SECRET = "test_a_receipt_made_with_another_secret_is_refused"
GARBAGE = "test_garbage_is_refused_and_raises_nothing"
ODD = "test_an_odd_request_raises_nothing"
POLL = "test_a_poll_tells_of_what_it_was_asked"
LEFT = "test_it_leaves_nothing_behind"
BESIDE = "test_two_of_a_kind_live_side_by_side"
SETTINGS = "test_its_settings_stay_as_they_were_given"
OTHER_BODY = "test_a_proof_of_another_body_is_refused"
ODD_FAILURE = "test_a_failure_that_no_table_knows_is_marked"
READING = "test_a_receipt_never_holds_up_the_event_loop"

# What each must fail, and the words it must be told by, so that nothing fails for another reason.
MUST_FAIL: dict[type[SampleSender], dict[str, str]] = {
    mutants.CallsEverythingAccepted: {
        BAD_DAY: "Accepted for a message that was not taken",
        REFUSAL: "told as Accepted",
    },
    mutants.CallsAnyAnswerAccepted: {BAD_DAY: "Accepted for a message that was not taken", REFUSAL: "told as Accepted"},
    mutants.RejectsAfterAHang: {BAD_DAY: "HANG: Rejected for a message that was taken"},
    mutants.WantsToTryAgainWhatWasTaken: {BAD_DAY: "HTML_500_AFTER: RetryLater for a message that was taken"},
    mutants.CallsARefusedConnectionUnknown: {BAD_DAY: "REFUSE: nothing left"},
    mutants.CutsThePauseShort: {BAD_DAY: "is cut short"},
    mutants.AcceptsBeforeItSends: {ARRIVES: "took 0 messages", BAD_DAY: "Accepted for a message that was not taken"},
    mutants.ForgetsTheFault: {BAD_DAY: "say is_fault=True"},
    mutants.GivesTheIdOfTheOneBefore: {ARRIVES: "that of another message"},
    mutants.GivesANumberForAnId: {ARRIVES: "`provider_id` is of the type int"},
    mutants.GivesAWordForAKind: {REFUSAL: "`kind` is of the type str, not RejectionKind"},
    mutants.AsksToBeAskedNever: {BAD_DAY: "a time above zero"},
    mutants.AnswersNothing: {ARRIVES: "no outcome"},
    mutants.HangsForEver: {BAD_DAY: "did not end within"},
    mutants.IgnoresCancellation: {CANCELLED: "goes on"},
    mutants.SwallowsCancellation: {CANCELLED: "must end as cancelled"},
    mutants.DiesOfACancelledCall: {CANCELLED: "after a cancelled call the next message"},
    mutants.Throws: {BAD_DAY: "time-out"},
    mutants.BlocksTheLoop: {LOOP: "holds up the event loop"},
    mutants.BlocksOnABadDay: {LOOP: "a pause is the dispatcher's"},
    mutants.SendsTwice: {ARRIVES: "took 2 messages", MANY: "once each"},
    mutants.RepeatsInside: {REPEATS: "made 2 requests"},
    mutants.RepeatsUnderAnotherName: {BAD_DAY: "sent the message 2 times", REPEATS: "made 2 requests"},
    mutants.RepeatsAWhileLater: {BAD_DAY: "nobody asked for it any more|did not arrive once"},
    mutants.KeepsForBetterDays: {BAD_DAY: "the next message did not arrive once"},
    mutants.FollowsRedirects: {BAD_DAY: "a redirect was followed"},
    mutants.MixesMessages: {MANY: "once each"},
    mutants.CutsTheText: {LETTERS: "arrived changed"},
    mutants.KnowsAsciiOnly: {LETTERS: "arrived changed"},
    mutants.SendsToOneNumber: {ARRIVES: "the number is in no request"},
    mutants.IsNotIdempotent: {TWICE: "went out twice"},
    mutants.TellsNoEnd: {END: "no field says an end"},
    mutants.TellsAlwaysTheSameEnd: {END: "no field says an end"},
    mutants.TellsAnEndTooLate: {END: "no field says an end"},
    mutants.ClaimsReceiptsWithoutAny: {GENUINE: "a genuine receipt was refused"},
    mutants.PromisesToCancel: {CANCEL: "cancel promises"},
    mutants.CancelsInTheDark: {CANCEL: "the gateway never heard of"},
    mutants.PollsWithWords: {POLL: "`status` is of the type str, not ReceiptStatus"},
    mutants.PollsAtRandom: {POLL: "not asked about"},
    mutants.WaitsForReceiptsItHasNot: {CLAIMS: "needs has_receipts"},
    mutants_of_manners.SaysTheText: {ARRIVES: "the outcome gives away the text"},
    mutants_of_manners.SaysTheNumber: {ARRIVES: "the outcome gives away the number"},
    mutants_of_manners.SaysTheCode: {ARRIVES: "the outcome gives away the text or its code"},
    mutants_of_manners.SaysTheToken: {ARRIVES: "the outcome gives away a secret"},
    mutants_of_manners.LogsTheRequest: {ARRIVES: "a log line gives away"},
    mutants_of_manners.PrintsTheText: {ARRIVES: "what it printed gives away the text"},
    mutants_of_manners.LogsPastTheRoot: {ARRIVES: "a log line gives away the number"},
    mutants_of_manners.LogsTheTextBesides: {ARRIVES: "a log line gives away"},
    mutants_of_manners.PrintsItsToken: {PRINTS: "the sender shows a secret"},
    mutants_of_receipts.BelievesEveryone: {
        FORGED: "without its proof was believed",
        OTHER_SECRET: "another secret proves",
    },
    mutants_of_receipts.BelievesWhoShowsAnyProof: {
        FORGED: "wrong by one letter was believed",
        OTHER_SECRET: "another secret proves",
    },
    mutants_of_receipts.BelievesAnEmptyProof: {FORGED: "an empty proof was believed"},
    mutants_of_receipts.HasOneSecretForAll: {OTHER_SECRET: "another secret proves"},
    mutants_of_receipts.BreaksAtGarbage: {GARBAGE: "raised JSONDecodeError"},
    mutants_of_receipts.BreaksAtStrangeLetters: {FORGED: "raised TypeError"},
    mutants_of_receipts.BreaksAtOddAddresses: {ODD: "raised IndexError"},
    mutants_of_receipts.NeedsToBeOpenToRead: {GENUINE: "raised RuntimeError"},
    mutants_of_receipts.BelievesAProofItKnows: {OTHER_BODY: "by the proof of another one"},
    mutants_of_receipts.SaysAWordForAStatus: {GENUINE: "`status` is of the type str, not ReceiptStatus"},
    mutants_of_receipts.SaysANumberForAnId: {GENUINE: "`provider_id` is of the type int"},
    mutants_of_receipts.CountsNoOddFailure: {ODD_FAILURE: "goes uncounted"},
    mutants_of_receipts.CallsEverythingOdd: {GENUINE: "tells no failure"},
    mutants_of_receipts.ReadsAtLeisure: {READING: "parse_receipt holds up the event loop"},
    mutants_of_manners.LeavesItsConnections: {LEFT: "a connection to the gateway is open after close"},
    mutants_of_manners.LeavesATask: {LEFT: "a task goes on after close"},
    mutants_of_manners.HasOneClientForAll: {BESIDE: "was closed"},
    mutants_of_manners.HasOneTokenForAll: {BESIDE: "beside another sender of its type"},
    mutants_of_manners.LearnsIntoItsSettings: {SETTINGS: "its settings changed"},
    mutants_of_manners.NeedsItsGatewayToOpen: {OPENS: "connection or TLS refused"},
    mutants_of_manners.ClosesOnce: {CLOSES: "closed already"},
    mutants_of_manners.ClosesOnlyWhatIsOpen: {CLOSES: "never opened"},
    mutants_of_manners.HasNoHealth: {OPENS: "connection or TLS refused"},
}


class OnStage(TestHonest):
    """The suite for one mutant, with less patience; pytest does not collect it by this name."""

    patience_s = 2.5

    def __init__(self, kind: type[SampleSender], change: Settings | None = None) -> None:
        self.kind = kind
        self.change = change or super().change  # type: ignore[assignment,method-assign]  # one for this stage alone

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with super().scene() as scene:
            try:
                yield scene
            finally:
                while mutants_of_manners.left_open:
                    await mutants_of_manners.left_open.pop().aclose()


class ProvesItselfAtOpen(SampleSender):
    """Honest: credentials that are refused are settings that cannot work."""

    async def open(self) -> None:
        await super().open()
        if (await self.health()).detail == "status 401":
            raise ConfigurationError("senders.sample.token is refused")


class RemembersWhatItTookBack(SampleSender):
    """Honest: what was taken back once stays so, whether its gateway is there or not."""

    capabilities = mutants.able(can_cancel=True)

    def __init__(self, name: str, settings: SampleSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self.gone: set[str] = set()

    async def cancel(self, message: SentMessage) -> bool:
        if message.message_id not in self.gone:
            bearer = self.settings.token.reveal()
            try:
                # The double has no call to cancel; this one stands for it.
                answer = await self._client.request("GET", f"{self._base}/account", bearer=bearer)
            except (NotSent, NoAnswer):
                return False
            if not answer.is_success or not isinstance(answer.json(), dict):
                return False
            self.gone.add(message.message_id)
        return True


class OnStagePatiently(OnStage):
    """For many at once, which hold each other up."""

    patience_s = TestHonest.patience_s


@pytest.mark.parametrize("kind", MUST_FAIL, ids=lambda kind: kind.__name__)
async def test_every_mutant_is_found(kind: type[SampleSender]) -> None:
    for method, words in MUST_FAIL[kind].items():
        with pytest.raises(Exception, match=words):
            await getattr(OnStage(kind), method)()


@pytest.mark.parametrize(("kind", "method"), [(ProvesItselfAtOpen, BESIDE), (RemembersWhatItTookBack, CANCEL)])
async def test_an_honest_sender_of_another_make_passes(kind: type[SampleSender], method: str) -> None:
    await getattr(OnStagePatiently(kind), method)()


async def test_a_proof_that_covers_no_body_is_none_of_another_body() -> None:
    """A length differs with the body and proves nothing."""

    class TakesATokenAlone(OnStage):
        def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest:
            return ReceiptRequest(
                method="POST",
                url="https://otp.example/receipts/sample/0123456789abcdef",
                headers={"content-length": str(len(body))},
                body=body,
            )

    stage = TakesATokenAlone(SampleSender)
    async with stage.scene() as scene:
        assert not stage._is_covered(scene, b"a", b"ab")
        assert OnStage(SampleSender)._is_covered(scene, b"a", b"ab")


async def test_settings_that_print_are_found() -> None:
    with pytest.raises(AssertionError, match="settings shows a secret"):
        await OnStage(SampleSender, mutants_of_manners.settings_that_print).test_secrets_do_not_print()


async def test_the_same_sender_passes_where_the_mutant_fails() -> None:
    """What makes the test above mean something: with nothing wrong, the very same calls pass."""
    methods = sorted({method for named in MUST_FAIL.values() for method in named})
    quick = [method for method in methods if method not in {BAD_DAY, REPEATS, OPENS, LOOP, READING, LEFT}]
    await asyncio.gather(*(getattr(OnStagePatiently(mutants.Mutant), method)() for method in quick))


def test_every_method_of_the_suite_is_failed_by_some_mutant() -> None:
    methods = {name for name, _ in inspect.getmembers(SenderConformance) if name.startswith("test_")}
    named = {method for methods in MUST_FAIL.values() for method in methods}
    never_alone = {"test_receipts_are_shown_where_they_are_claimed", "test_a_cut_receipt_is_not_believed"}
    assert methods - named == never_alone


def test_every_mutant_is_tried() -> None:
    classes = [
        one
        for module in (mutants, mutants_of_manners, mutants_of_receipts)
        for _, one in inspect.getmembers(module, inspect.isclass)
    ]
    made = {one for one in classes if issubclass(one, mutants.Mutant)}
    assert made - {mutants.Mutant} == set(MUST_FAIL)


def test_every_fault_is_met_by_default() -> None:
    assert set(SenderConformance.faults) == set(Fault)


def test_the_sample_is_what_the_command_writes() -> None:
    """So the templates are read by the linter and the type checker in the form that people get."""
    for place, text in render("sample").items():
        if place != "tests/test_sender.py":
            assert (SAMPLE / place).read_text("utf-8") == text, place


async def test_listening_leaves_the_log_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.level, logging.getLogRecordFactory(), sys.stdout, sys.stderr)
    async with OnStage(SampleSender).scene() as scene:
        stage = OnStage(SampleSender)
        await asyncio.gather(*(stage.send(scene, stage.message(scene, number)) for number in range(5)))
    assert (root.level, logging.getLogRecordFactory(), sys.stdout, sys.stderr) == before
