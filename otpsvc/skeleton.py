"""What `otpsvc senders new` writes: a distribution with a sender that works, its double and its tests.

The templates are files in `senders/skeleton`, so that they can be read as what they become. They are filled in by
replacing words, never by running anything.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from otpsvc.errors import ConfigurationError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 32
_NAME_WORDS = "up to 32 lower-case letters and digits, a letter first, with single hyphens inside"

# Where each template goes; an empty one has no template.
_PLACES: Mapping[str, str | None] = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "{{module}}/__init__.py": "init.py.txt",
    "{{module}}/sender.py": "sender.py.txt",
    "{{module}}/codes.csv": "codes.csv.txt",
    "{{module}}/py.typed": None,
    "tests/gateway.py": "gateway.py.txt",
    "tests/test_sender.py": "test_sender.py.txt",
}


def render(name: str) -> dict[str, str]:
    """Return the files of the sender type `name`, by their path in the distribution.

    Raises ConfigurationError for a name that cannot be a sender type.
    """
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise ConfigurationError(f"a sender type is {_NAME_WORDS}")
    words = {
        "{{name}}": name,
        "{{module}}": f"otpsvc_{name.replace('-', '_')}",
        "{{class}}": "".join(part.capitalize() for part in name.split("-")),
    }
    templates = files("otpsvc").joinpath("senders", "skeleton")
    return {
        _filled(place, words): _filled(templates.joinpath(template).read_text("utf-8"), words) if template else ""
        for place, template in _PLACES.items()
    }


def write(name: str, directory: Path) -> list[Path]:
    """Write the distribution into `directory`, which must not exist or be empty; return the files.

    Raises ConfigurationError, and has written nothing, for a bad name or a directory with something in it.
    """
    rendered = render(name)
    try:
        if directory.is_symlink() or (directory.exists() and (not directory.is_dir() or any(directory.iterdir()))):
            raise ConfigurationError(f"{directory} exists already: nothing is overwritten, give another --directory")
        written = []
        for place, text in rendered.items():
            path = directory / place
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            written.append(path)
    except OSError as error:
        raise ConfigurationError(f"{directory}: cannot be written: {error.strerror}") from None
    return written


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
