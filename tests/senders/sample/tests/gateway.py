"""The gateway of `sample`, imitated: a real server on the loopback that does what the gateway's documents say.

The suite is worth as much as this is faithful. The faults (time-outs, cut answers, …) come with GatewayDouble.
"""

import msgspec

from otpsvc.senders.contract import ReceiptRequest
from otpsvc.senders.proofs import hmac_sha256_hex
from otpsvc.testing import GatewayDouble, GatewayRequest, Reply

TOKEN = "a-token-for-tests"
RECEIPT_SECRET = "a-receipt-secret-for-tests"


class SampleGateway(GatewayDouble):
    """Takes messages, recognises a repeated reference, and refuses the next ones as it is told in `refuse_with`."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, dict[str, object]] = {}
        self.refuse_with: list[str] = []

    async def respond(self, request: GatewayRequest) -> Reply:
        """Answer as the gateway does."""
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(401, {"error": "unauthorised"})
        if (request.method, request.path) == ("GET", "/account"):
            return Reply(200, {"balance": 12.5})
        if self.refuse_with:
            return Reply(400, {"error": self.refuse_with.pop(0)})
        message = request.json()
        self.taken.setdefault(message["reference"], message)
        return Reply(202, {"id": f"g-{message['reference'][4:]}", "parts": 1})


def signed(body: bytes, *, at: float, secret: str = RECEIPT_SECRET) -> ReceiptRequest:
    """Make a receipt request with the gateway's signature; `at` is seconds since 1970."""
    stamp = str(int(at))
    headers = {
        "content-type": "application/json",
        "x-timestamp": stamp,
        "x-signature": hmac_sha256_hex(secret, f"{stamp}.".encode() + body),
    }
    return ReceiptRequest(method="POST", url="https://otp.example/receipts/sample", headers=headers, body=body)


def receipt(reference: str, provider_id: str, status: str, *, at: float, error: str = "") -> ReceiptRequest:
    """Make a genuine receipt about one message."""
    said = {"id": provider_id, "reference": reference, "status": status, "at": at, "error": error}
    return signed(msgspec.json.encode(said), at=at)
