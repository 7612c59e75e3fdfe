"""The settings of the sender `twilio`, and what Twilio's ids look like."""

from typing import Annotated

import msgspec
from msgspec import Meta

from otpsvc.senders.contract import Secret
from otpsvc.senders.receipt_tokens import check_token


class TwilioSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings. `auth_token` proves receipts even where calls are made with an API key."""

    account_sid: Annotated[
        str,
        Meta(pattern=r"^AC[0-9a-fA-F]{32}\Z", extra_json_schema={"description": "an account SID: AC and 32 digits"}),
    ]
    auth_token: Secret | None = None
    api_key_sid: (
        Annotated[
            str,
            Meta(
                pattern=r"^SK[0-9a-fA-F]{32}\Z", extra_json_schema={"description": "an API key SID: SK and 32 digits"}
            ),
        ]
        | None
    ) = None
    api_key_secret: Secret | None = None
    origin: (
        Annotated[
            str,
            Meta(
                pattern=r"^(?:\+[1-9][0-9]{4,14}|[0-9]{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 _&+-]{1,11})\Z",
                extra_json_schema={
                    "description": "a number with +, a short code, or a name of up to 11 letters and digits"
                },
            ),
        ]
        | None
    ) = None
    messaging_service_sid: (
        Annotated[
            str,
            Meta(
                pattern=r"^MG[0-9a-fA-F]{32}\Z",
                extra_json_schema={"description": "a messaging service SID: MG and 32 digits"},
            ),
        ]
        | None
    ) = None
    receipt_token: Secret | None = None
    base_url: str = "https://api.twilio.com"
    allow_private: bool = False
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 8

    def __post_init__(self) -> None:
        """Refuse settings with which nothing could be sent."""
        if (self.api_key_sid is None) != (self.api_key_secret is None):
            raise ValueError("api_key_sid and api_key_secret go together")
        if self.auth_token is None and self.api_key_secret is None:
            raise ValueError("give auth_token, or api_key_sid and api_key_secret")
        if (self.origin is None) == (self.messaging_service_sid is None):
            raise ValueError("give either origin or messaging_service_sid")
        check_token(self.receipt_token)
