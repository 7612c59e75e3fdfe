"""A receiver as docs/gateways/webhook.md asks for one: it checks the signature and takes each `webhook-id` once."""

import json
from datetime import UTC, datetime

from standardwebhooks import Webhook, WebhookVerificationError

from otpsvc.senders.contract import ReceiptRequest
from otpsvc.testing import GatewayDouble, GatewayRequest, Reply

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_QmVoaW5kVGhlT3RoZXJEb29yMTIzNDU2Nzg5MA=="


class WebhookDouble(GatewayDouble):
    """`taken` are the bodies of the messages it took, `by_id` its own ids for them; `next_reply` is said once instead.

    The published library checks the signature, by the machine's clock.
    """

    def __init__(self, secret: str = SECRET, *, is_deduplicating: bool = True) -> None:
        super().__init__()
        self.taken: list[dict[str, object]] = []
        self.by_id: dict[str, str] = {}
        self.next_reply: Reply | None = None
        self._webhook = Webhook(secret)
        self._is_deduplicating = is_deduplicating

    async def respond(self, request: GatewayRequest) -> Reply:
        try:
            self._webhook.verify(request.body, request.headers)
        except WebhookVerificationError:
            return Reply(401, {"message": "signature"})
        if self.next_reply is not None:
            reply, self.next_reply = self.next_reply, None
            return reply
        message_id = request.headers["webhook-id"]
        if message_id not in self.by_id or not self._is_deduplicating:
            self.taken.append(json.loads(request.body))
            self.by_id[message_id] = f"local-{len(self.taken)}"
        return Reply(200, {"message_id": self.by_id[message_id]})


def signed(tree: object, secret: str = SECRET, at: float = 1_800_000_000.0, **changed: str | bytes) -> ReceiptRequest:
    """A receipt request as a receiver makes it with the published library."""
    body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    moment = datetime.fromtimestamp(at, UTC)
    headers = {
        "webhook-id": "r-1",
        "webhook-timestamp": str(int(at)),
        "webhook-signature": Webhook(secret).sign("r-1", moment, body.decode("latin-1")),
        "content-type": "application/json",
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items() if isinstance(value, str)}
    sent_body = changed.get("body", body)
    assert isinstance(sent_body, bytes)
    return ReceiptRequest(method="POST", url="https://otp.example/receipts/local", headers=headers, body=sent_body)
