"""The rules of the product in plain Python, for one number: written from the design, never from the scripts.

Times are seconds on the model's own clock. Every answer is the name of an error of the catalogue, or what the call
gives: `sent`, `right`, a number of attempts left, `cancelled`.
"""

from dataclasses import dataclass, field

ATTEMPTS, RESENDS, CODES_AN_HOUR, FAILURES_AN_HOUR, LIVE_SESSIONS = 3, 5, 10, 10, 3
TTL_S, GRACE_S, COOLDOWN_S, HOUR_S, RECORD_S, USEFUL_S = 120, 90, 30, 3600, 900, 30


@dataclass(eq=False)
class Text:
    """One message on its way."""

    status: str = "queued"


@dataclass(eq=False)
class Otp:
    """One verification as its owner knows it."""

    client: str
    purpose: str
    session: str | None
    codes: list[str]
    expires_at: float
    text: Text
    status: str = "pending"
    ended_at: float | None = None
    previous_until: float = 0
    attempts: int = 0
    compared: int = 0

    @property
    def resends(self) -> int:
        return len(self.codes) - 1

    def is_living(self, now: float) -> bool:
        return self.status == "pending" and now < self.expires_at

    def is_gone(self, now: float) -> bool:
        """Whether the record was purged: a quarter of an hour after the OTP's end."""
        end = self.expires_at if self.ended_at is None else self.ended_at
        return now >= end + RECORD_S

    def accepts(self, code: str, now: float) -> bool:
        return code == self.codes[-1] or (self.resends > 0 and code == self.codes[-2] and now < self.previous_until)

    def end(self, status: str, now: float) -> None:
        self.status, self.ended_at = status, now


@dataclass
class Rules:
    """All OTPs of one number, with what limits them."""

    now: float = 0
    otps: list[Otp] = field(default_factory=list)
    sends: list[tuple[float, str]] = field(default_factory=list)
    fails: list[tuple[float, str]] = field(default_factory=list)
    last_sends: dict[tuple[str, str, str | None], float] = field(default_factory=dict)

    def refusal_of_another_code(self, client: str, purpose: str, session: str | None) -> str | None:
        if self.now < self.last_sends.get((client, purpose, session), -HOUR_S) + COOLDOWN_S:
            return "OTP_COOLDOWN"
        if self.count(self.sends, client) >= CODES_AN_HOUR:
            return "OTP_RATE_LIMIT"
        return None

    def count(self, window: list[tuple[float, str]], client: str) -> int:
        return sum(who == client and self.now < at + HOUR_S for at, who in window)

    def count_code(self, otp: Otp) -> None:
        self.sends.append((self.now, otp.client))
        self.last_sends[otp.client, otp.purpose, otp.session] = self.now

    def send(self, client: str, purpose: str, session: str | None) -> str:
        """Decide about a send. After `sent` the caller adds the new OTP with `add`."""
        if self.count(self.fails, client) >= FAILURES_AN_HOUR:
            return "OTP_LOCKED_OUT"
        if refusal := self.refusal_of_another_code(client, purpose, session):
            return refusal
        others = {otp.session for otp in self.living(client, purpose)} - {session}
        return "OTP_RATE_LIMIT" if len(others) >= LIVE_SESSIONS else "sent"

    def living(self, client: str, purpose: str) -> list[Otp]:
        return [o for o in self.otps if (o.client, o.purpose) == (client, purpose) and o.is_living(self.now)]

    def add(self, otp: Otp) -> None:
        for old in self.living(otp.client, otp.purpose):
            if old.session == otp.session:
                old.end("superseded", self.now)
        self.otps.append(otp)
        self.count_code(otp)

    def verify(self, client: str, otp: Otp, code: str) -> str | int:
        if refusal := self.refusal_of_an_ended(client, otp):
            return refusal
        otp.attempts += 1
        otp.compared += 1
        if otp.accepts(code, self.now):
            otp.end("verified", self.now)
            return "right"
        self.fails.append((self.now, client))
        if otp.attempts == ATTEMPTS:
            otp.end("locked", self.now)
        return ATTEMPTS - otp.attempts

    def refusal_of_an_ended(self, client: str, otp: Otp) -> str | None:
        if client != otp.client or otp.is_gone(self.now) or otp.status in {"verified", "superseded", "cancelled"}:
            return "OTP_NOT_FOUND"
        if self.now >= otp.expires_at:
            return "OTP_EXPIRED"
        return "OTP_MAX_ATTEMPTS" if otp.status == "locked" else None

    def resend(self, client: str, otp: Otp) -> str:
        """Decide about a resend. After `sent` the caller hands the new code to `replace`."""
        if refusal := self.refusal_of_an_ended(client, otp):
            return refusal
        if otp.resends >= RESENDS:
            return "OTP_RESEND_LIMIT"
        return self.refusal_of_another_code(client, otp.purpose, otp.session) or "sent"

    def replace(self, otp: Otp, code: str, text: Text) -> None:
        otp.previous_until = min(otp.expires_at, self.now + GRACE_S)
        otp.expires_at = self.now + TTL_S
        otp.codes.append(code)
        otp.text = text
        self.count_code(otp)

    def cancel(self, client: str, otp: Otp) -> str:
        if client != otp.client or otp.is_gone(self.now):
            return "OTP_NOT_FOUND"
        if otp.is_living(self.now):
            otp.end("cancelled", self.now)
        return "cancelled" if otp.status == "cancelled" else "OTP_NOT_PENDING"

    def deliverable(self) -> set[Text]:
        """The messages that a worker must be given now."""
        return {
            otp.text
            for otp in self.otps
            if otp.text.status == "queued" and otp.status == "pending" and otp.expires_at - self.now >= USEFUL_S
        }

    def status(self, otp: Otp) -> str:
        return "expired" if otp.status == "pending" and self.now >= otp.expires_at else otp.status

    def boundaries(self) -> list[float]:
        """Every moment at which some answer changes by itself."""
        moments = [at + HOUR_S for at, _ in (*self.sends, *self.fails)]
        moments += [at + COOLDOWN_S for at in self.last_sends.values()]
        for otp in self.otps:
            end = otp.expires_at if otp.ended_at is None else otp.ended_at
            moments += [otp.expires_at, otp.expires_at - USEFUL_S, otp.previous_until, end + RECORD_S]
        return moments
