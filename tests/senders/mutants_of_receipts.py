"""Senders that believe receipts they should not, or break at them: found by the conformance suite, every one."""

import hmac
import json
import time

import msgspec

from otpsvc.senders.contract import (
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    SenderContext,
)
from otpsvc.senders.proofs import hmac_sha256_hex
from tests.senders.mutants import Mutant
from tests.senders.sample.otpsvc_sample.sender import SampleSettings
from tests.senders.sample.tests.gateway import RECEIPT_SECRET


class BelievesEveryone(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        try:
            said = json.loads(request.body)
            item = Receipt(status=ReceiptStatus.DELIVERED, message_id=said["reference"], provider_id=said["id"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ReceiptRefusal(RefusalKind.MALFORMED)
        return Receipts((item,))


class BelievesWhoShowsAnyProof(BelievesEveryone):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        if not request.headers.get("x-signature"):
            return await super(Mutant, self).parse_receipt(request)
        return await super().parse_receipt(request)


class BelievesAnEmptyProof(BelievesEveryone):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        if request.headers.get("x-signature") == "":
            return await super().parse_receipt(request)
        return await super(Mutant, self).parse_receipt(request)


class HasOneSecretForAll(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        stamp = request.headers.get("x-timestamp", "")
        expected = hmac_sha256_hex(RECEIPT_SECRET, stamp.encode() + b"." + request.body)
        if request.headers.get("x-signature") != expected:
            return await super().parse_receipt(request)
        return await BelievesEveryone.parse_receipt(self, request)  # type: ignore[arg-type]  # it needs no more of it


class BreaksAtGarbage(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        said = await super().parse_receipt(request)
        if isinstance(said, ReceiptRefusal) and request.headers.get("x-signature"):
            json.loads(request.body)
        return said


class BreaksAtStrangeLetters(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        hmac.compare_digest(request.headers.get("x-signature", ""), "0" * 64)
        return await super().parse_receipt(request)


class BreaksAtOddAddresses(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        request.url.split("/receipts/")[1]
        return await super().parse_receipt(request)


class NeedsToBeOpenToRead(Mutant):
    is_open = False

    async def open(self) -> None:
        self.is_open = True
        await super().open()

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        if not self.is_open:
            raise RuntimeError("not open")
        return await super().parse_receipt(request)


class BelievesAProofItKnows(BelievesEveryone):
    """Checks each proof once, and what stands under it never again."""

    def __init__(self, name: str, settings: SampleSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self.known: set[str] = set()

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        signature = request.headers.get("x-signature", "")
        if signature in self.known:
            return await super().parse_receipt(request)
        said = await super(Mutant, self).parse_receipt(request)
        if isinstance(said, Receipts):
            self.known.add(signature)
        return said


class SaysAWordForAStatus(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        said = await super().parse_receipt(request)
        if isinstance(said, ReceiptRefusal):
            return said
        items = tuple(Receipt(status=one.status.value, message_id=one.message_id) for one in said.items)  # type: ignore[arg-type]  # the lie itself
        return Receipts(items)


class SaysANumberForAnId(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        said = await super().parse_receipt(request)
        if isinstance(said, ReceiptRefusal):
            return said
        items = tuple(Receipt(status=one.status, message_id=one.message_id, provider_id=7) for one in said.items)  # type: ignore[arg-type]  # the lie itself
        return Receipts(items)


class ReadsAtLeisure(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        if len(request.body) > 1000:
            time.sleep(1.2)  # noqa: ASYNC251 - the fault itself
        return await super().parse_receipt(request)


class CountsNoOddFailure(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        said = await super().parse_receipt(request)
        if isinstance(said, ReceiptRefusal):
            return said
        return Receipts(tuple(msgspec.structs.replace(one, is_unmapped=False) for one in said.items))


class CallsEverythingOdd(Mutant):
    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        said = await super().parse_receipt(request)
        if isinstance(said, ReceiptRefusal):
            return said
        return Receipts(tuple(msgspec.structs.replace(one, is_unmapped=True) for one in said.items))
