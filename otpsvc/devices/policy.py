"""What bounds the phones: the section `[devices]` of the settings, and the budget of each device."""

from typing import Annotated

import msgspec
from msgspec import Meta

from otpsvc.messages.policy import QuietHours

# Android asks its user after about 30 messages in 30 minutes, and some operators bar a consumer SIM after about 300
# recipients in a day. The defaults stay below both.
MESSAGES_PER_WINDOW, WINDOW_S, RECIPIENTS_PER_DAY = 25, 1800, 200


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What each SIM of a device may send. A SIM that is over it counts as not there.

    `messages_per_window` in any stretch of `window_s` seconds, `recipients_per_day` different numbers in 24 h. `quiet`:
    when the device is left alone. `is_spare`: used only when no other device could be.
    """

    messages_per_window: Annotated[int, Meta(ge=1, le=10_000)] = MESSAGES_PER_WINDOW
    window_s: Annotated[int, Meta(ge=60, le=86_400)] = WINDOW_S
    recipients_per_day: Annotated[int, Meta(ge=1, le=100_000)] = RECIPIENTS_PER_DAY
    quiet: QuietHours | None = None
    is_spare: bool = False


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `[devices]`.

    A phone is online while its stream is open, or for `online_s` after it last pulled. `keep_alive_s`: how often an
    open stream says that it is alive, to the phone and to the store. A pairing stays open for `pairing_s`, its
    enrolment code for `code_s`. `confirms_by_itself`: a new phone may send without anybody's having said so.
    """

    online_s: Annotated[float, Meta(ge=5, le=86_400)] = 60.0
    keep_alive_s: Annotated[float, Meta(ge=1, le=300)] = 20.0
    pairing_s: Annotated[int, Meta(ge=60, le=86_400)] = 3600
    code_s: Annotated[int, Meta(ge=60, le=600)] = 600
    most_per_client: Annotated[int, Meta(ge=1, le=500)] = 200
    confirms_by_itself: bool = False

    def __post_init__(self) -> None:
        if self.keep_alive_s * 2 > self.online_s:
            raise ValueError("online_s must be at least twice keep_alive_s")
