"""The settings of the two Vonage senders, and what an API key and a sender id look like there."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from otpsvc.senders.contract import Secret
from otpsvc.senders.receipt_tokens import check_token
from otpsvc.senders.vonage_signing import SignatureMethod

Origin = Annotated[
    str,
    Meta(
        pattern=r"^(?:[0-9]{3,15}|(?=.*[A-Za-z])[A-Za-z0-9 ._&+-]{1,11})\Z",
        extra_json_schema={"description": "a number of 3 to 15 digits, or a name of up to 11 letters and digits"},
    ),
]
ApiKey = Annotated[
    str, Meta(pattern=r"^[0-9A-Za-z]{4,64}\Z", extra_json_schema={"description": "an API key: letters and digits"})
]


class VonageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of both. `tolerance_s`: how far a receipt's time may lie from ours."""

    signature_secret: Secret | None = None
    receipt_token: Secret | None = None
    tolerance_s: Annotated[float, Meta(ge=30, le=86_400)] = 900
    allow_private: bool = False
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 8

    def __post_init__(self) -> None:
        """Refuse a token that could be guessed."""
        check_token(self.receipt_token)


class VonageSmsSettings(VonageSettings, frozen=True, kw_only=True):
    """The settings. With `api_secret` calls carry key and secret, without it they are signed."""

    api_key: ApiKey
    origin: Origin
    api_secret: Secret | None = None
    signature_method: SignatureMethod = "sha256"
    are_receipts_signed: bool = True
    base_url: str = "https://rest.nexmo.com"

    def __post_init__(self) -> None:
        """Refuse settings with which no call could be proved."""
        super().__post_init__()
        if self.api_secret is None and self.signature_secret is None:
            raise ValueError("api_secret or signature_secret must be given")

    @property
    def receipt_secret(self) -> Secret | None:
        """What receipts are signed with; None where they are not."""
        return self.signature_secret if self.are_receipts_signed else None


class VonageMessagesSettings(VonageSettings, frozen=True, kw_only=True):
    """The settings. Each origin opens its channel."""

    api_key: ApiKey | None = None
    api_secret: Secret | None = None
    application_id: (
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z",
                extra_json_schema={"description": "an application id: a UUID"},
            ),
        ]
        | None
    ) = None
    private_key: Secret | None = None
    origin: Origin | None = None
    whatsapp_origin: (
        Annotated[str, Meta(pattern=r"^[0-9]{7,15}\Z", extra_json_schema={"description": "a number in digits"})] | None
    ) = None
    encoding: Literal["auto", "text", "unicode"] = "auto"
    base_url: str = "https://api.nexmo.com"

    def __post_init__(self) -> None:
        """Refuse settings with which nothing could be sent or proved."""
        super().__post_init__()
        if (self.application_id is None) != (self.private_key is None):
            raise ValueError("application_id and private_key go together")
        if self.api_secret is not None and self.api_key is None:
            raise ValueError("api_secret needs api_key")
        if (self.private_key is None) == (self.api_secret is None):
            raise ValueError("give either api_key and api_secret, or application_id and private_key")
        if self.origin is None and self.whatsapp_origin is None:
            raise ValueError("origin or whatsapp_origin must be given")
        if self.signature_secret is not None and self.api_key is None:
            raise ValueError("signature_secret needs api_key: webhooks name the account they are signed for")
