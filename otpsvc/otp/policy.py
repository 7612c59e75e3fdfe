"""The numbers that govern a verification, with their bounds: a default in the settings, overrides per client.

The bounds are the product's promise: no setting can raise the attempts above three or the codes above ten an hour.
"""

import re
from typing import Annotated

import msgspec

PURPOSES = ("verification", "login", "transaction", "registration", "password_reset")
PURPOSE_PATTERN = r"^[a-z][a-z0-9_]{0,31}\Z"

MIN_CODE_LENGTH, MAX_CODE_LENGTH = 4, 10
MIN_TTL_S, MAX_TTL_S = 60, 1800

_PURPOSE = re.compile(PURPOSE_PATTERN)


def is_purpose(word: str) -> bool:
    """Say whether any client could use this word as a purpose."""
    return _PURPOSE.match(word) is not None


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client's verifications obey.

    `cooldown_s` 0 switches the cooldown off. `grace_s` is how long the code before stays valid after a resend, for an
    SMS that comes late. `purposes` None accepts the five known ones and any other well-formed word.
    """

    code_length: Annotated[int, msgspec.Meta(ge=MIN_CODE_LENGTH, le=MAX_CODE_LENGTH)] = 6
    ttl_s: Annotated[int, msgspec.Meta(ge=MIN_TTL_S, le=MAX_TTL_S)] = 300
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=3)] = 3
    sends_per_hour: Annotated[int, msgspec.Meta(ge=1, le=10)] = 10
    max_resends: Annotated[int, msgspec.Meta(ge=0, le=5)] = 5
    cooldown_s: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 30
    grace_s: Annotated[int, msgspec.Meta(ge=0, le=300)] = 90
    purposes: tuple[Annotated[str, msgspec.Meta(pattern=PURPOSE_PATTERN)], ...] | None = None

    def allows_purpose(self, purpose: str) -> bool:
        """Say whether this client may use the purpose: on its own list, or well-formed where it has none."""
        if self.purposes is not None:
            return purpose in self.purposes
        return is_purpose(purpose)


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for every client alike, whatever its policy.

    `service_sends_per_hour` (0 = off) caps the codes of all clients together to one number. `queue_limit` is how many
    messages may wait in one partition before `send` answers SERVICE_UNAVAILABLE, and `event_limit` how many events may
    wait there to be written to PostgreSQL, with those that living OTPs still owe; `verify` may go a quarter beyond.
    """

    wrong_guesses_per_hour: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    end_user_ip_sends_per_hour: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    live_sessions: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    service_sends_per_hour: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    queue_limit: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 100_000
    event_limit: Annotated[int, msgspec.Meta(ge=1000, le=10_000_000)] = 500_000
    idempotency_ttl_s: Annotated[int, msgspec.Meta(ge=60, le=7 * 86_400)] = 86_400
