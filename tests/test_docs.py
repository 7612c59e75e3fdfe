"""What the documents say is there, is there; what is there is in the documents."""

import re
import tomllib
from pathlib import Path

import pytest

from otpsvc.cli_devices import device
from otpsvc.devices.model import Gone
from otpsvc.devices.policy import Budget, DeviceSettings
from otpsvc.errors import CATALOGUE
from otpsvc.http.v1 import wire, wire_devices
from otpsvc.http.v1.wire_messages import MessageAnswer
from otpsvc.http.v1.wire_numbers import ForgetAnswer, ForgetBody
from otpsvc.otp.policy import PURPOSES
from otpsvc.senders.phones import PhonesSettings

ROOT = Path(__file__).parent.parent
API = (ROOT / "docs/api.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])

# Every call can meet these, so the API's page says it once, in its own words.
ANYWHERE = {
    "INTERNAL_ERROR",
    "INVALID_API_KEY",
    "INVALID_CLIENT_ID",
    "INVALID_JSON",
    "METHOD_NOT_ALLOWED",
    "MISSING_AUTH_HEADERS",
    "NOT_FOUND",
    "PAYLOAD_TOO_LARGE",
    "REQUEST_TIMEOUT",
    "RESOURCE_NOT_FOUND",
    "SERVICE_UNAVAILABLE",
    "UNSUPPORTED_MEDIA_TYPE",
}


@pytest.mark.parametrize("code", sorted(CATALOGUE.keys() - ANYWHERE))
def test_every_error_of_a_call_is_explained(code: str) -> None:
    assert f"`{code}`" in API


def test_no_document_names_an_error_that_does_not_exist() -> None:
    shaped = re.compile(r"`((?:OTP|INVALID|MESSAGE|RATE|IDEMPOTENCY|SERVICE|VALIDATION)_[A-Z_]+)`")
    for document in DOCUMENTS:
        named = set(shaped.findall(document.read_text("utf-8")))
        assert named <= CATALOGUE.keys(), document.name


_ANSWERS = (
    wire.SendAnswer,
    wire.VerifiedAnswer,
    wire.WrongAnswer,
    wire.OtpAnswer,
    wire.OtpHistoryAnswer,
    wire.HistoryEntry,
    MessageAnswer,
    ForgetAnswer,
    wire_devices.PairingAnswer,
    wire_devices.PairingListAnswer,
    wire_devices.OpenPairingEntry,
    wire_devices.ClosedPairingAnswer,
    wire_devices.DeviceAnswer,
    wire_devices.SimEntry,
    wire_devices.BudgetEntry,
    wire_devices.DeviceListAnswer,
    wire_devices.DeletedDeviceAnswer,
)
_BODIES = (
    wire.SendBody,
    wire.VerifyBody,
    wire.VerifyOtpBody,
    wire.ResendBody,
    ForgetBody,
    wire_devices.PairBody,
    wire_devices.ConfirmBody,
    wire_devices.DevicePatch,
    wire_devices.BudgetPatch,
    wire_devices.Quiet,
)


@pytest.mark.parametrize("body", _BODIES)
def test_every_field_that_a_call_takes_is_explained(body: type[wire.SendBody]) -> None:
    for field in body.__struct_fields__:
        assert f"`{field}`" in API, field


@pytest.mark.parametrize("answer", _ANSWERS)
def test_every_field_that_a_call_answers_is_named(answer: type[wire.SendAnswer]) -> None:
    words = set(re.findall(r"[a-z_]+", API))
    assert words >= set(answer.__struct_fields__)


def test_the_known_purposes_are_named() -> None:
    for purpose in PURPOSES:
        assert f"`{purpose}`" in API


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    table = (ROOT / "docs/decisions/0001-dependencies.md").read_text("utf-8")
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["embedded"]
    wanted += [line for group in ("build", "test", "lint", "typing") for line in project["dependency-groups"][group]]
    for requirement in wanted:
        name = re.split(r"[\[<>=;! ]", requirement)[0]
        assert re.search(rf"\b{re.escape(name)}\b", table), name


def test_the_house_is_drawn_as_it_stands() -> None:
    drawn = set(re.findall(r"^  (\w+)/ ", ARCHITECTURE, re.MULTILINE))
    built = {path.name for path in (ROOT / "otpsvc").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert drawn == built


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_commands_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


DEVICES = (ROOT / "docs/devices.md").read_text("utf-8")


def test_every_command_on_devices_is_explained() -> None:
    for name, command in device.commands.items():
        assert f"`{name}" in DEVICES or f"`otpsvc device {name}" in DEVICES, name
        for option in command.params:
            if option.opts[0] in ("--messages", "--window-s", "--recipients", "--quiet", "--zone", "--spare"):
                assert option.opts[0] in DEVICES


def test_the_words_for_phones_that_have_gone_are_explained() -> None:
    for word in Gone:
        assert f"`{word}`" in DEVICES
        assert f"`{word}`" in API


def test_the_defaults_that_the_page_on_devices_names_are_those_of_the_code() -> None:
    budget, settings = Budget(), DeviceSettings()
    assert f"| {budget.messages_per_window} | messages in any stretch of |" in DEVICES
    assert f"| {budget.window_s} | so many seconds |" in DEVICES
    assert f"| {budget.recipients_per_day} | different numbers" in DEVICES
    assert f"`devices.online_s` ({settings.online_s:g} s)" in DEVICES
    assert f"`devices.keep_alive_s` ({settings.keep_alive_s:g} s)" in DEVICES
    phones = PhonesSettings()
    for field in phones.__struct_fields__:
        assert f"{field} = {getattr(phones, field):g}" in DEVICES, field
