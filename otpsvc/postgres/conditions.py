"""How a server is set where that concerns our promises, looked at once, when the pool is opened.

Settings come from the server, the database and the role, and a pooler on the way may drop those that we bring. What may
be put right for our own connections is; the rest is told in one line each, with the remedy.
"""

import logging
from collections.abc import Mapping

import asyncpg

from otpsvc.postgres import queries

_LENGTH = "log_parameter_max_length"
_LOGGED = (
    "log_statement",
    "log_min_duration_statement",
    "log_min_duration_sample",
    "log_statement_sample_rate",
    "log_transaction_sample_rate",
)
COMMIT = "synchronous_commit"

_queries = queries.load("conditions")
_log = logging.getLogger(__name__)


async def settings_of(
    connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]",
    ours: Mapping[str, str],
) -> dict[str, str]:
    """Read what holds on a connection: of our own settings, and of those that we look at. Names in lower case."""
    names = [*ours, _LENGTH, *_LOGGED, COMMIT]
    return {row["name"]: row["setting"] for row in await connection.fetch(_queries.server_settings.sql, names)}


def put_right(found: Mapping[str, str]) -> dict[str, str]:
    """Return what our connections have to bring beside our own settings.

    A server that answers a commit before it is on disk forgets it when it crashes; we would have let go of the event by
    then, or said that a number was erased. Replicas are the operator's business: any stricter setting stays.
    """
    return {COMMIT: "on"} if found[COMMIT] == "off" else {}


def tell(found: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Log what is not as it should be and not ours to change."""
    dropped = [name for name, value in ours.items() if found[name] != value]
    if dropped:
        _log.warning(
            "database.url: %s did not reach the server; is there a pooler that ignores it? Use `alter role … set` (%s)",
            ", ".join(dropped),
            ", ".join(f"{name} = {ours[name]}" for name in dropped),
        )
    culprit = _logs_values_by(found)
    if culprit is not None:
        _log.warning(
            "PostgreSQL is set (%s) to log the values of statements, masked numbers, texts and metadata among them."
            " A superuser keeps them out with `alter role … set %s = 0`",
            culprit,
            _LENGTH,
        )


def _logs_values_by(found: Mapping[str, str]) -> str | None:
    if found[_LENGTH] == "0":
        return None
    statements, slow, sampled, rate, transactions = (found[name] for name in _LOGGED)
    if statements in ("mod", "all"):
        return f"log_statement = {statements}"
    if int(slow) >= 0:
        return f"log_min_duration_statement = {slow}"
    if int(sampled) >= 0 and float(rate) > 0:
        return f"log_min_duration_sample = {sampled}"
    return f"log_transaction_sample_rate = {transactions}" if float(transactions) > 0 else None
