"""What a client may ask about its messages: how one of them is doing.

Framework-free, like the OTP's service: an id in, a view out, every refusal an ApiError of the catalogue. It looks and
never changes anything.
"""

from otpsvc.clients.model import Principal
from otpsvc.errors import problem
from otpsvc.ids import MalformedId, parse_message_id
from otpsvc.messages.model import MessageView
from otpsvc.messages.ports import MessageRecords


class MessageService:
    """Looks among the `living` messages first, then in the `history`, which keeps what the first has let go."""

    def __init__(self, living: MessageRecords, history: MessageRecords) -> None:
        self._living = living
        self._history = history

    async def status(self, caller: Principal, message_id: str) -> MessageView:
        """Return the caller's message.

        Raises ApiError: MESSAGE_NOT_FOUND for one that is unknown, another client's, of the other mode, or no id at
        all; SERVICE_UNAVAILABLE where a store that must be asked is away.
        """
        try:
            parsed = parse_message_id(message_id)
        except MalformedId:
            raise problem("MESSAGE_NOT_FOUND") from None
        for records in (self._living, self._history):
            view = await records.find(caller.client_id, caller.mode, parsed)
            if view is not None:
                return view
        raise problem("MESSAGE_NOT_FOUND")
