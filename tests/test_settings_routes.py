"""Routes in the settings: what is read, and that every fault is one line that names its key."""

from collections.abc import Callable
from pathlib import Path

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.messages.policy import QuietHours, Route, RouteStep, SenderLimits
from otpsvc.settings import Settings, load

Read = Callable[[str], Settings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Load settings from the text of a file."""

    def read_text(text: str) -> Settings:
        path = tmp_path / "otpsvc.toml"
        path.write_text(text)
        path.chmod(0o600)
        return load(path, {}, needs=())

    return read_text


def test_no_routes_is_an_empty_table(read: Read) -> None:
    settings = read('[delivery]\nsenders = ["a", "b"]\n')
    assert settings.routes.table == {}
    assert settings.routed_senders == ("a", "b")


def test_a_whole_table(read: Read) -> None:
    settings = read("""
        [routes.sms]
        on_unknown = "stop"
        max_senders = 3
        max_price = 0.12
        receipt_timeout_s = 40
        on_full = "wait"
        full_wait_s = 12.5
        "+39" = ["skebby", "vonage-eu"]
        "*" = [
            { sender = "phones", weight = 3, timeout_s = 5, receipt_timeout_s = 15.5 },
            { sender = "vonage-eu", price = 0.06, quiet = { start = "22:00", end = "07:00", zone = "Europe/Rome" } },
        ]

        [routes.client_100000000001.sms]
        "*" = ["own"]
    """)
    route = settings.routes.table["", "sms"]["*"]
    assert route == Route(
        steps=(
            RouteStep(sender="phones", weight=3, timeout_s=5, receipt_timeout_s=15.5),
            RouteStep(sender="vonage-eu", price=0.06, quiet=QuietHours(start="22:00", end="07:00", zone="Europe/Rome")),
        ),
        on_unknown="stop",
        max_senders=3,
        max_price=0.12,
        receipt_timeout_s=40,
        on_full="wait",
        full_wait_s=12.5,
    )
    assert [step.sender for step in settings.routes.table["", "sms"]["+39"].steps] == ["skebby", "vonage-eu"]
    assert settings.routes.table["", "sms"]["+39"].max_senders == 3
    own = settings.routes.table["client_100000000001", "sms"]
    assert own == {"*": Route(steps=(RouteStep(sender="own"),))}
    assert settings.routed_senders == ("skebby", "vonage-eu", "phones", "own")
    assert settings.senders["own"].type == "own"


def test_what_bounds_a_sender_is_not_its_own_setting(read: Read) -> None:
    settings = read('[senders.acme]\ntype = "webhook"\nrate_per_s = 2.5\nconcurrency = 4\nurl = "https://a.example"\n')
    table = settings.senders["acme"]
    assert table.limits == SenderLimits(rate_per_s=2.5, concurrency=4)
    assert table.options == {"url": "https://a.example"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[routes]\nsms = "x"', "routes.sms must be a table"),
        ('[routes.pigeon]\n"*" = ["a"]', "routes.pigeon must be a table of a channel"),
        ('[routes.client_1.sms]\n"*" = ["a"]', "routes.client_1 must be a table of a channel"),
        ('[routes.client_100000000001.smss]\n"*" = ["a"]', "did you mean routes.client_100000000001.sms?"),
        ("[routes.sms]\nmax_senders = 2", "needs a list of senders"),
        ('[routes.sms]\nmax_sender = 2\n"*" = ["a"]', "did you mean routes.sms.max_senders?"),
        ('[routes.sms]\nmax_senders = 0\n"*" = ["a"]', "routes.sms.max_senders must be a whole number from 1 to 10"),
        ('[routes.sms]\non_unknown = "go"\n"*" = ["a"]', "routes.sms.on_unknown must be one of next, stop"),
        ('[routes.sms]\non_full = "drop"\n"*" = ["a"]', "routes.sms.on_full must be one of next, wait"),
        ('[routes.sms]\nfull_wait_s = 0\n"*" = ["a"]', "routes.sms.full_wait_s must be a number from 1 to 600"),
        ('[routes.sms]\n"+0" = ["a"]', '"+0", which is no prefix'),
        ('[routes.sms]\n"*" = []', 'routes.sms."*" must be a list of senders that is not empty'),
        ('[routes.sms]\n"*" = "a"', 'routes.sms."*" must be a list of senders'),
        ('[routes.sms]\n"*" = ["a", "a"]', 'routes.sms."*" names one sender twice'),
        ('[routes.sms]\n"*" = [3]', 'routes.sms."*", item 1: must be the name of a sender'),
        ('[routes.sms]\n"*" = [{ weight = 2 }]', "item 1: must be the name of a sender"),
        ('[routes.sms]\n"*" = [{ sender = "a", wait = 2 }]', "item 1: there is no setting wait"),
        ('[routes.sms]\n"*" = [{ sender = "a", weight = 0 }]', "item 1: weight must be a whole number from 1"),
        ('[routes.sms]\n"*" = [{ sender = "a", quiet = { start = "24:00", end = "1" } }]', "item 1: quiet must be"),
        ('[routes.sms]\n"*" = [{ sender = "a", price = -1 }]', "item 1: price must be a number from 0 on"),
        ('[routes.sms]\nmax_price = "1,5"\n"*" = ["a"]', "routes.sms.max_price must be a number from 0 on"),
        ('[routes.sms]\nreceipt_timeout_s = nan\n"*" = ["a"]', "receipt_timeout_s must be a number from 1 to 600"),
        ("[senders.a]\nmissed_receipts = 101", "senders.a.missed_receipts must be a whole number from 0 to 100"),
        ("[senders.a]\ndemoted_probe_s = 3600", "senders.a.demoted_probe_s must be a number from 1 to 1800"),
        ("[senders.a]\nconcurrency = 0", "senders.a.concurrency must be a whole number from 1 to 1000"),
    ],
)  # fmt: skip
def test_faults_are_one_line_each(read: Read, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    (line,) = str(caught.value).splitlines()
    assert words in line
