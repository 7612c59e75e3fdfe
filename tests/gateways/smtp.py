"""A mail server after RFC 5321: greeting, EHLO, STARTTLS, AUTH, envelopes; what comes out of order is refused."""

import asyncio
import base64
import email
import email.policy
import ssl
from email.message import EmailMessage

from otpsvc.testing import Fault, GatewayDouble, GatewayRequest

GARBAGE = b"HTTP/1.1 500 Internal Server Error\r\n\r\n<html>"


class SmtpDouble(GatewayDouble):
    """`taken` are the mails it took; each stands in `requests` too, its recipient as the path.

    `replies` holds a reply to say instead, once, by what is answered: CONNECT, EHLO, AUTH, MAIL, RCPT, DATA, or END for
    the end of the text. `cut_at` is a stage at which the connection ends, or QUIT, which gets no answer. `lines` are
    all commands as they came, `n_greeted` counts connections. Of the faults, those before the text is taken meet a
    connection at its greeting, the others at the end of the text.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        start_tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self.taken: list[EmailMessage] = []
        self.replies: dict[str, bytes] = {}
        self.cut_at: str | None = None
        self.lines: list[str] = []
        self.n_greeted = 0
        self._start_tls = start_tls
        self._login = login

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def texts(self) -> list[str]:
        """The texts as a person reads them."""
        found = []
        for mail in self.taken:
            content = mail.get_content()
            assert isinstance(content, str)
            found.append(content.replace("\r\n", "\n").removesuffix("\n"))
        return found

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Conversation(self, reader, writer).run()
        except (EOFError, asyncio.LimitOverrunError):
            return

    def next_fault(self) -> Fault | None:
        return self._faults.pop(0) if self._faults else None


class _Conversation:
    def __init__(self, double: SmtpDouble, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.double, self.reader, self.writer = double, reader, writer
        self.fault: Fault | None = None
        self.is_secure = double._tls is not None
        self.is_greeted = self.is_logged_in = False
        self.sender: str | None = None
        self.recipient: str | None = None

    async def run(self) -> None:
        self.double.n_greeted += 1
        self.fault = self.double.next_fault()
        if self.fault is Fault.HTML_500:
            await self.say(GARBAGE)
            return
        if self.fault is Fault.TOO_MANY:
            await self.say(b"421 4.7.0 too many connections\r\n")
            return
        if not await self.reply("CONNECT", b"220 mail.example ESMTP\r\n"):
            return
        while True:
            line = (await self.reader.readuntil(b"\r\n")).decode("ascii").rstrip("\r\n")
            self.double.lines.append(line)
            if not await self.obey(line.partition(" ")[0].upper(), line):
                return

    async def obey(self, verb: str, line: str) -> bool:
        match verb:
            case "EHLO":
                self.is_greeted = True
                return await self.reply("EHLO", self.offers())
            case "STARTTLS" if self.double._start_tls is not None and not self.is_secure:
                await self.say(b"220 2.0.0 ready\r\n")
                await self.writer.start_tls(self.double._start_tls)
                self.is_secure, self.is_greeted = True, False
                return True
            case "AUTH" if self.double._login is not None and self.is_greeted:
                return await self.log_in(line)
            case "MAIL" if self.is_greeted and (self.double._login is None or self.is_logged_in):
                self.sender, self.recipient = line, None
                return await self.reply("MAIL", b"250 2.1.0 ok\r\n")
            case "MAIL" if self.is_greeted:
                return await self.say(b"530 5.7.0 log in first\r\n")
            case "RCPT" if self.sender is not None:
                self.recipient = line.partition("<")[2].partition(">")[0]
                return await self.reply("RCPT", b"250 2.1.5 ok\r\n")
            case "DATA" if self.recipient is not None:
                return await self.take()
            case "QUIT" if self.double.cut_at == "QUIT":
                await self.reader.read()
                return False
            case "QUIT":
                await self.say(b"221 2.0.0 bye\r\n")
                return False
        return await self.say(b"503 5.5.1 bad sequence of commands\r\n")

    def offers(self) -> bytes:
        offered = ["mail.example", "ENHANCEDSTATUSCODES"]
        if self.double._start_tls is not None and not self.is_secure:
            offered.append("STARTTLS")
        if self.double._login is not None:
            offered.append("AUTH PLAIN")
        marks = ["250-"] * (len(offered) - 1) + ["250 "]
        return "".join(f"{mark}{offer}\r\n" for mark, offer in zip(marks, offered, strict=True)).encode()

    async def log_in(self, line: str) -> bool:
        assert self.double._login is not None
        given = base64.b64decode(line.split(" ")[2]).decode().split("\0")[1:]
        self.is_logged_in = tuple(given) == self.double._login
        return await self.reply("AUTH", b"235 2.7.0 ok\r\n" if self.is_logged_in else b"535 5.7.8 wrong\r\n")

    async def take(self) -> bool:
        refusal = self.double.replies.pop("DATA", None)
        if refusal is not None:
            return await self.say(refusal)
        await self.say(b"354 go on\r\n")
        if self.double.cut_at == "DATA":
            return False
        raw = await self.reader.readuntil(b"\r\n.\r\n")
        refusal = self.double.replies.pop("END", None)
        if refusal is not None:
            return await self.say(refusal)
        await self.keep(b"\r\n".join(part.removeprefix(b".") for part in raw[:-5].split(b"\r\n")) + b"\r\n")
        if self.double.cut_at == "END":
            return False
        return await self.end(self.fault)

    async def keep(self, raw: bytes) -> None:
        mail = email.message_from_bytes(raw, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        assert self.recipient is not None
        headers = {name.lower(): str(value) for name, value in mail.items()}
        request = GatewayRequest(method="DATA", path=self.recipient, query={}, headers=headers, body=raw)
        self.double.taken.append(mail)
        self.double.requests.append(request)
        async with self.double._arrival:
            self.double._arrival.notify_all()

    async def end(self, fault: Fault | None) -> bool:
        match fault:
            case Fault.HANG:
                await self.reader.read()
                return False
            case Fault.HTML_500_AFTER | Fault.NOT_JSON:
                await self.say(GARBAGE)
                return False
            case Fault.CLOSE_MID_BODY:
                await self.say(b"25")
                return False
            case Fault.HUGE:
                await self.say(b"250-" + b"x" * 1_000_000)
                return False
            case Fault.SLOW_DRIP:
                for byte in b"250 2.0.0 taken, slowly\r\n":
                    await self.say(bytes([byte]))
                    await asyncio.sleep(0.2)
                return True
        return await self.say(b"250 2.0.0 queued\r\n")

    async def reply(self, stage: str, usual: bytes) -> bool:
        if self.double.cut_at == stage:
            return False
        return await self.say(self.double.replies.pop(stage, usual))

    async def say(self, words: bytes) -> bool:
        self.writer.write(words)
        await self.writer.drain()
        return not words.startswith(b"421")
