"""Where settings come from: the command line, the environment, `otpsvc.toml`, in this precedence.

This file finds values and says where each was found; it does not judge them. A key given as a file
(`url_file`) and the same key given directly are one setting: the stronger place wins as a whole.
"""

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from otpsvc.errors import ConfigurationError
from otpsvc.settings_values import Given, unknown_key

PREFIX = "OTPSVC_"
DEFAULT_PATH = Path("otpsvc.toml")
# Read by this file, or set for the callers of the service and by chance in its environment too.
# Read by the command line and by `dev` themselves.
# The last two are for the tests of our pages; a developer's shell has them all the time.
_OWN = ("OTPSVC_DATA_DIR", "OTPSVC_PARENT_PID", "OTPSVC_CHROMIUM", "OTPSVC_NEEDS_CHROMIUM")
OTHER_VARIABLES = frozenset({"OTPSVC_CONFIG", "OTPSVC_URL", "OTPSVC_CLIENT_ID", "OTPSVC_API_KEY", *_OWN})

Section = dict[str, Given]

# Kubernetes describes every Service to every container of its namespace in such variables.
_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://.*")


class Source:
    """Everything given, by section: `sections["http"]["port"]`, `senders["phones"]["type"]`, `routes["sms"]`.

    `faults` holds lines about what could not be placed at all.
    """

    def __init__(self, known: Mapping[str, Iterable[str]]) -> None:
        self.sections: dict[str, Section] = {name: {} for name in known}
        self.senders: dict[str, Section] = {}
        self.routes: Section = {}
        self.faults: list[str] = []
        self._known = {name: list(keys) for name, keys in known.items()}

    def read_file(self, path: Path) -> None:
        """Take a TOML file; raise ConfigurationError if it cannot be read as one."""
        try:
            mode = path.stat().st_mode
            tree = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{path}: is not UTF-8 text") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{path}: is not valid TOML: {error}") from None
        is_exposed = bool(mode & stat.S_IROTH)

        def given(table: Mapping[str, Any]) -> Section:
            return {
                key: Given(value, str(path), directory=path.parent, is_exposed=is_exposed)
                for key, value in table.items()
            }

        for name, table in tree.items():
            if name not in ("routes", "senders") and name not in self.sections:
                known = [*self.sections, "routes", "senders"]
                self.faults.append(unknown_key(str(path), "", name, known))
            elif not isinstance(table, dict):
                self.faults.append(f"{path}: {name} must be a table: [{name}]")
            elif name == "senders":
                self._take_senders(path, table, given)
            elif name == "routes":
                self.routes = given(table)
            else:
                self.sections[name] = given(table)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take all variables that start with OTPSVC_; an empty one counts as not given."""
        names = {variable_name(section, key): (section, key) for section, keys in self._known.items() for key in keys}
        of_senders: dict[str, str] = {}
        for name, value in sorted(environ.items()):
            if not name.startswith(PREFIX) or name in OTHER_VARIABLES or not value.strip():
                continue
            if _SERVICE_LINK.fullmatch(name):
                continue
            if name.endswith("_PORT") and _SERVICE_LINK_VALUE.fullmatch(value):
                continue
            if name in names:
                section, key = names[name]
                self._put(self.sections[section], key, Given(value, name, is_text=True))
            elif name.startswith(variable_name("senders", "")):
                of_senders[name] = value
            else:
                self.faults.append(unknown_key(name, "", name, names))
        self._take_sender_variables(of_senders)

    def override(self, values: Mapping[str, Any]) -> None:
        """Take values by dotted path (`http.port`), the strongest; KeyError for an unknown path."""
        for path, value in values.items():
            section, key = path.split(".")
            if key not in self._known[section]:
                raise KeyError(path)
            self._put(self.sections[section], key, Given(value, "command line"))

    def _put(self, section: Section, key: str, given: Given) -> None:
        """Let a stronger place win over the same key and over its file, or the reverse."""
        twin = key.removesuffix("_file") if key.endswith("_file") else f"{key}_file"
        are_both_variables = twin in section and section[twin].is_text and given.is_text
        if not are_both_variables:
            section.pop(twin, None)
        section[key] = given

    def _take_senders(self, path: Path, tables: Mapping[str, Any], given: Any) -> None:
        for name, table in tables.items():
            if isinstance(table, dict):
                self.senders[name] = given(table)
            else:
                self.faults.append(f"{path}: senders.{name} must be a table: [senders.{name}]")

    def _take_sender_variables(self, variables: Mapping[str, str]) -> None:
        """Give OTPSVC_SENDERS_<NAME>_<KEY> to the sender of this name."""
        names = {variable_name("senders", name) + "_": name for name in self._sender_names()}
        for variable, value in variables.items():
            owners = [prefix for prefix in names if variable.startswith(prefix)]
            if len(owners) != 1:
                why = "belongs to no sender that is set up" if not owners else "fits two senders"
                self.faults.append(f"{variable}: {why}; use [senders.<name>] in otpsvc.toml")
                continue
            key = variable.removeprefix(owners[0]).lower()
            table = self.senders.setdefault(names[owners[0]], {})
            self._put(table, key, Given(value, variable, is_text=True))

    def _sender_names(self) -> set[str]:
        listed = self.sections["delivery"].get("senders", Given((), "")).value
        if isinstance(listed, str):
            listed = [part.strip() for part in listed.split(",")]
        return {*self.senders, *(name for name in listed if isinstance(name, str) and name)}


def variable_name(section: str, key: str) -> str:
    """Name the environment variable of a key: OTPSVC_HTTP_PORT."""
    return f"{PREFIX}{section}_{key}".upper().replace("-", "_")


def settings_path(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Choose the file: the one asked for, OTPSVC_CONFIG, ./otpsvc.toml if it exists, else none."""
    if path is not None:
        return path
    if environ.get("OTPSVC_CONFIG"):
        return Path(environ["OTPSVC_CONFIG"])
    return DEFAULT_PATH if os.path.lexists(DEFAULT_PATH) else None
