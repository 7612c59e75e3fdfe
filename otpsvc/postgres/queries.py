"""The named queries: every statement lives in `sql/queries/<noun>.sql`, to be read and tested.

A statement opens with its contract, one comment line:

    -- name: client_by_id one (id)

that is its name, how many rows it answers (`one`: none or one row, `many`, `value`: one column of
at most one row, `exec`: none) and what $1, $2, … are called. Statements are never put together from
pieces while the service runs: a value goes in as a parameter or not at all.
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple, cast

Cardinality = Literal["one", "many", "value", "exec"]

_CONTRACT = re.compile(r"-- name: ([a-z][a-z0-9_]*) (one|many|value|exec) \(([a-z0-9_, ]*)\)")
_PLACEHOLDER = re.compile(r"\$(\d+)")


class QueryFileError(Exception):
    """A query file does not follow its form; found by the tests, never by a user."""


class Query(NamedTuple):
    """One named statement."""

    name: str
    cardinality: Cardinality
    parameters: tuple[str, ...]
    sql: str

    def arguments(self, given: dict[str, object]) -> list[object]:
        """Put values in the order of the placeholders; raise TypeError for a wrong set of names."""
        if given.keys() != set(self.parameters):
            odd = sorted(given.keys() ^ set(self.parameters))
            raise TypeError(f"query {self.name}: missing or unknown parameters: {', '.join(odd)}")
        return [given[name] for name in self.parameters]


class Queries:
    """The statements of one noun, by name: `queries.client_by_id`."""

    def __init__(self, statements: dict[str, Query]) -> None:
        self.statements = statements

    def __getattr__(self, name: str) -> Query:
        try:
            return self.statements[name]
        except KeyError:
            raise AttributeError(f"there is no query named {name}") from None


def sql_root() -> Path:
    """Return the home of `migrations/` and `queries/`: in the wheel, else in the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_sql"
    return installed if installed.is_dir() else package.parent / "sql"


def load(noun: str) -> Queries:
    """Read `sql/queries/<noun>.sql`; raise QueryFileError or FileNotFoundError."""
    return Queries(parse((sql_root() / "queries" / f"{noun}.sql").read_text("utf-8")))


def parse(text: str) -> dict[str, Query]:
    """Read the statements of one file; raise QueryFileError."""
    statements: dict[str, Query] = {}
    head, *blocks = re.split(r"^(?=-- name:)", text, flags=re.MULTILINE)
    if any(line and not line.startswith("--") for line in head.splitlines()):
        raise QueryFileError("a statement stands before the first name")
    for block in blocks:
        query = _read(block)
        if query.name in statements:
            raise QueryFileError(f"{query.name}: this name is used twice")
        statements[query.name] = query
    return statements


def _read(block: str) -> Query:
    first, _, rest = block.partition("\n")
    contract = _CONTRACT.fullmatch(first.strip())
    if contract is None:
        raise QueryFileError(f"not a contract line: {first.strip()}")
    name, cardinality, listed = contract.groups()
    parameters = tuple(part.strip() for part in listed.split(",") if part.strip())
    sql = rest.strip().removesuffix(";")
    if not sql or ";" in sql:
        raise QueryFileError(f"{name}: there must be exactly one statement")
    used = {int(number) for number in _PLACEHOLDER.findall(sql)}
    if used != set(range(1, len(parameters) + 1)):
        raise QueryFileError(f"{name}: {len(parameters)} parameters named, placeholders {sorted(used)} used")
    return Query(name, cast("Cardinality", cardinality), parameters, sql)
