"""Forgetting a number in the history: implements `NumberRecords`.

Messages of the number may still be on their way here while it is being forgotten. So first it is written down that the
number is forgotten, for whoever writes from now on; then we wait for those who were writing already and could not read
that; and only then is everything erased that is there. The living store must have forgotten the number before: what is
sent afterwards is kept.
"""

from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from otpsvc.events.ports import SentTo
from otpsvc.postgres import queries
from otpsvc.postgres.history import stretches
from otpsvc.postgres.pool import Database

# Longer than the living store keeps the record of any message.
LIVING_DAYS = timedelta(days=2)

_queries = queries.load("numbers")


class PostgresNumberRecords:
    """The numbers in the table of messages; every call raises SERVICE_UNAVAILABLE as `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def mark_forgotten(self, to_index: str, *, client_id: str | None, mode: str | None) -> list[SentTo]:
        """Say that a number is forgotten, and return the messages to it that may still have a living record."""
        await self._database.execute(_queries.record_forgotten, to_index=to_index, client_id=client_id, mode=mode)
        rows = await self._database.many(
            _queries.young_messages,
            to_index=to_index,
            client_id=client_id,
            mode=mode,
            from_at=datetime.now(UTC) - LIVING_DAYS,
        )
        return [SentTo(row["client_id"], row["mode"], row["message_id"]) for row in rows]

    async def forget(self, to_index: str, *, client_id: str | None, mode: str | None) -> int:
        """Erase a number, by its blind index; return from how many messages. Safe to repeat, as after a failure.

        SERVICE_UNAVAILABLE also where too many look through the old days already.
        """
        await self._database.execute(_queries.record_forgotten, to_index=to_index, client_id=client_id, mode=mode)
        await self._database.value(_queries.await_history_writers)
        n_erased = 0
        async with aclosing(stretches(self._database, "messages")) as walk:
            async for stretch in walk:
                n_erased += await self._database.value(
                    _queries.erase_messages, to_index=to_index, client_id=client_id, mode=mode, **stretch._asdict()
                )
        return n_erased
