"""The sender `email`: hands a message to a mail server, for mailboxes and for gateways that turn mail into SMS.

One connection per message: mail servers close idle ones without a word, and a message lost to that would be one of
which nobody knows the end. Once the text is on its way (DATA), only the server's own word makes it sent or not sent.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from typing import Annotated, Literal

import aiosmtplib
import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.senders.addresses import NotSent, SystemResolver, is_public, literal_address
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    Health,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    Sender,
    SenderContext,
    Unknown,
)
from otpsvc.senders.http_client import outcome_of
from otpsvc.senders.pinned import connected_socket
from otpsvc.senders.smtp_replies import outcome_of_reply

_PORTS = {"tls": 465, "starttls": 587, "none": 25}
_QUIT_S = 1.0
_RETRY_S = 2.0
_ABOUT_AN_ADDRESS = frozenset({RejectionKind.INVALID_NUMBER, RejectionKind.UNDELIVERABLE, RejectionKind.UNSUPPORTED})
_ABOUT_LOG_IN = frozenset({530, 534, 535, 538})
# The part of the standard's form that real addresses use; nothing in it could end a header or a command.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?=.{1,253}\Z)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
# Lines as long as the protocol allows, so that a plain text stays plain: simple gateways cannot decode anything.
_POLICY = SMTP_POLICY.clone(max_line_length=998, cte_type="7bit")


class EmailSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of an `email` sender. docs/gateways/email.md explains each key."""

    host: str
    from_address: str
    from_name: str = ""
    to: str = ""
    subject: str = ""
    tls: Literal["tls", "starttls", "none"] = "tls"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    username: str = ""
    password: Secret | None = None
    ca_file: str = ""
    allow_private: bool = False
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 8.0


class EmailSender(Sender[EmailSettings]):
    """One mail server, and one way to address messages through it."""

    Settings = EmailSettings

    def __init__(self, name: str, settings: EmailSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        _check(f"senders.{name}", settings)
        self._domain = settings.from_address.rpartition("@")[2]
        self._tls: ssl.SSLContext | None = None
        self._resolver: SystemResolver | None = None
        channels = {Channel.EMAIL, Channel.SMS} if settings.to else {Channel.EMAIL}
        self.capabilities = Capabilities(channels=frozenset(channels))

    async def open(self) -> None:
        """Read the certificates to trust; nothing is connected."""
        if self.settings.tls != "none":
            try:
                self._tls = await asyncio.to_thread(ssl.create_default_context, cafile=self.settings.ca_file or None)
            except (OSError, ssl.SSLError):
                raise ConfigurationError(f"senders.{self.name}.ca_file cannot be read as certificates") from None
        self._resolver = SystemResolver()

    async def close(self) -> None:
        """Ask no more names."""
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message to the mail server once."""
        address = self._address_for(message.to)
        if address is None:
            kind = RejectionKind.INVALID_NUMBER if "@" in message.to else RejectionKind.UNSUPPORTED
            return Rejected(kind, "not a mail address")
        content = self._content(message, address)
        deadline = self._deadline()
        is_on_its_way = False
        try:
            async with self._session(deadline) as server, asyncio.timeout_at(deadline):
                await server.mail(self.settings.from_address)
                await server.rcpt(address)
                is_on_its_way = True
                await server.data(content)
        except NotSent as error:
            return outcome_of(error)
        except aiosmtplib.SMTPResponseException as error:
            outcome = outcome_of_reply(error.code, error.message)
            if isinstance(outcome, Unknown) and not is_on_its_way:
                return RetryLater(_RETRY_S, "reply not understood", is_fault=True)
            outcome = _about_us(error, outcome)
            return _for_number(outcome) if "@" not in message.to else outcome
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return Unknown(_reason(error)) if is_on_its_way else _before_anything_left(error)
        return Accepted()

    async def health(self) -> Health:
        """Connect and log in, and say whether the server let us."""
        try:
            async with self._session(self._deadline()):
                return Health(is_ready=True)
        except aiosmtplib.SMTPResponseException as error:
            return Health(is_ready=False, detail=f"reply {error.code}")
        except (NotSent, aiosmtplib.SMTPException, OSError, ValueError) as error:
            return Health(is_ready=False, detail=error.reason if isinstance(error, NotSent) else _reason(error))

    @asynccontextmanager
    async def _session(self, deadline: float) -> AsyncIterator[aiosmtplib.SMTP]:
        """Give a server that greeted us, was proven, and took our log-in, all before `deadline`."""
        settings, resolver = self.settings, self._resolver
        if resolver is None:
            raise NotSent("sender not open")
        port = settings.port or _PORTS[settings.tls]
        async with asyncio.timeout_at(deadline):
            connection = await connected_socket(settings.host, port, resolver, allow_private=settings.allow_private)
            # From here on the socket is the library's, which closes it.
            server = aiosmtplib.SMTP(
                hostname=settings.host,
                sock=connection,
                # Left to itself it asks the resolver for this machine's own name and tells that to the server.
                local_hostname=self._domain,
                timeout=settings.timeout_s,
                use_tls=settings.tls == "tls",
                start_tls=settings.tls == "starttls",
                tls_context=self._tls,
                username=settings.username or None,
                password=settings.password.reveal() if settings.password else None,
            )
            await server.connect()
        try:
            yield server
            # What was accepted stays accepted, however the goodbye goes.
            with suppress(aiosmtplib.SMTPException, OSError):
                await server.quit(timeout=_QUIT_S)
        finally:
            server.close()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.settings.timeout_s

    def _address_for(self, to: str) -> str | None:
        address = to if "@" in to else self.settings.to.replace("{number}", to).replace("{digits}", to.lstrip("+"))
        return address if _ADDRESS.fullmatch(address) else None

    def _content(self, message: OutboundMessage, address: str) -> bytes:
        mail = EmailMessage(policy=_POLICY)
        name = self.settings.from_name
        mail["From"] = f'"{name}" <{self.settings.from_address}>' if name else self.settings.from_address
        mail["To"] = address
        if self.settings.subject:
            mail["Subject"] = self.settings.subject
        mail["Date"] = format_datetime(datetime.fromtimestamp(self.context.clock.time(), UTC))
        mail["Message-ID"] = f"<{message.message_id}.{message.try_number}@{self._domain}>"
        # Asks machines not to answer, so that nobody's holiday note comes back.
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text)
        return mail.as_bytes()


def _about_us(error: aiosmtplib.SMTPResponseException, outcome: Outcome) -> Outcome:
    """Tell a refusal of ourselves from one of the recipient: many servers say the same bare reply to both.

    What is said to one recipient counts neither against the settings nor against the log-in: that would open the
    breaker, and whoever types in numbers could shut the server for everybody.
    """
    if not isinstance(outcome, Rejected):
        return outcome
    kind = outcome.kind
    match error:
        case aiosmtplib.SMTPDataError():
            return outcome
        case aiosmtplib.SMTPRecipientRefused():
            if error.code == 501:
                kind = RejectionKind.INVALID_NUMBER
            elif kind is RejectionKind.UNAUTHORISED and error.code not in _ABOUT_LOG_IN:
                kind = RejectionKind.SENDER_REFUSED
        case aiosmtplib.SMTPSenderRefused() if kind in _ABOUT_AN_ADDRESS:
            kind = RejectionKind.SENDER_REFUSED
        case _ if kind in _ABOUT_AN_ADDRESS:
            kind = RejectionKind.UNAUTHORISED
    return Rejected(kind, outcome.detail, outcome.is_unmapped)


def _for_number(outcome: Outcome) -> Outcome:
    """Keep other ways open: a gateway that knows no such mailbox says nothing about the phone number itself."""
    if isinstance(outcome, Rejected) and outcome.kind is RejectionKind.INVALID_NUMBER:
        return Rejected(RejectionKind.UNSUPPORTED, outcome.detail)
    return outcome


def _before_anything_left(error: Exception) -> Outcome:
    is_lost = isinstance(error, aiosmtplib.SMTPServerDisconnected | aiosmtplib.SMTPTimeoutError | OSError)
    if is_lost:
        return RetryLater(_RETRY_S, _reason(error), is_fault=True)
    # The library says so where the server offers no STARTTLS, or no log-in that we could use.
    return Rejected(RejectionKind.MISCONFIGURED, "the server offers no TLS or no log-in")


def _reason(error: Exception) -> str:
    return "time-out" if isinstance(error, TimeoutError) else "connection cut"


def _check(where: str, settings: EmailSettings) -> None:
    """Raise ConfigurationError for what could never work; it names the key and repeats no value."""
    host = settings.host
    if not host or not host.isascii() or not host.isprintable() or any(mark in host for mark in " /@"):
        raise ConfigurationError(f"{where}.host must be the name of a mail server")
    literal = literal_address(host)
    if not settings.allow_private and (host == "localhost" or (literal is not None and not is_public(literal))):
        raise ConfigurationError(
            f"{where}.host leads into a private network; set allow_private = true if that is meant"
        )
    if settings.tls == "none" and not settings.allow_private:
        raise ConfigurationError(f"{where}.tls must be tls or starttls (none is for private networks: allow_private)")
    if not _ADDRESS.fullmatch(settings.from_address):
        raise ConfigurationError(f"{where}.from_address must be a plain mail address")
    for key, text in (("from_name", settings.from_name), ("subject", settings.subject)):
        if not text.isprintable() or '"' in text or "\\" in text:
            raise ConfigurationError(f"{where}.{key} must not hold control characters, quotes or backslashes")
    example = settings.to.replace("{number}", "+390").replace("{digits}", "390")
    if settings.to and (example == settings.to or not _ADDRESS.fullmatch(example)):
        raise ConfigurationError(f"{where}.to must be a mail address with {{number}} or {{digits}} in it")
    if bool(settings.username) != bool(settings.password):
        raise ConfigurationError(f"{where}.username and password go together")
    if settings.password and settings.tls == "none":
        raise ConfigurationError(f"{where}.password would travel in clear: use tls or starttls")
    if settings.ca_file and settings.tls == "none":
        raise ConfigurationError(f"{where}.ca_file needs tls or starttls")
