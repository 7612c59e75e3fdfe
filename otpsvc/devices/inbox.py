"""What one phone pulls and reports: the texts it is to send, opened for it alone, and its words about them.

A phone is a stranger's computer: what it says is looked up, never repeated, and only in the words of the protocol. The
one place where a text leaves for a phone is `pull`; where the phone has a passphrase it leaves encrypted or not at all.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from otpsvc.crypto import Keyring, UnsealError
from otpsvc.devices.model import Device, FailureWords, OfferStatus, PhoneReport, Pulled
from otpsvc.devices.pool import Pool, opened_content
from otpsvc.devices.ports import DeviceOffers, PoolObserver
from otpsvc.devices.rotation import passphrase_bound
from otpsvc.errors import ApiError, problem
from otpsvc.ids import MalformedId, parse_message_id
from otpsvc.phone_encryption import encrypted

MOST_REPORTS = 1000
MOST_MESSAGES = 100
# Encryption takes tens of milliseconds a field, by the app's own scheme.
_MOST_ENCRYPTING_PULLS = 20
UNMAPPED = "unmapped"  # counted for a failure in words that no table knows
_ENCRYPTING_THREADS = 2

# The words of the protocol; whatever else a phone says about a message is no news.
STATES = {
    "processed": OfferStatus.PROCESSED,
    "sent": OfferStatus.SENT,
    "delivered": OfferStatus.DELIVERED,
    "failed": OfferStatus.FAILED,
    "cancelled": OfferStatus.CANCELLED,
}

_log = logging.getLogger(__name__)


class PhoneMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a phone gets it. Holds the plain code: hand it to the phone and to nothing else.

    Times are ms since 1970. With `is_encrypted`, `to` and `text` are for the phone's passphrase. One that
    `is_cancelling` is to be dropped by the phone and says no more than that.
    """

    message_id: str
    to: str
    text: str
    sim_number: int | None
    created_at: int
    expires_at: int
    is_encrypted: bool = False
    is_cancelling: bool = False

    def __repr__(self) -> str:
        """Name the message, hide the number and the text."""
        return f"PhoneMessage({self.message_id})"


class StateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a phone says about one message, unchecked; `sent_at` in seconds since 1970 by the phone's clock."""

    message_id: str
    state: str
    error: str = ""
    sent_at: float | None = None

    def __repr__(self) -> str:
        """Hide all of it: the words are the phone's, and can hold the number."""
        return "StateReport(…)"


class DeviceInbox:
    """The inboxes of all phones.

    `failure_of` reads the words of a failure. `close` ends the threads that encrypt.
    """

    def __init__(
        self,
        *,
        offers: DeviceOffers,
        pool: Pool,
        keyring: Keyring,
        failure_of: Callable[[str], FailureWords],
        observer: PoolObserver,
    ) -> None:
        self._offers = offers
        self._pool = pool
        self._keyring = keyring
        self._slots = tuple(master.slot for master in keyring.masters)
        self._failure_of = failure_of
        self._observer = observer
        self._threads = ThreadPoolExecutor(_ENCRYPTING_THREADS, thread_name_prefix="phone-encryption")
        self._n_encrypting = 0

    def close(self) -> None:
        """End the threads; what is being encrypted is dropped, and pulled again."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def pull(self, device: Device) -> list[PhoneMessage] | None:
        """Give a phone what it may send now, marked as pulled before the text is opened; None: it was retired.

        What is sealed under a master that this process lacks is not marked: another process may have it.

        Raises ApiError SERVICE_UNAVAILABLE.
        """
        passphrase = ""
        if device.has_passphrase:
            # Before anything is marked as pulled: what cannot be encrypted goes to another phone.
            found = self._passphrase(device)
            if found is None:
                return []
            if self._n_encrypting >= _MOST_ENCRYPTING_PULLS:
                raise problem("SERVICE_UNAVAILABLE", reason="encryption_busy")
            passphrase = found
        self._n_encrypting += bool(passphrase)
        try:
            pulled = await self._offers.pull(device, limit=MOST_MESSAGES, slots=self._slots)
            if pulled is None:
                return None
            messages = [message for one in pulled if (message := self._opened(device, one))]
            if passphrase:
                return list(await asyncio.gather(*(self._encrypted(message, passphrase) for message in messages)))
            return messages
        finally:
            self._n_encrypting -= bool(passphrase)

    async def report(self, device: Device, reports: Sequence[StateReport]) -> bool:
        """Take what a phone says, in its order, at most `MOST_REPORTS`; False: the device was retired.

        What it cannot know is passed over, and repeating it all is harmless. Raises ApiError SERVICE_UNAVAILABLE where
        a word of it could not be kept: the phone should say it again.
        """
        if len(reports) > MOST_REPORTS:
            _log.warning("device %s: %d reports at once, %d are taken", device.id, len(reports), MOST_REPORTS)
        for said in reports[:MOST_REPORTS]:
            report = self._read(said)
            if report is not None and not await self._take(device, report, said.sent_at):
                return False
        return True

    async def _take(self, device: Device, report: PhoneReport, sent_at: float | None) -> bool:
        told = await self._offers.report(device, report)
        if told.outcome == "retired":
            return False
        if told.outcome != "ignored":
            is_sent = report.status is OfferStatus.SENT
            word = UNMAPPED if report.is_unmapped else report.status.value
            self._observer.reported(told.sender, word, told.seconds if is_sent else None)
        try:
            await self._pool.settle(told, report.message_id, happened_at=sent_at)
        except ApiError as error:
            # The store remembers that it is owed, and the minder tells it.
            _log.info("message %s: %s is told later: %s", report.message_id, report.status.value, error)
        return True

    def _read(self, said: StateReport) -> PhoneReport | None:
        status = STATES.get(said.state.casefold())
        try:
            message_id = parse_message_id(said.message_id).text
        except MalformedId:
            return None
        if status is None:
            return None
        if status is not OfferStatus.FAILED:
            return PhoneReport(message_id=message_id, status=status)
        return PhoneReport(message_id=message_id, status=status, **self._failure_of(said.error)._asdict())

    def _passphrase(self, device: Device) -> str | None:
        try:
            plain = self._keyring.unseal(
                device.passphrase_sealed,
                record_id=device.id,
                count=device.passphrase_count,
                bound_to=passphrase_bound(device),
            )
            return plain.decode()
        except (UnsealError, UnicodeDecodeError) as error:
            _log.error("device %s gets no messages: its passphrase cannot be opened: %s", device.id, _words(error))
            return None

    def _opened(self, device: Device, pulled: Pulled) -> PhoneMessage | None:
        to = text = ""
        if not pulled.is_cancelling:
            try:
                to, text = _fields(self._keyring, device, pulled)
            except UnsealError as error:
                # Damaged, for whoever opens it: what is under a master that is not there was not even marked.
                _log.error("message %s cannot be opened for a phone: %s", pulled.message_id, error)
                return None
        return PhoneMessage(
            message_id=pulled.message_id,
            to=to,
            text=text,
            sim_number=pulled.sim_number,
            created_at=pulled.created_at,
            expires_at=pulled.expires_at,
            is_cancelling=pulled.is_cancelling,
        )

    async def _encrypted(self, message: PhoneMessage, passphrase: str) -> PhoneMessage:
        if message.is_cancelling:
            return message
        run = asyncio.get_running_loop().run_in_executor
        to, text = await asyncio.gather(
            *(run(self._threads, encrypted, field, passphrase) for field in (message.to, message.text))
        )
        return msgspec.structs.replace(message, to=to, text=text, is_encrypted=True)


def _fields(keyring: Keyring, device: Device, pulled: Pulled) -> tuple[str, str]:
    content = opened_content(keyring, device.tenant, pulled.message_id, pulled.sealed)
    return content.to, content.text


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, UnsealError) else "it is no text"
