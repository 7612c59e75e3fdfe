"""`otpsvc dev` as its developer sees it: the demo over the whole service, its worker and its simulated phone."""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.otp.house import wrong
from tests.pages.browser import opened
from tests.pages.chromium import needs_chromium
from tests.pages.test_demo_story import arrived, button, fault, guess, send
from tests.programs import Program, free_port, wait_until, working_in

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]

PICTURE = Path(__file__).parents[2] / "docs" / "demo.png"
SLOWLY_MS = 60_000  # the service, its stores and the browser share a busy machine


@pytest.fixture(scope="module")
def url(prepared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `otpsvc dev`."""
    home = tmp_path_factory.mktemp("dev")
    shutil.copytree(prepared_data_dir, home / ".otpsvc")
    program = Program("dev", directory=home, variables={"PORT": str(free_port())})
    try:
        program.wait_to_say("Ctrl-C ends it")
        yield re.findall(r"running on (http://\S+)", program.stdout)[0]
        assert program.end() == 0
        assert "Traceback" not in program.stderr
    finally:
        program.kill()
        wait_until(lambda: not working_in(home), "everything to end")


@pytest.mark.skipif("OTPSVC_PICTURE" not in os.environ, reason="OTPSVC_PICTURE is not set")
async def test_the_picture_of_the_readme(browser: Browser, url: str) -> None:
    """Written anew with OTPSVC_PICTURE=1, and only then: it differs with the letters that a machine has."""
    viewport = {"width": 1120, "height": 760}
    async with opened(browser, f"{url}/demo", viewport=viewport, device_scale_factor=1.5) as page:
        await send(page)
        code = await arrived(page)
        await expect(page.locator("#delivery")).to_have_text("The SMS has arrived.", timeout=SLOWLY_MS)
        await page.get_by_label("Code from the SMS").press_sequentially(code[:4])
        await page.locator(".sms").last.evaluate(
            "(one) => Promise.all(one.getAnimations().map((move) => move.finished))"
        )
        await page.screenshot(path=PICTURE)


async def test_a_number_is_verified_by_way_of_the_simulated_phone(browser: Browser, url: str) -> None:
    async with opened(browser, f"{url}/demo") as page:
        await send(page)
        log = page.get_by_role("log", name="Messages on the phone")
        await expect(log.get_by_role("listitem")).to_have_count(1, timeout=SLOWLY_MS)
        code = await arrived(page)
        await expect(page.locator("#delivery")).to_have_text("The SMS has arrived.", timeout=SLOWLY_MS)
        await guess(page, wrong(code))
        await expect(fault(page)).to_have_text("That code is wrong. 2 attempts left.")
        await button(page, f"Copy {code}").click()
        await button(page, "Verify").click()
        await expect(page.get_by_role("heading", name="Number verified")).to_be_focused()
        await page.goto(f"{url}/dev/phone")
        await expect(log).to_contain_text(code)


async def test_a_phone_that_is_off_sends_nothing_until_it_is_on(browser: Browser, url: str) -> None:
    async with opened(browser, f"{url}/demo") as page:
        switch = page.get_by_role("switch", name="Simulated phone")
        await expect(switch).to_be_checked()
        n_before = await page.locator(".sms").count()
        await switch.click()
        await expect(page.get_by_text("Switched off", exact=True)).to_be_visible()
        await send(page, "+61 491 570 006")
        # That it is gone may be known a second late: then the SMS waits for it.
        known = re.compile("^No phone can send the SMS at the moment|^Waiting for a phone")
        await expect(page.get_by_text(known)).to_be_visible(timeout=SLOWLY_MS)
        await switch.click()
        await expect(page.get_by_text("Switched off", exact=True)).to_be_hidden()
        async with asyncio.timeout(SLOWLY_MS / 1000):
            while await page.locator(".sms").count() == n_before:
                if await button(page, "Send code").is_visible():
                    await button(page, "Send code").click()
                await page.wait_for_timeout(300)
        await expect(page.get_by_role("log")).to_contain_text("To +61491570006")
