"""Messages as history keeps them: implements `MessageRecords` and `PastMessages` for what Redis has let go."""

from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import asyncpg

from otpsvc.ids import MessageId
from otpsvc.messages.model import MessageStatus, MessageView, PastMessage
from otpsvc.postgres import queries
from otpsvc.postgres.history import ms_of, stretches
from otpsvc.postgres.pool import Database

_queries = queries.load("messages")
_INSTANT = timedelta(milliseconds=1)
# Gateways give up on a message within days. Ids that nobody here ever gave are asked about too, as often as a gateway
# likes, and must stay cheap: an index of each of these days is looked into, and no more.
RECEIPT_DAYS = timedelta(days=7)


class PostgresMessageRecords:
    """The table of messages, for owners and for receipts; every call raises SERVICE_UNAVAILABLE as `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, client_id: str, mode: str, message_id: MessageId) -> MessageView | None:
        """Return the client's message; None for one that is unknown, another client's or of the other mode."""
        whose = {"client_id": client_id, "mode": mode, "message_id": message_id.text}
        async with aclosing(stretches(self._database, "messages")) as walk:
            async for stretch in walk:
                row = await self._database.one(_queries.message_by_id, **whose, **stretch._asdict())
                if row is not None:
                    return _view(row)
        return None

    async def newest_of_otp(self, client_id: str, mode: str, otp_id: str) -> MessageView | None:
        """Return the newest message of the client's OTP; None where it is unknown or no longer kept."""
        begun = await self._newest_beginning(client_id, mode, otp_id)
        if begun is None:
            return None
        created_at: datetime = begun["created_at"]
        row = await self._database.one(
            _queries.message_by_id,
            client_id=client_id,
            mode=mode,
            message_id=begun["message_id"],
            from_at=created_at,
            until_at=created_at + _INSTANT,
        )
        return _view(row) if row is not None else None

    async def find_sent(self, sender: str, *, message_id: str | None, provider_id: str | None) -> PastMessage | None:
        """Return the message of these ids that this sender carried in the last week; None if there is none.

        Our own id decides where it is given; of messages with the same `provider_id` it is the newest.
        """
        since = datetime.now(UTC) - RECEIPT_DAYS
        if message_id is not None:
            query = _queries.carried_message_by_id
            row = await self._database.one(query, sender=sender, message_id=message_id, from_at=since)
        elif provider_id is not None and "\x00" not in provider_id:
            query = _queries.carried_message_by_provider_id
            row = await self._database.one(query, sender=sender, provider_id=provider_id, from_at=since)
        else:
            return None
        return _past(row) if row is not None else None

    async def _newest_beginning(self, client_id: str, mode: str, otp_id: str) -> asyncpg.Record | None:
        whose = {"client_id": client_id, "mode": mode, "otp_id": otp_id}
        async with aclosing(stretches(self._database, "events")) as walk:
            async for stretch in walk:
                begun = await self._database.one(_queries.newest_message_of_otp, **whose, **stretch._asdict())
                if begun is not None:
                    return begun
        return None


def _past(row: asyncpg.Record) -> PastMessage:
    return PastMessage(
        message_id=row["message_id"],
        client_id=row["client_id"],
        mode=row["mode"],
        otp_id=row["otp_id"],
        status=row["status"],
        channel=row["channel"] or "",
        created_at_ms=ms_of(row["created_at"]),
        tries=row["tries"],
        provider_id=row["provider_id"] or "",
        reason=row["reason"] or "",
    )


def _view(row: asyncpg.Record) -> MessageView:
    status = row["status"]
    # An end that turned out not to be one has left its time behind.
    ended_at = {MessageStatus.SENT: None, MessageStatus.DELIVERED: row["delivered_at"]}.get(status, row["ended_at"])
    return MessageView(
        message_id=row["message_id"],
        otp_id=row["otp_id"],
        status=status,
        channel=row["channel"] or "",
        parts=row["parts"],
        to=row["to_masked"] or "",
        text=row["text"] or "",
        reason=row["reason"],
        sender=row["sender"],
        tries=row["tries"],
        created_at=ms_of(row["created_at"]),
        sent_at=_ms_of(row["sent_at"]),
        delivered_at=_ms_of(row["delivered_at"]),
        ended_at=_ms_of(ended_at),
        expires_at=_ms_of(row["expires_at"]),
        metadata=row["metadata"] or "",
    )


def _ms_of(at: datetime | None) -> int | None:
    return None if at is None else ms_of(at)
