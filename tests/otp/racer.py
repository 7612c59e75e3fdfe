"""A process that races others on one store: `python racer.py <redis url>`.

A plan is `{"calls": [[call, client, {arguments}], …]}`, all made at once; the answer is what each of them got.
"""

import asyncio
import sys
from typing import Any

from otpsvc.errors import ApiError
from otpsvc.otp.model import OtpView, SentOtp, VerifiedOtp, WrongGuess
from tests.otp.house import House, open_house
from tests.redis.racing import be_racer


async def outcome(house: House, call: str, client: str, arguments: dict[str, Any]) -> list[Any]:
    """Make one call; give its outcome as a list whose first element is its kind."""
    try:
        if call == "claim":
            batch = await house.queue.claim(**arguments)
            return ["claimed", [message.message_id for message in batch.messages]]
        answer: Any = await getattr(house, call)(caller=house.caller(client), **arguments)
    except ApiError as error:
        return ["refused", error.code]
    match answer:
        case VerifiedOtp():
            return ["right", answer.otp_id]
        case WrongGuess():
            return ["wrong", answer.attempts_remaining]
        case SentOtp():
            return ["sent", answer.otp_id]
        case OtpView():
            return [answer.status, answer.otp_id]
    raise TypeError(type(answer))


async def main(url: str) -> None:
    async with open_house(url) as house:

        async def race(plan: dict[str, Any]) -> list[list[Any]]:
            return await asyncio.gather(*(outcome(house, *call) for call in plan["calls"]))

        await house.raw.ping()
        await be_racer(race)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
