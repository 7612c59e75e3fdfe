"""The settings of an SMSGate sender, and the keys of its phones: every phone signs with a key of its own."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from otpsvc.senders.contract import Secret
from otpsvc.senders.proofs import hmac_sha256_hex, matches
from otpsvc.settings_values import Given

_MAX_KEYS = 100
_DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class DeviceKeys:
    """Signing keys by device id, as a table or as text `device=key,device=key`. Shows how many there are, no more."""

    def __init__(self, keys: dict[str, Secret] | None = None) -> None:
        self._keys = dict(keys or {})

    @classmethod
    def read_setting(cls, given: Given) -> "DeviceKeys":
        """Take the keys as they were given; raise ValueError."""
        table = given.value
        if isinstance(table, str):
            entries = [entry.strip() for entry in re.split(r"[,\n]", table) if entry.strip()]
            table = {device.strip(): key for device, _, key in (entry.partition("=") for entry in entries)}
            if len(table) != len(entries):
                raise ValueError("names one device twice")
        if not isinstance(table, dict) or not 1 <= len(table) <= _MAX_KEYS:
            raise ValueError(f"must be a table of 1 to {_MAX_KEYS} device ids with their keys, or text id=key,id=key")
        if not all(isinstance(device, str) and _DEVICE_ID.fullmatch(device) for device in table):
            raise ValueError("has a device id that is not letters, digits, - and _")
        return cls({device: Secret.read_setting(given._replace(value=key)) for device, key in table.items()})

    def signers(self, signature: str | None, signed: bytes) -> frozenset[str]:
        """Return the devices whose key made this signature. Every key is tried, so the time tells nothing of them."""
        made = {device: hmac_sha256_hex(key.reveal(), signed) for device, key in self._keys.items()}
        return frozenset(device for device, expected in made.items() if matches(signature, expected))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        """Hide the keys."""
        return f"DeviceKeys({len(self._keys)})"


class SmsGateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One account of a server, or one phone. Without `device_id` the server picks a phone, and nothing is repeated."""

    username: Annotated[
        str, Meta(pattern=r"^[^:\s]{1,128}\Z", extra_json_schema={"description": "a user name, without a colon"})
    ]
    password: Secret
    url: str = "https://api.sms-gate.app/3rdparty/v1"
    auth: Literal["basic", "jwt"] = "basic"
    device_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", description="a device id")] | None = None
    sim_number: Annotated[int, Meta(ge=1, le=3)] | None = None
    passphrase: Secret = Secret()
    signing_key: Secret = Secret()
    signing_keys: DeviceKeys = DeviceKeys()
    allow_private: bool = False
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 6.0

    def __post_init__(self) -> None:
        if self.signing_key and self.signing_keys:
            raise ValueError("signing_key and signing_keys are both given; keep one")
        if self.signing_key and self.device_id is None:
            raise ValueError("signing_key is the key of one phone: name it in device_id, or use signing_keys")

    @property
    def keys(self) -> DeviceKeys:
        """The keys that receipts are checked with."""
        if self.signing_key and self.device_id is not None:
            return DeviceKeys({self.device_id: self.signing_key})
        return self.signing_keys
