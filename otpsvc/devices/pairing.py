"""How a phone becomes a device: a pairing is opened, a phone registers with what it says, and later comes again.

Everybody can reach these calls, so this is where an attacker would begin. All that is not good looks the same
(PAIRING_REFUSED), costs the same and may be tried rarely; ten wrong codes close every open enrolment by code, and a
login lets in one device, ever. Whoever gets in all the same is `pending` until a person has confirmed the phone by its
name. Nobody who may open pairings can keep phones out by it: what is too much is refused before it costs anything.
Nothing secret is ever logged here, kept, or put into an error.
"""

import contextlib
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from otpsvc import ids
from otpsvc.clock import Clock
from otpsvc.crypto import Keyring
from otpsvc.devices import tokens
from otpsvc.devices.model import Account, Device, Gone, OpenPairing, Pairing, Registered, Registration, Tenant
from otpsvc.devices.passwords import MAX_PASSWORD_LENGTH, Openings, Passwords, Tries
from otpsvc.devices.policy import DeviceSettings
from otpsvc.devices.ports import DevicePresence, DeviceRecords
from otpsvc.errors import ApiError, problem

MOST_WRONG_CODES = 10
MIN_PASSWORD_LENGTH = 8

# Nothing that is misread: no i, l, o, u, and no 0 and 1 beside letters.
_LETTERS = "abcdefghjkmnpqrstvwxyz"
_PASSWORD_LETTERS = _LETTERS + "23456789"
_LOGIN_LENGTH, _PASSWORD_LENGTH = 6, 14
_LOGIN = re.compile(rf"phone-[{_LETTERS}]{{{_LOGIN_LENGTH}}}")
_ROUNDS = 5


class PairingService:
    """Opens pairings and registers phones. Every method may raise ApiError SERVICE_UNAVAILABLE.

    Where credentials are taken: PAIRING_REFUSED, and RATE_LIMIT_EXCEEDED after too many tries from one address or with
    one login. `address` is where the caller is seen from. Only what was refused counts as a try.
    """

    def __init__(
        self,
        *,
        records: DeviceRecords,
        presence: DevicePresence,
        keyring: Keyring,
        passwords: Passwords,
        settings: DeviceSettings,
        clock: Clock,
    ) -> None:
        self._records = records
        self._presence = presence
        self._keyring = keyring
        self._passwords = passwords
        self._settings = settings
        self._clock = clock
        self._tries = Tries(clock)
        self._openings = Openings(clock)

    async def open(self, tenant: Tenant, server_url: str, *, is_confirmed_by_itself: bool | None = None) -> Pairing:
        """Open a pairing for one phone; its answer alone holds password and code.

        `is_confirmed_by_itself`: as the settings say where it is None. Raises ApiError RESOURCE_NOT_FOUND for an
        unknown client, CONFLICT where it has too many open pairings, RATE_LIMIT_EXCEEDED where it opens them too fast.
        """
        self._openings.take(tenant.client_id)
        await self._records.check_room(tenant)
        if is_confirmed_by_itself is None:
            is_confirmed_by_itself = self._settings.confirms_by_itself
        now = self._now()
        expires_at = now + timedelta(seconds=self._settings.pairing_s)
        code_expires_at = min(now + timedelta(seconds=self._settings.code_s), expires_at)
        password = _random(_PASSWORD_LETTERS, _PASSWORD_LENGTH)
        password_hash = await self._passwords.hash_new(password)
        for _ in range(_ROUNDS):
            login = f"phone-{_random(_LETTERS, _LOGIN_LENGTH)}"
            code, tag = self._new_code()
            is_open = await self._records.insert_pairing(
                login=login,
                tenant=tenant,
                password_hash=password_hash,
                code_tag=tag,
                code_expires_at=code_expires_at,
                expires_at=expires_at,
                is_confirmed_by_itself=is_confirmed_by_itself,
            )
            if is_open:
                return Pairing(
                    server_url=server_url.rstrip("/"),
                    login=login,
                    password=password,
                    code=code,
                    code_expires_at=code_expires_at,
                    expires_at=expires_at,
                )
        raise problem("SERVICE_UNAVAILABLE")

    async def open_pairings(self, tenant: Tenant) -> list[OpenPairing]:
        """Return the tenant's pairings that still wait for their phone, oldest first."""
        return await self._records.open_pairings(tenant)

    async def close(self, tenant: Tenant, login: str) -> None:
        """End a pairing that waits for its phone: its code, login and password open nothing any more.

        Raises ApiError RESOURCE_NOT_FOUND where the tenant has no such one, as after a phone has registered with it.
        """
        typed = _typed(login)
        if not typed or not await self._records.close_pairing(tenant, typed):
            raise problem("RESOURCE_NOT_FOUND")

    async def register_by_code(self, code: str, registration: Registration, address: str) -> Registered:
        """Make a device of the phone that shows an enrolment code; the code is used, whatever happens then.

        The password of its login is made here: what was shown with the code is void. Raises ApiError CONFLICT where the
        client has as many devices as it may.
        """
        with self._a_try(address):
            tag = tokens.code_tag(code.strip(), self._keyring)
            account = await self._records.take_code(tag, most_wrong=MOST_WRONG_CODES) if tag is not None else None
            if account is None:
                raise problem("PAIRING_REFUSED")
            return await self._register(account, registration, _random(_PASSWORD_LETTERS, _PASSWORD_LENGTH))

    async def register_by_login(
        self, login: str, password: str, registration: Registration, address: str
    ) -> Registered:
        """Make a device of the phone that shows a login, or let that login's device in again.

        One that comes again keeps its id and gets a new token; the old one is void. Raises ApiError CONFLICT where the
        client has as many devices as it may.
        """
        login = _typed(login)
        with self._a_try(address, login):
            return await self._register(await self._proven(login, password), registration, None)

    async def renew_code(self, login: str, password: str, address: str) -> tuple[str, datetime]:
        """Give a pairing that no phone has used another enrolment code, and say until when it is good."""
        login = _typed(login)
        with self._a_try(address, login):
            account = await self._proven(login, password)
            until = self._now() + timedelta(seconds=self._settings.code_s)
            for _ in range(_ROUNDS):
                code, tag = self._new_code()
                good_until = await self._records.set_code(account.login, tag, until)
                if good_until is not None:
                    return code, good_until
            raise problem("PAIRING_REFUSED")

    async def change_password(self, device: Device, current: str, new: str, address: str) -> None:
        """Replace the password that a device registers with. Raises ApiError VALIDATION_ERROR for one that is unfit."""
        if not MIN_PASSWORD_LENGTH <= len(new) <= MAX_PASSWORD_LENGTH:
            reason = f"must have {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters"
            raise problem("VALIDATION_ERROR", details={"field": "newPassword", "reason": reason})
        with self._a_try(address, device.login):
            account = await self._proven(device.login, current)
            if account.device_id != device.id:
                raise problem("PAIRING_REFUSED")
            if not await self._records.set_password(account.login, await self._passwords.hash(new)):
                raise problem("PAIRING_REFUSED")

    @contextlib.contextmanager
    def _a_try(self, address: str, login: str = "") -> Iterator[None]:
        """Count a try, unless what happens within says that it was no wrong one; a caller that goes away has tried."""
        self._tries.take(address, login)
        try:
            yield
        except ApiError as error:
            if error.code != "PAIRING_REFUSED":
                self._tries.give_back(address, login)
            raise
        self._tries.give_back(address, login)

    async def _proven(self, login: str, password: str) -> Account:
        """Return the account that login (empty: none) and password belong to, whatever became of it."""
        account = await self._records.account(login) if login else None
        stored = account.password_hash if account is not None else ""
        if not await self._passwords.verify(password, stored) or account is None:
            raise problem("PAIRING_REFUSED")
        return account

    async def _register(self, account: Account, registration: Registration, password: str | None) -> Registered:
        password_hash = await self._passwords.hash(password) if password is not None else None
        for _ in range(_ROUNDS):
            device_id = account.device_id or ids.new_device_id()
            token = tokens.new_token(device_id, self._keyring)
            device = await self._records.register(
                account,
                device_id,
                registration,
                token_tag=token.tag,
                auth_key_id=token.auth_key_id,
                most_per_client=self._settings.most_per_client,
                password_hash=password_hash,
            )
            if device is None:
                raise problem("PAIRING_REFUSED")
            if device.id == device_id:
                await self._retire_before(device)
                return Registered(device=device, token=token.text, login=account.login, password=password)
            # The same phone was let in a moment ago by another of its calls: its token has to name the id it got then.
            account = msgspec.structs.replace(account, device_id=device.id)
        raise problem("SERVICE_UNAVAILABLE")

    async def _retire_before(self, device: Device) -> None:
        """Void the token that a device had before at once, in every process: by Redis, which all of them ask."""
        if device.version > 1:
            before = msgspec.structs.replace(device, version=device.version - 1)
            await self._presence.retire(before, Gone.USER_LOGOUT)

    def _new_code(self) -> tuple[str, bytes]:
        code = tokens.new_code()
        tag = tokens.code_tag(code, self._keyring)
        if tag is None:
            raise ValueError("a code that was just made has no tag")
        return code, tag

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)


def _typed(login: str) -> str:
    """Return a login as it was made; empty where this cannot be one."""
    login = login.strip().lower()
    return login if _LOGIN.fullmatch(login) else ""


def _random(letters: str, length: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))
