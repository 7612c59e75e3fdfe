"""A page in a real Chromium, with everything that the browser complains about."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from tests.pages.chromium import FLAGS, chromium

PATIENCE_MS = 20_000


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Start a browser, and end it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def opened(browser: Browser, url: str, *, script: str = "", **options: Any) -> AsyncIterator[Page]:
    """Open a page in a profile of its own; whatever the browser complains about meanwhile fails the test.

    An answer of ours that is no 200 is no complaint: pages handle refusals. `script` runs before those of the page.
    """
    async with contextlib.AsyncExitStack() as stack:
        context = await browser.new_context(locale="en-GB", **options)
        stack.push_async_callback(context.close)
        context.set_default_timeout(PATIENCE_MS)
        if script:
            await context.add_init_script(script)
        page = await context.new_page()
        complaints: list[str] = []

        def heard(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
                complaints.append(message.text)

        def asked(request: Request) -> None:
            if urlsplit(request.url).netloc != urlsplit(url).netloc:
                complaints.append(f"another host was asked: {request.url}")

        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        await page.goto(url)
        yield page
        assert complaints == []
