"""The pages that exist under `dev` only, put together: what was sent, a phone's screen, a signup form beside it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from litestar import Router

from otpsvc.clients.model import Principal
from otpsvc.pages.demo import Verifications, demo_router
from otpsvc.pages.inbox import InboxEntry, inbox_router
from otpsvc.pages.phone import phone_router
from otpsvc.pages.ports import Bodies, Phones, Screen, Switch


class Developer(NamedTuple):
    """Who develops here: the client that the signup form speaks for, and the phones that its codes go out through."""

    caller: Callable[[], Principal]
    screen: Screen
    phones: Phones
    switch: Switch


def developer_routers(
    developer: Developer | None,
    inbox: Callable[[str | None], Sequence[InboxEntry]] | None,
    *,
    otp: Verifications,
    bodies: Bodies,
    closing: asyncio.Event,
) -> list[Router]:
    """Make the routes of what there is: the phone and the form where there is a developer, the inbox if it is given."""
    routers = [inbox_router(inbox)] if inbox is not None else []
    if developer is not None:
        screen, phones, switch = developer.screen, developer.phones, developer.switch
        routers.append(phone_router(screen, phones=phones, switch=switch, bodies=bodies, closing=closing))
        routers.append(demo_router(otp, developer.caller, bodies))
    return routers
