"""The OTP store: turns a command into one script call and its reply into an outcome. It decides nothing itself."""

from collections.abc import Sequence
from typing import Any

from otpsvc.ids import OtpId, new_event_id
from otpsvc.otp.ports import (
    Accepted,
    Ask,
    CheckCommand,
    Operation,
    Refusal,
    Replayed,
    ResendCommand,
    Right,
    SendCommand,
    SendLimits,
    StoredOtp,
    Swept,
    Tenant,
    VerifyCommand,
    Wrong,
)
from otpsvc.redis.batches import Value
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys, PartitionKeys


class RedisOtpStore:
    """Implements `otp.ports.OtpStore`; with `is_fenced` an OTP ends with the primary that it was made on."""

    def __init__(self, client: RedisClient, keys: Keys, *, is_fenced: bool = False, is_durable: bool = False) -> None:
        self._client = client
        self._keys = keys
        self._is_fenced = int(is_fenced)
        self._is_durable = is_durable

    async def send(self, command: SendCommand) -> Accepted | Replayed | Refusal:
        """Run `otp_send`."""
        partition = self._partition(command.otp_id)
        tenant, limits, otp_id = command.tenant, command.limits, command.otp_id.text
        number = f"{tenant.client_id}:{tenant.mode}:{command.to_index}"
        keys = self._send_keys(partition, tenant, otp_id, command.message_id.text, command.to_index, command.purpose,
                               command.session, limits, command.operation)  # fmt: skip
        keys["fails"] = partition.fails_base + number
        args = self._send_args(partition, tenant, limits, command.operation) | {
            "otp_id": otp_id,
            "message_id": command.message_id.text,
            "purpose": command.purpose,
            "session": command.session,
            "number": number,
            "to": command.to,
            "to_index": command.to_index,
            "to_sealed": command.to_sealed,
            "metadata": command.metadata,
            "channel": command.channel,
            "text": command.text,
            "parts": command.parts,
            "code_hash": command.code_hash,
            "code_length": command.code_length,
            "sealed_text": command.sealed_text,
            "ttl_ms": command.ttl_ms,
            "max_attempts": command.max_attempts,
            "max_wrong_guesses": command.max_wrong_guesses,
            "max_live": command.max_live,
            "is_reachable": int(command.is_reachable),
        }
        status, values = await self._client.run("otp_send", keys, args, is_durable=self._is_durable)
        if status == "accepted":
            now, expires_at, resend_at = values
            return Accepted(
                now=now,
                expires_at=expires_at,
                resend_at=resend_at,
                attempts_remaining=command.max_attempts,
            )
        return _replayed(values) if status == "replayed" else _refusal(status, values)

    async def resend(self, command: ResendCommand) -> Accepted | Replayed | Refusal:
        """Run `otp_resend`."""
        partition = self._partition(command.otp_id)
        tenant, limits, otp_id = command.tenant, command.limits, command.otp_id.text
        keys = self._send_keys(partition, tenant, otp_id, command.message_id.text, command.to_index, command.purpose,
                               command.session, limits, command.operation)  # fmt: skip
        args = self._send_args(partition, tenant, limits, command.operation) | {
            "otp_id": otp_id,
            "message_id": command.message_id.text,
            "channel": command.channel,
            "text": command.text,
            "parts": command.parts,
            "code_hash": command.code_hash,
            "sealed_text": command.sealed_text,
            "grace_ms": command.grace_ms,
            "max_resends": command.max_resends,
            "is_reachable": int(command.is_reachable),
        }
        status, values = await self._client.run("otp_resend", keys, args, is_durable=self._is_durable)
        if status == "accepted":
            now, expires_at, resend_at, attempts_left = values
            return Accepted(
                now=now,
                expires_at=expires_at,
                resend_at=resend_at,
                attempts_remaining=attempts_left,
            )
        return _replayed(values) if status == "replayed" else _refusal(status, values)

    async def verify(self, command: VerifyCommand) -> Right | Wrong | Ask | Refusal:
        """Run `otp_verify`."""
        partition = self._partition(command.otp_id)
        tenant = command.tenant
        status, values = await self._client.run(
            "otp_verify",
            {
                "otp": partition.otp_base + command.otp_id.text,
                "ends": partition.ends,
                "due": partition.due,
                "events": partition.events,
            },
            {
                "otp_id": command.otp_id.text,
                "client": tenant.client_id,
                "mode": tenant.mode,
                "number": f"{tenant.client_id}:{tenant.mode}:{command.to_index}" if command.to_index else "",
                "purpose": command.purpose,
                "session": command.session,
                "code_hash": command.code_hash,
                "code_length": command.code_length,
                "operation": command.operation,
                "guess": command.guess,
                "event_limit": command.event_limit,
                "is_fenced": self._is_fenced,
                "otp_base": partition.otp_base,
                "live_base": partition.live_base,
                "fails_base": partition.fails_base,
                "sealed_base": partition.sealed_base,
                "event_id": new_event_id(),
            },
        )
        if status == "ask":
            _, message_id, sent_at, sender, provider_id, is_repeat = values
            return Ask(
                sender=sender.decode(),
                provider_id=provider_id.decode(),
                message_id=message_id.decode(),
                sent_at=sent_at,
                is_repeat=bool(is_repeat),
            )
        if status == "format":
            return Refusal(status=status, now=values[0], code_length=values[1])
        return _judged(status, values)

    async def check(self, command: CheckCommand) -> Right | Wrong | Refusal:
        """Run `otp_check`."""
        partition = self._partition(command.otp_id)
        status, values = await self._client.run(
            "otp_check",
            {
                "otp": partition.otp_base + command.otp_id.text,
                "ends": partition.ends,
                "events": partition.events,
            },
            {
                "otp_id": command.otp_id.text,
                "client": command.tenant.client_id,
                "mode": command.tenant.mode,
                "operation": command.operation,
                "guess": command.guess,
                "is_right": int(command.is_right),
                "is_fenced": self._is_fenced,
                "otp_base": partition.otp_base,
                "live_base": partition.live_base,
                "fails_base": partition.fails_base,
                "sealed_base": partition.sealed_base,
                "event_id": new_event_id(),
            },
        )
        return _judged(status, values)

    async def cancel(self, tenant: Tenant, otp_id: OtpId, *, event_limit: int) -> Refusal | None:
        """Run `otp_cancel`."""
        partition = self._partition(otp_id)
        status, values = await self._client.run(
            "otp_cancel",
            {
                "otp": partition.otp_base + otp_id.text,
                "due": partition.due,
                "ends": partition.ends,
                "events": partition.events,
            },
            {
                "otp_id": otp_id.text,
                "client": tenant.client_id,
                "mode": tenant.mode,
                "event_limit": event_limit,
                "is_fenced": self._is_fenced,
                "otp_base": partition.otp_base,
                "message_base": partition.message_base,
                "sealed_base": partition.sealed_base,
                "live_base": partition.live_base,
                "event_id": new_event_id(),
            },
        )
        if status == "cancelled":
            return None
        if status == "ended":
            return Refusal(status=status, now=values[0], otp_status=values[1].decode())
        return _refusal(status, values)

    async def get(self, tenant: Tenant, otp_id: OtpId) -> StoredOtp | None:
        """Run `otp_get`."""
        partition = self._partition(otp_id)
        status, values = await self._client.run(
            "otp_get",
            {"otp": partition.otp_base + otp_id.text},
            {
                "client": tenant.client_id,
                "mode": tenant.mode,
                "is_fenced": self._is_fenced,
                "message_base": partition.message_base,
            },
        )
        if status != "found":
            return None
        (now, otp_status, message_id, message_status, parts, reason, to, purpose, channel, code_length, attempts,
         max_attempts, created_at, expires_at, resend_at, ended_at, metadata, session, number, to_sealed, resends,
         ttl_ms) = values  # fmt: skip
        return StoredOtp(
            now=now,
            status=otp_status.decode(),
            message_id=message_id.decode(),
            message_status=message_status.decode(),
            message_parts=int(parts) if parts else None,
            message_reason=reason.decode(),
            to=to.decode(),
            purpose=purpose.decode(),
            channel=channel.decode(),
            code_length=int(code_length),
            attempts=int(attempts),
            max_attempts=int(max_attempts),
            created_at=int(created_at),
            expires_at=int(expires_at),
            resend_at=int(resend_at),
            ended_at=int(ended_at) if ended_at else None,
            metadata=metadata.decode(),
            session=session.decode(),
            number=number.decode(),
            to_sealed=to_sealed,
            resends=int(resends),
            ttl_ms=int(ttl_ms),
        )

    async def sweep(self, partition: int, *, limit: int) -> Swept:
        """Run `otp_sweep`."""
        keys = self._keys.partitions[partition]
        _, (n_seen, next_in_ms) = await self._client.run(
            "otp_sweep",
            {"ends": keys.ends, "events": keys.events},
            {"limit": limit, "otp_base": keys.otp_base, "event_id": new_event_id()},
            # A second run under one event id would tell of other OTPs.
            is_repeatable=False,
        )
        return Swept(n_seen, None if next_in_ms < 0 else next_in_ms)

    async def forget(
        self, tenant: Tenant, *, partition: int, to_index: str, message_ids: Sequence[str] = ()
    ) -> tuple[int, int]:
        """Run `number_forget`."""
        keys, pool = self._keys.partitions[partition], self._keys.devices(tenant.client_id)
        _, (n_otps, n_messages) = await self._client.run(
            "number_forget",
            {
                "sends": f"{keys.sends_base}{tenant.client_id}:{tenant.mode}:{to_index}",
                "due": keys.due,
                "ends": keys.ends,
                "events": keys.events,
                "offers": self._keys.offers,
            },
            {
                "client": tenant.client_id,
                "mode": tenant.mode,
                "message_ids": " ".join(message_ids),
                "otp_base": keys.otp_base,
                "message_base": keys.message_base,
                "sealed_base": keys.sealed_base,
                "live_base": keys.live_base,
                "offer_base": pool.offer_base,
                "text_base": pool.text_base,
                "inbox_base": pool.inbox_base,
                "sim_base": pool.sim_base,
                "recipients_base": pool.recipients_base,
                "is_fenced": self._is_fenced,
                "event_id": new_event_id(),
            },
            is_repeatable=False,
        )
        return n_otps, n_messages

    def _partition(self, otp_id: OtpId) -> PartitionKeys:
        # An id from another installation can name a partition that this one does not have. Whatever its record would
        # be called in ours, it is not there.
        partitions = self._keys.partitions
        return partitions[otp_id.partition % len(partitions)]

    def _send_keys(
        self,
        partition: PartitionKeys,
        tenant: Tenant,
        otp_id: str,
        message_id: str,
        index: str,
        purpose: str,
        session: str,
        limits: SendLimits,
        operation: Operation,
    ) -> dict[str, str]:
        number = f"{tenant.client_id}:{tenant.mode}:{index}"
        otp = partition.otp_base + otp_id
        return {
            "otp": otp,
            "message": partition.message_base + message_id,
            "sealed": partition.sealed_base + message_id,
            "live": f"{partition.live_base}{number}:{purpose}",
            "cooldown": f"{partition.cooldown_base}{number}:{purpose}:{session}",
            "sends": partition.sends_base + number,
            "due": partition.due,
            "ends": partition.ends,
            "wake": partition.wake,
            "events": partition.events,
            # A script's KEYS have no gaps: where a name is not needed, the OTP's own stands in, unread.
            "idempotency": self._keys.idempotency(*tenant, operation.key) if operation.key else otp,
            "address": self._keys.address(*tenant, limits.address) if limits.address else otp,
            "ceiling": f"{partition.ceiling_base}{tenant.mode}:{index}" if limits.max_ceiling_sends else otp,
        }

    def _send_args(
        self, partition: PartitionKeys, tenant: Tenant, limits: SendLimits, operation: Operation
    ) -> dict[str, Value]:
        return {
            "client": tenant.client_id,
            "mode": tenant.mode,
            "cooldown_ms": limits.cooldown_ms,
            "max_sends": limits.max_sends,
            "max_address_sends": limits.max_address_sends if limits.address and limits.max_address_sends else "",
            "max_ceiling_sends": limits.max_ceiling_sends or "",
            "queue_limit": limits.queue_limit,
            "event_limit": limits.event_limit,
            "request": operation.request,
            "idempotency_ms": limits.idempotency_ms,
            "otp_base": partition.otp_base,
            "message_base": partition.message_base,
            "sealed_base": partition.sealed_base,
            "is_fenced": self._is_fenced,
            "event_id": new_event_id(),
        }


def _judged(status: str, values: list[Any]) -> Right | Wrong | Refusal:
    if status == "right":
        _, to, purpose, metadata, verified_at, is_replay = values
        return Right(
            to=to.decode(),
            purpose=purpose.decode(),
            metadata=metadata.decode(),
            verified_at=verified_at,
            is_replay=bool(is_replay),
        )
    if status == "wrong":
        return Wrong(attempts_remaining=values[1], is_replay=bool(values[2]))
    return _refusal(status, values)


def _refusal(status: str, values: list[Any]) -> Refusal:
    now, allowed_at, otp_id = (*values, None, None)[:3]
    return Refusal(status=status, now=now, allowed_at=allowed_at, otp_id=otp_id.decode() if otp_id else None)


def _replayed(values: list[Any]) -> Replayed:
    (now, otp_id, message_id, purpose, channel, code_length, expires_at, resend_at, status,
     attempts_left) = values  # fmt: skip
    return Replayed(
        now=now,
        otp_id=otp_id.decode(),
        message_id=message_id.decode(),
        purpose=purpose.decode(),
        channel=channel.decode(),
        code_length=int(code_length),
        expires_at=int(expires_at),
        resend_at=int(resend_at),
        status=status.decode(),
        attempts_remaining=attempts_left,
    )
