"""What a pairing shows: that the QR code holds the words beside it, in both forms, and nothing else."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import segno

from otpsvc.devices import qr
from otpsvc.devices.model import Pairing

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PAIRING = Pairing(
    server_url="https://otp.example.com",
    login="phone-kqzwtm",
    password="wv7hjcx2npt4mk",
    code="408213",
    code_expires_at=NOW,
    expires_at=NOW,
)
SAID = """API URL: https://otp.example.com/mobile/v1
Code: 408213
Username: phone-kqzwtm
Password: wv7hjcx2npt4mk"""
QUIET_ZONE = 4


def dark_cells(content: str) -> set[tuple[int, int]]:
    """Where a code of this content is dark, by row and column, its quiet zone included."""
    matrix = segno.make_qr(content, error="l").matrix
    return {
        (row + QUIET_ZONE, column + QUIET_ZONE)
        for row, cells in enumerate(matrix)
        for column, cell in enumerate(cells)
        if cell
    }


def dark_cells_of_text(text: str) -> Iterator[tuple[int, int]]:
    """Read half blocks, in which a letter lights up what is light."""
    light = {"█": (True, True), "▀": (True, False), "▄": (False, True), " ": (False, False)}
    for at, line in enumerate(text.splitlines()):
        for column, letter in enumerate(line):
            yield from ((2 * at + half, column) for half, is_light in enumerate(light[letter]) if not is_light)


def dark_cells_of_svg(svg: str) -> Iterator[tuple[int, int]]:
    """Follow the pen of the one dark path: moves and strokes to the right, one cell high."""
    path = re.search(r'stroke="#000" d="([^"]*)"', svg)
    assert path is not None
    x, y = 0.0, 0.0
    for command, numbers in re.findall(r"([Mmh])([-\d. ]+)", path[1]):
        steps = [float(number) for number in re.findall(r"-?\d*\.?\d+", numbers)]
        if command == "h":
            yield from ((int(y), int(x) + step) for step in range(int(steps[0])))
            x += steps[0]
        else:
            x, y = (steps[0], steps[1]) if command == "M" else (x + steps[0], y + steps[1])


def test_the_terminal_shows_a_code_of_the_facts() -> None:
    text = qr.text(PAIRING)
    size = len(text.splitlines()[0])
    read = {cell for cell in dark_cells_of_text(text) if cell[0] < size}
    assert read == dark_cells(SAID)
    assert len(text.splitlines()) <= 27, "it does not fit a terminal with the words"


def test_the_picture_shows_a_code_of_the_facts() -> None:
    svg = qr.svg(PAIRING)
    assert set(dark_cells_of_svg(svg)) == dark_cells(SAID)
    assert svg.startswith("<svg xmlns=")
    assert "viewBox" in svg
    assert '<path fill="#fff"' in svg, "without a light ground it cannot be read on a dark page"
    for word in ("style", "script", "http://", *SAID.split()):
        assert word not in svg.replace('"http://www.w3.org/2000/svg"', "")


def test_the_words_are_those_of_the_code() -> None:
    assert "\n".join(f"{name}: {value}" for name, value in qr.facts(PAIRING)) == SAID


@pytest.mark.parametrize(
    ("address", "is_fine"),
    [("https://otp.example.com", True), ("HTTPS://otp.example.com", True), ("http://10.0.0.5:8080", False)],
)
def test_an_address_that_no_phone_would_call_is_told(address: str, *, is_fine: bool) -> None:
    assert (qr.warning(address) is None) == is_fine
