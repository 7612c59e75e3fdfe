"""A radio that sends for real: Termux on Android, through its command `termux-sms-send`.

The number goes into the command's arguments and the text to its standard input, never through a shell. The command
tells whether Android took the SMS, not whether it arrived: `Delivered` is never claimed. What it prints can repeat
number and text and never leaves this file.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal

import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.handset.radio import Outgoing, Told
from otpsvc.handset.wire import PhoneState

COMMAND = "termux-sms-send"

_TIMEOUT_S = 30.0
_NUMBER = re.compile(r"\+?[0-9]{3,20}")
_NO_PERMISSION = "no permission to send SMS: allow it to the app Termux:API"


class TermuxRadio:
    """Sends through the SIM that the phone chooses; through the asked one where `has_several_sims`.

    The command says nothing when it is asked for a SIM that is not there, so it is not asked without need.
    """

    def __init__(self, *, has_several_sims: bool = False, timeout_s: float = _TIMEOUT_S) -> None:
        path = shutil.which(COMMAND)
        if path is None:
            raise ConfigurationError(
                f"there is no {COMMAND} here: install the app Termux:API, then `pkg install termux-api`"
            )
        self._path = path
        self._has_several_sims = has_several_sims
        self._timeout_s = timeout_s

    async def send(self, sms: Outgoing, told: Told) -> None:
        """Send it; tells nothing where the command does not end in time, because nobody knows then."""
        if _NUMBER.fullmatch(sms.to) is None:
            told(PhoneState.FAILED, "invalid number")
            return
        slot = ["-s", str(sms.sim_number - 1)] if self._has_several_sims and sms.sim_number else []
        try:
            process = await asyncio.create_subprocess_exec(
                self._path,
                *("-n", sms.to, *slot),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                # Ctrl-C is for the phone, which lets the SMS under way end first.
                start_new_session=True,
            )
        except OSError:
            told(PhoneState.FAILED, f"{COMMAND} cannot be started")
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                said, _ = await process.communicate(sms.text.encode())
        except TimeoutError:
            await _kill(process)
            return
        except BaseException:
            await _kill(process)
            raise
        failure = _failure(process.returncode, said)
        told(PhoneState.FAILED if failure else PhoneState.SENT, failure)

    def close(self) -> None:
        """Nothing is told later."""


def _failure(status: int | None, said: bytes) -> str:
    """Say in words of ours why it failed; empty where it did not. Refusals are printed, under status 0."""
    try:
        answer = msgspec.json.decode(said) if said.strip() else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = None
    error = answer.get("error") if isinstance(answer, dict) else None
    if error is not None:
        return _NO_PERMISSION if "permission" in str(error).casefold() else f"{COMMAND} refused"
    return "" if status == 0 else f"{COMMAND} ended with status {status}"


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End it with all that it started: some of that may live on without it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
