"""What one phone number costs: our patterns against the library's parse, validity and type.

Run it with `python benchmarks/phone.py`. It prints microseconds per call (the best of five rounds,
both sides taking turns) for strict E.164, for a decorated form, and the ratio; and what the first
number of a calling code pays for compiling its pattern.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import phonenumbers

from otpsvc.phone import normalise

ROUNDS = 5
CALLS = 2000
STRICT = (
    "+33612345678",
    "+16502530000",
    "+447400123456",
    "+4915123456789",
    "+393123456789",
    "+79123456789",
    "+2250123456789",
    "+919876543210",
    "+5511961234567",
    "+8613123456789",
)
DECORATED = tuple(f"00{number[1:5]} {number[5:8]}-{number[8:]}" for number in STRICT)


def through_library(raw: str) -> str:
    text = "+" + raw[2:] if raw.startswith("00") else raw
    parsed = phonenumbers.parse(text)
    assert phonenumbers.is_valid_number(parsed)
    phonenumbers.number_type(parsed)
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def microseconds(call: Callable[[str], str], numbers: tuple[str, ...]) -> float:
    calls = CALLS // len(numbers)
    start = time.perf_counter()
    for _ in range(calls):
        for number in numbers:
            call(number)
    return (time.perf_counter() - start) / (calls * len(numbers)) * 1e6


def first_call_ms(number: str) -> float:
    start = time.perf_counter()
    normalise(number)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    print("first number of a calling code (compiles its pattern):")
    for number in STRICT[:3]:
        print(f"  {number[:3]:<18}{first_call_ms(number):8.1f} ms")
    print(f"{'µs per call':<20}{'library':>8}{'ours':>8}{'ratio':>8}")
    for name, numbers in (("strict E.164", STRICT), ("decorated", DECORATED)):
        assert all(normalise(number) == through_library(number) for number in numbers)
        rounds = [(microseconds(through_library, numbers), microseconds(normalise, numbers)) for _ in range(ROUNDS)]
        library, ours = (min(side) for side in zip(*rounds, strict=True))
        print(f"{name:<20}{library:8.1f}{ours:8.2f}{library / ours:7.0f}x")


if __name__ == "__main__":
    main()
