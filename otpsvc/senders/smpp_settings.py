"""The settings of an SMPP sender, and what is checked of them before anything is connected."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from otpsvc.errors import ConfigurationError
from otpsvc.senders.addresses import is_public, literal_address
from otpsvc.senders.contract import RejectionKind, Secret
from otpsvc.senders.smpp_ids import IdBase
from otpsvc.senders.smpp_wire import Address

_NAME = re.compile(r"[A-Za-z0-9 ._-]{1,11}")
_NUMBER = re.compile(r"\+?[0-9]{1,20}")
_LONGEST_SHORT_CODE = 8

Bind = Literal["transceiver", "transmitter+receiver", "transmitter"]
Octet = Annotated[int, Meta(ge=0, le=255)]


class SmppSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of an `smpp` sender. docs/gateways/smpp.md explains each key."""

    host: str
    system_id: str
    password: Secret
    source: str = ""
    port: Annotated[int, Meta(ge=1, le=65535)] = 2775
    system_type: str = ""
    service_type: str = ""
    bind: Bind = "transceiver"
    tls: bool = True
    ca_file: str = ""
    source_ton: Octet | None = None
    source_npi: Octet | None = None
    dest_ton: Octet = 1
    dest_npi: Octet = 1
    long_messages: Literal["udh", "sar", "payload"] = "udh"
    validity: Literal["relative", "absolute", "none"] = "relative"
    receipt_id_base: IdBase = "auto"
    receipt_utc_offset_h: Annotated[float, Meta(ge=-12, le=14)] | None = None
    error_kinds: dict[str, RejectionKind] = {}
    window: Annotated[int, Meta(ge=1, le=1000)] = 10
    enquire_link_s: Annotated[float, Meta(ge=1, le=600)] = 30.0
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 8.0
    allow_private: bool = False


def check(name: str, settings: SmppSettings) -> None:
    """Raise ConfigurationError for what could never work; it names the key and repeats no value."""
    where, host = f"senders.{name}", settings.host
    literal = literal_address(host)
    is_name = bool(host) and host.isascii() and host.isprintable() and not any(mark in host for mark in " /@:")
    if not is_name and literal is None:
        raise ConfigurationError(f"{where}.host must be the name or the address of an SMSC, without a port")
    if not settings.allow_private and (host == "localhost" or (literal is not None and not is_public(literal))):
        raise ConfigurationError(
            f"{where}.host leads into a private network; set allow_private = true if that is meant"
        )
    limits = (
        ("system_id", settings.system_id, 1, 15),
        ("password", settings.password.reveal(), 1, 64),
        ("system_type", settings.system_type, 0, 12),
        ("service_type", settings.service_type, 0, 5),
    )
    for key, text, least, most in limits:
        if not least <= len(text) <= most or not text.isascii() or not text.isprintable():
            raise ConfigurationError(f"{where}.{key} must be {least} to {most} plain letters, digits and signs")
    if settings.source and not (_NAME.fullmatch(settings.source) or _NUMBER.fullmatch(settings.source)):
        raise ConfigurationError(f"{where}.source must be a number, or a name of 1 to 11 letters and digits")
    if settings.ca_file and not settings.tls:
        raise ConfigurationError(f"{where}.ca_file needs tls = true")


def source_address(settings: SmppSettings) -> Address:
    """Return the source with its type: a number with a plus, a short code, a name; none is left to the SMSC."""
    text = settings.source
    if not text:
        guess = (0, 0)
    elif not _NUMBER.fullmatch(text):
        guess = (5, 0)
    else:
        guess = (3, 0) if not text.startswith("+") and len(text) <= _LONGEST_SHORT_CODE else (1, 1)
    ton = guess[0] if settings.source_ton is None else settings.source_ton
    npi = guess[1] if settings.source_npi is None else settings.source_npi
    return Address(text.removeprefix("+"), ton, npi)


def shown_status(status: int) -> str:
    """Write a status as the tables have it."""
    return f"0x{status:08X}"
