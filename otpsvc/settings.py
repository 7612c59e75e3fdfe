"""The settings: one tree of everything that can be set, with its defaults and bounds.

`load` reads it from the command line's overrides, the environment, `otpsvc.toml` and secret files.
Nothing else in the service reads the environment. docs/settings.md explains every key; a test holds
the two together.
"""

import ipaddress
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from otpsvc.devices.policy import DeviceSettings
from otpsvc.errors import ConfigurationError
from otpsvc.messages.policy import Routes, SenderLimits
from otpsvc.otp.policy import Limits, Policy
from otpsvc.settings_masters import Masters
from otpsvc.settings_routes import read_routes
from otpsvc.settings_source import Source, settings_path
from otpsvc.settings_values import Given, Secret, read_struct, setting_keys

__all__ = ["ALL_NEEDS", "Masters", "Need", "Secret", "SenderTable", "Settings", "load"]

Need = Literal["redis.url", "database.url", "keys.masters"]
ALL_NEEDS: tuple[Need, ...] = ("redis.url", "database.url", "keys.masters")

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")

Seconds = Annotated[float, Meta(ge=0.05, le=60)]
_Struct = TypeVar("_Struct", bound=msgspec.Struct)

_NAME_WORDS = "1 to 32 lower-case letters, digits and hyphens, a letter first"
_NAME = r"^[a-z][a-z0-9-]{0,31}\Z"
Name = Annotated[str, Meta(pattern=_NAME, description=_NAME_WORDS)]


def _check_scheme(url: Secret, schemes: tuple[str, ...]) -> None:
    scheme, separator, _ = url.reveal().partition("://")
    if url and (not separator or scheme not in schemes):
        raise ValueError("url must start with " + " or ".join(f"{name}://" for name in schemes))


def _check_network(text: str) -> None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            "trusted_proxies must be addresses or networks, as 10.0.0.5 or 10.0.0.0/24 (no bits set behind the prefix)"
        ) from None
    if network.prefixlen == 0:
        raise ValueError("trusted_proxies must not be everybody: then any caller could say who it is")


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The listening socket and what a request may cost."""

    host: Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:_-]+\Z", description="a host name or an address")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535)] = 8080
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1_048_576)] = 16_384
    body_timeout_s: Annotated[float, Meta(ge=0.1, le=120)] = 10.0
    public_url: (
        Annotated[
            str,
            Meta(pattern=r"^https?://[^\s?#]*[^\s?#/]\Z", description="http(s)://… with no / last"),
        ]
        | None
    ) = None
    trusted_proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for proxy in self.trusted_proxies:
            _check_network(proxy)


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The store of living codes."""

    url: Secret = Secret()
    prefix: Name = "otpsvc"
    timeout_s: Seconds = 1.0
    max_connections: Annotated[int, Meta(ge=1, le=100)] = 4
    partitions: Annotated[int, Meta(ge=1, le=256)] = 1
    persistence: Literal["append_only", "unchecked"] = "append_only"
    fence: Literal["auto", "on", "off"] = "auto"
    durable_send: bool = False
    durable_replicas: Annotated[int, Meta(ge=0, le=10)] = 0

    def __post_init__(self) -> None:
        _check_scheme(self.url, ("redis", "rediss", "unix", *SENTINEL_SCHEMES))
        if self.durable_replicas and not self.durable_send:
            raise ValueError("durable_replicas needs durable_send = true")

    @property
    def is_fenced(self) -> bool:
        """Whether OTPs end with the primary that made them: by default where another can take its place."""
        if self.fence == "auto":
            return self.url.reveal().startswith(SENTINEL_SCHEMES)
        return self.fence == "on"


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """PostgreSQL."""

    url: Secret = Secret()
    min_connections: Annotated[int, Meta(ge=0, le=100)] = 1
    max_connections: Annotated[int, Meta(ge=1, le=500)] = 8
    timeout_s: Seconds = 5.0

    def __post_init__(self) -> None:
        _check_scheme(self.url, ("postgresql", "postgres"))
        if self.min_connections > self.max_connections:
            raise ValueError("min_connections must not be more than max_connections")


class KeysSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The keyring: named masters, the first one current; the index master is never rotated."""

    masters: Masters = Masters()
    index_master: str | None = None
    hash_profile: Name = "argon2id-64k"
    accepted_hash_profiles: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        if self.masters and self.index_master and self.index_master not in self.masters:
            raise ValueError("index_master must be the name of one of the masters")


class DeliverySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How messages leave: the senders in the order of trying, and the worker's pace."""

    senders: tuple[Name, ...] = ()
    batch: Annotated[int, Meta(ge=1, le=1000)] = 32
    lease_s: Annotated[float, Meta(ge=5, le=600)] = 30.0
    step_timeout_s: Annotated[float, Meta(ge=1, le=120)] = 10.0
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 32

    def __post_init__(self) -> None:
        if len(set(self.senders)) != len(self.senders):
            raise ValueError("senders names one sender twice")


class HistorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long what happened is kept in PostgreSQL."""

    event_days: Annotated[int, Meta(ge=1, le=3650)] = 365
    message_days: Annotated[int, Meta(ge=1, le=3650)] = 90


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is written to the log, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the processes of one machine keep their counters together; None chooses a private directory."""

    directory: str | None = None


class SenderTable:
    """The table `[senders.<name>]`: the type of sender, what bounds it, and what only that type can read."""

    def __init__(
        self, name: str, type_name: str, given: Mapping[str, Given], limits: SenderLimits | None = None
    ) -> None:
        self.name = name
        self.type = type_name
        self.limits = limits or SenderLimits()
        self._given = dict(given)

    @property
    def options(self) -> dict[str, object]:
        """The keys that are the sender's own, as they were given: text where they came from the environment."""
        return {key: given.value for key, given in self._given.items()}

    def read(self, kind: type[_Struct]) -> _Struct:
        """Read the options as the sender's own struct, secrets and their files included.

        Raises ConfigurationError that names every key which is unknown, missing or out of bounds.
        """
        faults: list[str] = []
        options = read_struct(kind, self._given, path=f"senders.{self.name}", faults=faults)
        if options is None:
            raise _refusal(faults)
        return options

    def __repr__(self) -> str:
        """Hide the options, which can hold secrets."""
        return f"SenderTable({self.name!r}, type={self.type!r})"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole tree. Safe to print: secrets hide themselves."""

    http: HttpSettings = HttpSettings()
    redis: RedisSettings = RedisSettings()
    database: DatabaseSettings = DatabaseSettings()
    keys: KeysSettings = KeysSettings()
    otp: Policy = Policy()
    limits: Limits = Limits()
    delivery: DeliverySettings = DeliverySettings()
    devices: DeviceSettings = DeviceSettings()
    history: HistorySettings = HistorySettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    senders: dict[str, SenderTable] = {}
    routes: Routes = Routes()

    @property
    def routed_senders(self) -> tuple[str, ...]:
        """The senders that messages can leave through, each once: those of `delivery.senders`, then of the routes."""
        return tuple(dict.fromkeys((*self.delivery.senders, *self.routes.senders)))


SECTIONS: dict[str, type[msgspec.Struct]] = {
    field.name: field.type
    for field in msgspec.structs.fields(Settings)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct) and field.type is not Routes
}


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    overrides: Mapping[str, Any] | None = None,
    needs: Collection[Need] = ALL_NEEDS,
) -> Settings:
    """Read the settings.

    `path` None means OTPSVC_CONFIG, else ./otpsvc.toml if it exists. `overrides` are values by
    dotted path (`{"http.port": 9000}`), the strongest. `needs` are the keys without which the
    command at hand cannot run; the others of `ALL_NEEDS` may stay empty. Raises
    ConfigurationError: one line, or all faults at once, a line each.
    """
    source = Source({name: setting_keys(kind) for name, kind in SECTIONS.items()})
    file = settings_path(path, environ)
    if file is not None:
        source.read_file(file)
    source.read_environment(environ)
    source.override(overrides or {})
    faults = source.faults
    sections: dict[str, Any] = {
        name: read_struct(kind, source.sections[name], path=name, faults=faults) for name, kind in SECTIONS.items()
    }
    delivery: DeliverySettings | None = sections["delivery"]
    routes = read_routes(source.routes, faults)
    listed = (*(delivery.senders if delivery else ()), *routes.senders)
    senders = _sender_tables(source, listed, faults)
    faults += [line for need in needs if (line := _lacking(need, source))]
    if faults:
        raise _refusal(faults)
    return Settings(**sections, senders=senders, routes=routes)


def _sender_tables(source: Source, listed: tuple[str, ...], faults: list[str]) -> dict[str, SenderTable]:
    tables: dict[str, SenderTable] = {}
    for name in dict.fromkeys((*listed, *source.senders)):
        given = dict(source.senders.get(name, {}))
        kind = given.pop("type", Given(name, ""))
        if not re.match(_NAME, name):
            faults.append(f"senders.{name}: the name must be {_NAME_WORDS}")
        elif not isinstance(kind.value, str) or not re.match(_NAME, kind.value):
            faults.append(f"{kind.origin}: senders.{name}.type must be {_NAME_WORDS}")
        else:
            bounds = {key: given.pop(key) for key in SenderLimits.__struct_fields__ if key in given}
            limits = read_struct(SenderLimits, bounds, path=f"senders.{name}", faults=faults)
            tables[name] = SenderTable(name, kind.value, given, limits)
    return tables


def _lacking(need: str, source: Source) -> str | None:
    section, key = need.split(".")
    if source.sections[section].keys() & {key, f"{key}_file"}:
        return None
    name = f"OTPSVC_{section}_{key}".upper()
    return f"{need} must be given: {name}, {name}_FILE, or {key} in [{section}] of otpsvc.toml"


def _refusal(faults: list[str]) -> ConfigurationError:
    if len(faults) == 1:
        return ConfigurationError(faults[0])
    return ConfigurationError("\n  ".join([f"{len(faults)} faults in the settings:", *faults]))
