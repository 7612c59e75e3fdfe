"""The one form in which names of operators are compared: that of a SIM, as the phone tells it, and that of a number."""

import unicodedata

# With these a phone covers what it does not want to tell; a covered name is no name.
_COVERS = frozenset("*•●×█")


def operator_word(text: str | None) -> str:
    """Return the first word of an operator's name, its letters only, without accents and in lower case.

    Empty where there is none, or where the phone has covered a part of it: `T-Mobile CZ` is `tmobile`, `****ange` is
    nobody.
    """
    words = (text or "").split()
    if not words or not _COVERS.isdisjoint(text or ""):
        return ""
    plain = unicodedata.normalize("NFKD", words[0]).casefold()
    return "".join(letter for letter in plain if letter.isalpha())
