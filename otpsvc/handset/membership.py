"""Who the phone is to its server: registering, and finding out that a token is no longer good.

A token that is refused is thrown away only when `PATCH /device` says so: everything else that goes wrong is a failure
like any other, and is tried again.
"""

from collections.abc import Callable, Sequence

from otpsvc.errors import OtpsvcError
from otpsvc.handset.journal import Credentials, Journal
from otpsvc.handset.link import Login, Refused, ServerLink
from otpsvc.handset.wire import SimCard

# What a later try may change; any other refusal of a first registration is the server's last word.
_PASSING = frozenset({200, 408, 425, 429})


class TurnedAwayError(OtpsvcError):
    """The server does not let this phone register. `status` is its answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server refuses to register this phone (status {status})")
        self.status = status


class Membership:
    """The phone's registration at one server, kept in its journal."""

    def __init__(
        self,
        link: ServerLink,
        journal: Journal,
        *,
        login: Login,
        name: str,
        sims: Sequence[SimCard],
        news: Callable[[str], None],
    ) -> None:
        self._link = link
        self._journal = journal
        self._login = login
        self._name = name
        self._sims = tuple(sims)
        self._news = news
        # A token from an earlier run may be worthless by now.
        self._is_in_doubt = True

    @property
    def is_registered(self) -> bool:
        """Whether the phone has ever been let in."""
        return self._journal.kept.credentials is not None

    @property
    def device_id(self) -> str:
        """Its id at the server, empty before it has registered."""
        credentials = self._journal.kept.credentials
        return credentials.id if credentials else ""

    @property
    def token(self) -> str:
        """Its token, empty before it has registered."""
        credentials = self._journal.kept.credentials
        return credentials.token if credentials else ""

    def doubt(self) -> None:
        """Ask the server at the next connection whether the token is good: it was just refused."""
        self._is_in_doubt = True

    async def join(self) -> None:
        """Register for the first time; raises TurnedAwayError where no later try can help, else LinkError."""
        try:
            await self._register(self._login)
        except Refused as error:
            if error.status < 500 and error.status not in _PASSING:
                raise TurnedAwayError(error.status) from None
            raise

    async def prove(self) -> None:
        """Where the token is in doubt, show it and the SIMs, and register anew if it is refused; raises LinkError."""
        if not self._is_in_doubt:
            return
        try:
            await self._link.update(self.token, self.device_id, self._sims)
        except Refused as error:
            if error.status != 401:
                raise
            await self._register(self._known_login)
        self._is_in_doubt = False

    @property
    def _known_login(self) -> Login:
        """The login the server gave, else what the phone came with: a code is good once only."""
        credentials = self._journal.kept.credentials
        if credentials is not None and credentials.login and credentials.password:
            return Login(credentials.login, credentials.password)
        return self._login

    async def _register(self, login: Login) -> None:
        found = await self._link.register(login, self._name, self._sims)
        self._journal.identify(
            Credentials(
                server=self._link.base,
                id=found.id,
                token=found.token,
                login=found.login,
                password=found.password or login.password,
            )
        )
        self._is_in_doubt = False
        self._news(f"registered as {found.id}")
