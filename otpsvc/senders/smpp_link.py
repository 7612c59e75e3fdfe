"""Keeps one bind to an SMSC up, in the background: connects, binds, asks whether it is still there, begins again.

Nobody ever waits for a link: it is up and gives its session, or it is down and says at once what to answer. Where it
connects to is judged like every other address (`pinned.py`).
"""

import asyncio
import contextlib
import logging
import random
import ssl

from otpsvc.faults import described
from otpsvc.senders import smpp_wire as wire
from otpsvc.senders.addresses import AddressRefused, NotSent, SystemResolver
from otpsvc.senders.contract import Outcome, Rejected, RejectionKind, RetryLater
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import NoAnswer
from otpsvc.senders.pinned import connected_socket
from otpsvc.senders.smpp_receipts import CODES
from otpsvc.senders.smpp_session import Receive, Session
from otpsvc.senders.smpp_settings import SmppSettings, shown_status
from otpsvc.senders.smpp_wire import Command

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 60.0
# Accounts are locked for wrong passwords in a row, and nobody mends one in a second. Half of it at the least.
_REFUSED_PAUSE_S = 10.0
# A bind that lasted this long was a good one, and the next is tried at once.
_STEADY_S = 30.0
_UNBIND_S = 1.5

_log = logging.getLogger(__name__)


class BindRefused(Exception):
    """The SMSC answered a bind with a status of failure."""

    def __init__(self, status: int) -> None:
        super().__init__(shown_status(status))
        self.status = status


class Link:
    """One bind, of the kind that `command` says. `state` says in fixed words how it is."""

    def __init__(
        self,
        name: str,
        command: Command,
        settings: SmppSettings,
        *,
        tls: ssl.SSLContext | None,
        resolver: SystemResolver,
        receive: Receive,
    ) -> None:
        self._name = name
        self._command = command
        self._settings = settings
        self._tls = tls
        self._resolver = resolver
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._is_settled = asyncio.Event()
        self._pause_s = _FIRST_PAUSE_S
        self._next_try_at = 0.0
        self._trouble: Rejected | RetryLater | None = None
        self._session: Session | None = None
        self.state = "connecting"

    @property
    def live_session(self) -> Session | None:
        """The session to send through, while there is one."""
        return None if self._session is None or self._session.is_over else self._session

    def start(self) -> None:
        """Begin to keep it up."""
        self._task = asyncio.create_task(self._keep_up())

    async def settled(self, within_s: float) -> None:
        """Wait until the first try has come to something, but never longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._is_settled.wait()

    async def stop(self) -> None:
        """Unbind, if that works at once, and let go of everything."""
        task, self._task = self._task, None
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(NotSent, NoAnswer):
                await session.ask(lambda number: wire.frame(Command.UNBIND, number), timeout_s=_UNBIND_S)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self.state = "closed"

    def answer(self) -> Outcome:
        """Say what a message comes to while the link is down: surely not sent."""
        if self._trouble is None:
            return RetryLater(1.0, "link not up yet")
        if isinstance(self._trouble, Rejected):
            return self._trouble
        wait_s = self._next_try_at - asyncio.get_running_loop().time()
        return RetryLater(min(max(wait_s, 1.0), _LONGEST_PAUSE_S), self._trouble.detail, is_fault=True)

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._live_once()
            except BindRefused as error:
                self.state = f"bind refused with {error}"
                self._trouble = _of_refusal(error.status, self.state)
            except AddressRefused as error:
                self.state = error.reason
                self._trouble = Rejected(RejectionKind.MISCONFIGURED, error.reason)
            except (NotSent, NoAnswer, OSError) as error:
                self.state = _reason(error)
                self._trouble = _down(self.state)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try must come
                self.state, self._trouble = "fault", _down("fault")
                _log.error("sender %s: the link failed: %s", self._name, described(error))
            # Many workers lose one SMSC at the same moment, and should not all come back at the same one.
            least_s = self._trouble.after_s if isinstance(self._trouble, RetryLater) else _REFUSED_PAUSE_S
            pause_s = max(self._pause_s, least_s) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            self._next_try_at = loop.time() + pause_s
            self._is_settled.set()
            _log.warning("sender %s: link down (%s), next try in %.1f s", self._name, self.state, pause_s)
            await asyncio.sleep(pause_s)

    async def _live_once(self) -> None:
        """Connect, bind, and watch over the session until it is over. Raises whatever keeps it from coming up."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._settings.timeout_s):
            reader, writer = await self._connect()
        session = Session(reader, writer, self._receive)
        reading = asyncio.create_task(session.run())
        try:
            await self._bind(session)
            bound_at = loop.time()
            self._session, self.state, self._trouble = session, "bound", _down("lost")
            self._is_settled.set()
            _log.info("sender %s: bound", self._name)
            await self._watch(session)
            self.state = session.end_reason
            if loop.time() - bound_at >= _STEADY_S:
                self._pause_s = _FIRST_PAUSE_S
        finally:
            self._session = None
            session.end("link closed")
            reading.cancel()
            await asyncio.wait({reading})

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        settings = self._settings
        sock = await connected_socket(
            settings.host, settings.port, self._resolver, allow_private=settings.allow_private
        )
        try:
            name = settings.host if self._tls is not None else None
            return await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise

    async def _bind(self, session: Session) -> None:
        settings = self._settings
        body = wire.bind_body(settings.system_id, settings.password.reveal(), settings.system_type)
        answer = await session.ask(
            lambda number: wire.frame(self._command, number, body=body), timeout_s=settings.timeout_s
        )
        if answer.status != wire.OK:
            raise BindRefused(answer.status)

    async def _watch(self, session: Session) -> None:
        """Ask now and then, and at once when an answer stayed away, whether the other side is still there."""
        while not session.is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.enquire_link_s):
                    await session.is_doubtful.wait()
            session.is_doubtful.clear()
            try:
                await session.ask(
                    lambda number: wire.frame(Command.ENQUIRE_LINK, number), timeout_s=self._settings.timeout_s
                )
            except NoAnswer:
                session.end("enquire_link not answered")
            except NotSent as error:
                session.end(error.reason)
            # Asked because of a doubt, and that it answers ends it, also a doubt from meanwhile.
            if not session.is_over:
                session.is_doubtful.clear()


def _of_refusal(status: int, detail: str) -> Rejected | RetryLater:
    outcome = GatewayMap.load(CODES).outcome(shown_status(status), detail=detail)
    if isinstance(outcome, Rejected):
        return Rejected(outcome.kind, detail, outcome.is_unmapped)
    after_s = outcome.after_s if isinstance(outcome, RetryLater) else 0.0
    # Some SMSCs say "no reason" to a wrong password too, so no refusal is answered in haste.
    return _down(detail, after_s=max(after_s, _REFUSED_PAUSE_S))


def _down(why: str, *, after_s: float = 0.0) -> RetryLater:
    return RetryLater(after_s, f"link down: {why}", is_fault=True)


def _reason(error: Exception) -> str:
    """Say it in fixed words: those of libraries may name an address."""
    if isinstance(error, NotSent):
        return error.reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate not valid"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    return "no answer in time" if isinstance(error, NoAnswer | TimeoutError) else "connection cut"
