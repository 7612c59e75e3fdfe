"""The settings: every place they come from, every fault told in one line, no secret ever shown."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.messages.policy import QuietHours, Route, RouteStep, SenderLimits
from otpsvc.settings import SECTIONS, Secret, Settings, load
from otpsvc.settings_source import variable_name
from otpsvc.settings_values import setting_keys

MASTER = "5a" * 32
NEEDED = {
    "OTPSVC_REDIS_URL": "redis://:redis-password@localhost/0",
    "OTPSVC_DATABASE_URL": "postgresql://otpsvc:database-password@localhost/otpsvc",
    "OTPSVC_KEYS_MASTERS": f"2026a:{MASTER}",
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a private file below the test's directory."""

    def write_file(name: str, text: str, mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return write_file


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def faults_of(path: Path | None, environ: dict[str, str], *, needed: bool = True) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(path, environ | NEEDED if needed else environ)
    return [line.strip() for line in str(caught.value).splitlines()]


def test_defaults_are_the_products_rules() -> None:
    settings = load(None, NEEDED)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert (settings.otp.code_length, settings.otp.ttl_s, settings.otp.max_attempts) == (6, 300, 3)
    assert (settings.otp.sends_per_hour, settings.otp.cooldown_s) == (10, 30)
    assert settings.redis.partitions == 1
    assert settings.delivery.senders == ()


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(write: Write) -> None:
    path = write("otpsvc.toml", '[http]\nport = 1111\nhost = "::1"\nmax_body_bytes = 2048\n')
    environ = NEEDED | {"OTPSVC_HTTP_PORT": "2222", "OTPSVC_HTTP_HOST": "0.0.0.0"}  # noqa: S104
    settings = load(path, environ, overrides={"http.port": 3333})
    assert settings.http.port == 3333
    assert settings.http.host == "0.0.0.0"  # noqa: S104
    assert settings.http.max_body_bytes == 2048


def test_the_file_is_found(write: Write) -> None:
    write("otpsvc.toml", "[http]\nport = 1111\n")
    other = write("other.toml", "[http]\nport = 2222\n")
    assert load(None, NEEDED).http.port == 1111
    assert load(None, NEEDED | {"OTPSVC_CONFIG": str(other)}).http.port == 2222
    assert load(other, NEEDED).http.port == 2222


@pytest.mark.parametrize(
    ("text", "words"),
    [("[http", "not valid TOML"), ("\xff", "not UTF-8"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "broken.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    [line] = faults_of(path, {})
    assert line.startswith(f"{path}: ")
    assert words in line


def test_every_kind_of_value_is_read_from_text() -> None:
    environ = NEEDED | {
        "OTPSVC_HTTP_BODY_TIMEOUT_S": "2.5",
        "OTPSVC_OTP_PURPOSES": "login, registration",
        "OTPSVC_DELIVERY_SENDERS": "phones,vonage-eu",
        "OTPSVC_LOG_LEVEL": " debug ",
        "OTPSVC_HTTP_PUBLIC_URL": "https://otp.example.com",
        "OTPSVC_HTTP_PORT": "",
        "OTPSVC_HTTP_TRUSTED_PROXIES": "10.0.0.5, 2001:db8::/32",
    }
    settings = load(None, environ)
    assert settings.http.trusted_proxies == ("10.0.0.5", "2001:db8::/32")
    assert settings.http.body_timeout_s == 2.5
    assert settings.otp.purposes == ("login", "registration")
    assert settings.delivery.senders == ("phones", "vonage-eu")
    assert settings.log.level == "debug"
    assert settings.http.public_url == "https://otp.example.com"
    assert settings.http.port == 8080


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HTTP_PORT", "0", "http.port must be a whole number from 1 to 65535"),
        ("HTTP_PORT", "eighty", "http.port must be a whole number from 1 to 65535"),
        ("HTTP_PORT", "80.5", "http.port must be a whole number from 1 to 65535"),
        ("HTTP_BODY_TIMEOUT_S", "nan", "http.body_timeout_s must be a number from 0.1 to 120"),
        ("HTTP_BODY_TIMEOUT_S", "inf", "http.body_timeout_s must be a number from 0.1 to 120"),
        ("HTTP_PUBLIC_URL", "https://x/", "http.public_url must be http(s)://… with no / last"),
        ("HTTP_HOST", "a b", "http.host must be a host name or an address"),
        ("HTTP_TRUSTED_PROXIES", "10.0.0.5,proxy", "http: trusted_proxies must be addresses or networks"),
        ("HTTP_TRUSTED_PROXIES", "10.0.0.5/8", "http: trusted_proxies must be addresses or networks"),
        ("HTTP_TRUSTED_PROXIES", "*", "http: trusted_proxies must be addresses or networks"),
        ("HTTP_TRUSTED_PROXIES", "::/0", "http: trusted_proxies must not be everybody"),
        ("REDIS_PARTITIONS", "257", "redis.partitions must be a whole number from 1 to 256"),
        ("REDIS_URL", "http://x", "redis: url must start with redis:// or rediss:// or unix://"),
        ("DATABASE_URL", "x", "database: url must start with postgresql:// or postgres://"),
        ("DATABASE_MIN_CONNECTIONS", "9", "min_connections must not be more than max_connections"),
        ("OTP_MAX_ATTEMPTS", "4", "otp.max_attempts must be a whole number from 1 to 3"),
        ("OTP_SENDS_PER_HOUR", "11", "otp.sends_per_hour must be a whole number from 1 to 10"),
        ("OTP_PURPOSES", "login,Big", "otp.purposes must be a list, each text of the form"),
        ("LOG_LEVEL", "loud", "log.level must be one of debug, error, info, warning"),
        ("DELIVERY_SENDERS", "a,a", "senders names one sender twice"),
        ("DELIVERY_SENDERS", "A", "delivery.senders must be a list, each 1 to 32 lower-case"),
        ("KEYS_INDEX_MASTER", "other", "index_master must be the name of one of the masters"),
    ],
)
def test_bad_values_get_one_clear_line(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, NEEDED | {f"OTPSVC_{name}": value})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_toml_types_are_strict(write: Write) -> None:
    path = write("otpsvc.toml", '[http]\nport = "80"\nhost = true\n[redis]\npartitions = 300\n')
    lines = faults_of(path, {})
    assert f"{path}: http.port must be a whole number from 1 to 65535" in lines
    assert f"{path}: http.host must be a host name or an address, not True" in lines
    assert f"{path}: redis.partitions must be a whole number from 1 to 256, not 300" in lines


def test_unknown_keys_are_refused_with_the_nearest_name(write: Write) -> None:
    path = write("otpsvc.toml", "http = 1\n[http2]\n[redis]\nprefxi = 1\n[senders]\na = 1\n")
    lines = faults_of(path, {"OTPSVC_HTTP_PROT": "1", "OTPSVC_WHATEVER_ELSE": "1"})
    assert f"{path}: http must be a table: [http]" in lines
    assert f"{path}: there is no setting http2; did you mean http?" in lines
    assert f"{path}: there is no setting redis.prefxi; did you mean redis.prefix?" in lines
    assert f"{path}: senders.a must be a table: [senders.a]" in lines
    nearest = "OTPSVC_HTTP_PROT: there is no setting OTPSVC_HTTP_PROT; did you mean OTPSVC_HTTP_PORT?"
    assert nearest in lines
    assert any(line.startswith("OTPSVC_WHATEVER_ELSE: there is no setting") for line in lines)
    assert lines[0] == "6 faults in the settings:"


def test_variables_of_callers_and_of_kubernetes_are_let_through() -> None:
    settings = load(
        None,
        NEEDED
        | {
            "OTPSVC_URL": "http://localhost:8080",
            "OTPSVC_CLIENT_ID": "client_1",
            "OTPSVC_API_KEY": "zs_test_x",
            "OTPSVC_SERVICE_HOST": "10.0.0.1",
            "OTPSVC_SERVICE_PORT_HTTP": "80",
            "OTPSVC_PORT": "tcp://10.0.0.1:80",
            "OTPSVC_PORT_80_TCP_ADDR": "10.0.0.1",
            "OTPSVC_HTTP_PORT": "tcp://10.0.0.2:80",
            "OTPSVC_REDIS_SERVICE_HOST": "10.0.0.3",
            "PATH": "/bin",
        },
    )
    assert settings.http.port == 8080


def test_missing_secrets_are_told_together_and_only_where_needed() -> None:
    lines = faults_of(None, {}, needed=False)
    assert [line.split()[0] for line in lines[1:]] == ["redis.url", "database.url", "keys.masters"]
    settings = load(None, {"OTPSVC_DATABASE_URL": "postgresql://localhost/x"}, needs=["database.url"])
    assert not settings.redis.url


def test_secrets_from_files(write: Write, tmp_path: Path) -> None:
    write("database-url", "postgresql://u:in-a-file@h/x\n")
    write("new", MASTER + "\n", 0o640)
    path = write(
        "otpsvc.toml",
        '[database]\nurl_file = "database-url"\n'
        f'[keys.masters]\n2026b_file = "new"\n2026a = "{base64.b64encode(b"k" * 32).decode()}"\n',
        0o600,
    )
    redis_url = write("redis-url", "redis://h/0")
    settings = load(path, {"OTPSVC_REDIS_URL_FILE": str(redis_url)})
    assert settings.database.url.reveal() == "postgresql://u:in-a-file@h/x"
    assert settings.redis.url.reveal() == "redis://h/0"
    assert dict(settings.keys.masters) == {"2026b": bytes.fromhex(MASTER), "2026a": b"k" * 32}
    assert list(settings.keys.masters) == ["2026b", "2026a"]
    # A variable replaces the file's `url_file`, and the reverse.
    assert load(path, NEEDED).database.url.reveal() == NEEDED["OTPSVC_DATABASE_URL"]
    settings = load(path, NEEDED, overrides={"database.url": "postgresql://o/x"})
    assert settings.database.url.reveal() == "postgresql://o/x"


def test_masters_from_one_file_keep_their_order(write: Write) -> None:
    path = write("masters", f"b:{'0b' * 32}\na:{'0a' * 32}\n")
    environ = {name: value for name, value in NEEDED.items() if "KEYS" not in name}
    settings = load(None, environ | {"OTPSVC_KEYS_MASTERS_FILE": str(path)})
    assert list(settings.keys.masters.items()) == [("b", b"\x0b" * 32), ("a", b"\x0a" * 32)]


@pytest.mark.parametrize(
    "value", ["justone", "a:short", f"a:{MASTER},a:{MASTER}", f"UP:{MASTER}", f"a:{MASTER}zz", ",", "a:" + "*" * 44]
)
def test_bad_masters_are_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, NEEDED | {"OTPSVC_KEYS_MASTERS": value})
    assert str(caught.value).startswith("OTPSVC_KEYS_MASTERS: keys.masters ")
    assert MASTER not in str(caught.value)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "content", "words"),
    [
        (0o644, "redis://h", "every user can read"),
        (0o602, "redis://h", "every user can change"),
        (0o600, " \n", "is empty"),
        (0o600, "x" * 70_000, "too large"),
        (0o600, None, "cannot be read"),
    ],
)
def test_bad_secret_files(write: Write, tmp_path: Path, mode: int, content: str | None, words: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        write("secret", content, mode)
    environ = {name: value for name, value in NEEDED.items() if "REDIS" not in name}
    [line] = faults_of(None, environ | {"OTPSVC_REDIS_URL_FILE": str(path)}, needed=False)
    assert line.startswith(f"OTPSVC_REDIS_URL_FILE: redis.url_file names {path}, ")
    assert words in line


def test_a_secret_file_that_is_no_file_does_not_hang(tmp_path: Path) -> None:
    environ = {name: value for name, value in NEEDED.items() if "REDIS" not in name}
    [line] = faults_of(None, environ | {"OTPSVC_REDIS_URL_FILE": "/dev/zero"}, needed=False)
    assert "not a file" in line


def test_a_key_and_its_file_in_one_place_are_refused(write: Write) -> None:
    secret = write("secret", "redis://h")
    [line] = faults_of(None, {"OTPSVC_REDIS_URL_FILE": str(secret)})
    assert line == "OTPSVC_REDIS_URL: redis.url and url_file are both given; keep one"


def test_secrets_in_a_file_that_everybody_reads_are_refused(write: Write) -> None:
    path = write(
        "otpsvc.toml",
        '[redis]\nurl = "redis://localhost"\n[database]\nurl = "postgresql://u:hush@h/x"\n'
        f'[keys.masters]\na = "{MASTER}"\n',
        0o644,
    )
    lines = faults_of(path, {}, needed=False)
    assert [line.split()[1] for line in lines[1:]] == ["database.url", "keys.masters"]
    assert all("chmod 600" in line for line in lines[1:])
    path.chmod(0o640)
    assert load(path, {}).database.url.reveal().endswith("@h/x")


class VonageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender's own settings may look like."""

    api_key: str
    api_secret: Secret
    rate: Annotated[int, msgspec.Meta(ge=1, le=30)] = 1


def test_senders_read_their_own_tables(write: Write) -> None:
    write("vonage", "sender-secret")
    path = write(
        "otpsvc.toml",
        '[delivery]\nsenders = ["inbox", "vonage-eu"]\n[senders.vonage-eu]\ntype = "vonage"\n'
        'api_key = "k"\napi_secret_file = "vonage"\n[senders.spare]\n',
    )
    settings = load(path, NEEDED | {"OTPSVC_SENDERS_VONAGE_EU_RATE": "7"})
    assert {name: table.type for name, table in settings.senders.items()} == {
        "inbox": "inbox",
        "vonage-eu": "vonage",
        "spare": "spare",
    }
    table = settings.senders["vonage-eu"]
    assert table.options == {"api_key": "k", "api_secret_file": "vonage", "rate": "7"}
    options = table.read(VonageSettings)
    assert (options.api_key, options.api_secret.reveal(), options.rate) == ("k", "sender-secret", 7)
    assert "sender-secret" not in repr(options)


def test_faults_in_a_senders_table_are_told_together(write: Write) -> None:
    path = write("otpsvc.toml", '[senders.v]\napi_kye = "k"\nrate = 99\napi_secret = 5\n')
    with pytest.raises(ConfigurationError) as caught:
        load(path, NEEDED).senders["v"].read(VonageSettings)
    text = str(caught.value)
    assert "there is no setting senders.v.api_kye; did you mean senders.v.api_key?" in text
    assert "senders.v.api_key must be given" in text
    assert "senders.v.rate must be a whole number from 1 to 30, not 99" in text
    assert "senders.v.api_secret must be text that is not empty" in text


def test_sender_variables_without_a_sender_are_refused() -> None:
    [line] = faults_of(None, {"OTPSVC_SENDERS_NOBODY_KEY": "x"})
    assert "belongs to no sender" in line
    [line] = faults_of(None, {"OTPSVC_SENDERS_A_B_KEY": "x", "OTPSVC_DELIVERY_SENDERS": "a,a-b"})
    assert "fits two senders" in line


def test_nothing_secret_is_printed(write: Write) -> None:
    path = write("otpsvc.toml", '[senders.v]\napi_secret = "sender-secret"\n')
    settings = load(path, NEEDED)
    shown = f"{settings!r} {settings!s} {settings.senders['v']!r} {settings.keys.masters!s}"
    for secret in ("redis-password", "database-password", MASTER, "sender-secret", repr(b"\x5a" * 32)):
        assert secret not in shown


def test_faults_do_not_repeat_text_that_may_be_a_secret(write: Write) -> None:
    path = write("otpsvc.toml", '[http]\nport = "hush-hush"\n[redis]\nurl = ["hush-hush"]\n')
    with pytest.raises(ConfigurationError) as caught:
        load(path, {})
    assert "hush-hush" not in str(caught.value)


def test_an_override_must_name_a_setting() -> None:
    with pytest.raises(KeyError):
        load(None, NEEDED, overrides={"http.prot": 1})


def test_variable_names_are_unambiguous() -> None:
    names = [variable_name(section, key) for section, kind in SECTIONS.items() for key in setting_keys(kind)]
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("OTPSVC_SENDERS_")]


def test_every_key_is_documented_with_its_default() -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text("utf-8")
    chapters = dict(re.findall(r"^## `\[([a-z]+)[^\]]*\]`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert chapters.keys() == {*SECTIONS, "senders", "routes"}
    bounds = re.findall(r"^\| `(\w+)` \| (\S+) \|", chapters["senders"], re.MULTILINE)
    fields = msgspec.structs.fields(SenderLimits)
    assert bounds == [(field.name, f"{field.default:g}" if field.default else "none") for field in fields]
    for name in (*RouteStep.__struct_fields__, *Route.__struct_fields__[1:], *QuietHours.__struct_fields__):
        assert f"`{name}`" in chapters["routes"], name
    for section, kind in SECTIONS.items():
        rows = [line for line in chapters[section].splitlines() if line.startswith("| `")]
        documented = [key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])]
        assert documented == setting_keys(kind), section
        for field, row in zip(msgspec.structs.fields(kind), rows, strict=True):
            default = row.split("|")[2].strip().strip("`")
            if isinstance(field.default, bool):
                assert default == str(field.default).lower()
            elif isinstance(field.default, int | float | str) and default != "the last":
                assert default == (f"{field.default:g}" if isinstance(field.default, float) else str(field.default))


def test_the_documented_file_is_valid(write: Write, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text("utf-8")
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    (tmp_path / "secrets").mkdir()
    write("secrets/redis-url", "rediss://u:p@h/0")
    write("secrets/database-url", "postgresql://u:p@h/x")
    write("secrets/master-2026b", "0b" * 32)
    write("secrets/master-2026a", "0a" * 32)
    settings = load(write("otpsvc.toml", example[1], 0o644), {})
    assert isinstance(settings, Settings)
    assert settings.delivery.senders == ("acme-eu",)


def test_the_documented_routes_are_valid(write: Write) -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text("utf-8")
    _, example = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    settings = load(write("otpsvc.toml", example), NEEDED)
    assert [step.sender for step in settings.routes.table["", "sms"]["+39"].steps] == ["skebby", "vonage-eu"]
