"""A guess and who judges it: the store, and where a gateway made a code of its own, that gateway.

The store counts the guess before anybody is asked, so no concurrency and no crash buys another one; and it alone
consumes the OTP, so of any number of right answers one wins. A gateway that gives no answer costs the attempt, but the
same operation may be repeated and puts the same guess to it again.
"""

from otpsvc.otp.ports import Ask, CheckCommand, CodeChecker, OtpStore, Refusal, Right, VerifyCommand, Wrong


async def judged(
    command: VerifyCommand, code: str, *, store: OtpStore, checker: CodeChecker
) -> Right | Wrong | Refusal:
    """Count and compare one guess; raises ApiError SERVICE_UNAVAILABLE where store or gateway gives no answer."""
    outcome = await store.verify(command)
    if not isinstance(outcome, Ask):
        return outcome
    return await store.check(
        CheckCommand(
            tenant=command.tenant,
            otp_id=command.otp_id,
            operation=command.operation,
            guess=command.guess,
            is_right=await checker.check(outcome, code),
        )
    )
