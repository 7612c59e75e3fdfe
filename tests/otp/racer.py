"""A process that races others on one store: `python racer.py <redis url>`.

Reads one JSON line per race, `{"start_at": seconds since 1970, "calls": [[call, client, {arguments}], …]}`, makes all
its calls at once when the time has come, and writes one JSON line: what each of them got.
"""

import asyncio
import json
import sys
import time
from typing import Any

from otpsvc.errors import ApiError
from otpsvc.otp.model import OtpView, SentOtp, VerifiedOtp, WrongGuess
from tests.otp.house import House, open_house


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


async def race(url: str) -> None:
    async with open_house(url) as house:
        await house.raw.ping()
        print("ready", flush=True)  # noqa: T201  (the answer goes through the pipe)
        while line := await asyncio.to_thread(sys.stdin.readline):
            plan = json.loads(line)
            await asyncio.sleep(plan["start_at"] - time.time())
            answers = await asyncio.gather(*(outcome(house, *call) for call in plan["calls"]))
            print(json.dumps(answers), flush=True)  # noqa: T201  (the answer goes through the pipe)


if __name__ == "__main__":
    asyncio.run(race(sys.argv[1]))
