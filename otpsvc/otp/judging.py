"""A guess and who judges it: the store, and where a gateway made a code of its own, that gateway.

The store counts the guess before anybody is asked, so no concurrency and no crash buys another one; and it alone
consumes the OTP, so of any number of right answers one wins. A gateway that gives no answer costs the attempt, but the
same operation may be repeated: it puts the same guess to it again, a few times, as the store allows.
"""

import asyncio

from otpsvc.otp.ports import Ask, CheckCommand, CodeChecker, OtpStore, Refusal, Right, VerifyCommand, Wrong

Judgement = Right | Wrong | Refusal

# The event loop itself holds tasks by a thread only.
_under_way: set[asyncio.Task[Judgement]] = set()


async def judged(command: VerifyCommand, code: str, *, store: OtpStore, checker: CodeChecker) -> Judgement:
    """Count and compare one guess; raises ApiError SERVICE_UNAVAILABLE where store or gateway gives no answer.

    Cancelled while the gateway is asked, it leaves that to go on: a gateway may say only once that a guess was right,
    and whoever hung up may ask us again.
    """
    outcome = await store.verify(command)
    if not isinstance(outcome, Ask):
        return outcome
    answer = asyncio.create_task(_answered(command, outcome, code, store, checker))
    _under_way.add(answer)
    answer.add_done_callback(_let_go)
    return await asyncio.shield(answer)


async def _answered(command: VerifyCommand, ask: Ask, code: str, store: OtpStore, checker: CodeChecker) -> Judgement:
    return await store.check(
        CheckCommand(
            tenant=command.tenant,
            otp_id=command.otp_id,
            operation=command.operation,
            guess=command.guess,
            is_right=await checker.check(ask, code),
        )
    )


def _let_go(answer: asyncio.Task[Judgement]) -> None:
    _under_way.discard(answer)
    if not answer.cancelled():
        # Nobody may wait for it any more, and then its fault is nobody's.
        answer.exception()
