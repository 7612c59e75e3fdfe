"""Every refusal that a user of the demo can meet, in the words that they read."""

import re
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from otpsvc.otp.policy import Policy
from tests.otp.house import wrong
from tests.pages.browser import opened
from tests.pages.chromium import needs_chromium
from tests.pages.stand import Stand
from tests.pages.test_demo_story import NUMBER, arrived, button, fault, guess, send

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]


async def test_numbers_that_are_none(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        for number, words in {
            "": "This is not a phone number. One looks like +1 202 555 0123.",
            "0612345678": "Begin with + and the country’s code, as in +1 202 555 0123.",
            "+33": "This number is too short.",
            "+1 202 555 0123 4567 890 12": "This number is too long.",
            "+999 123 456 789": "No country has this code. Check the digits after the +.",
            "+33 899 70 12 34": "Premium-rate numbers cannot be verified.",
        }.items():
            await send(page, number)
            await expect(fault(page)).to_have_text(words)
            await expect(page.locator("#number")).to_have_attribute("aria-invalid", "true")
            await expect(page.locator("#number")).to_be_focused()
        await page.keyboard.type("1")
        await expect(fault(page)).to_have_count(0)


async def test_a_phone_that_is_switched_off(browser: Browser, stand: Stand) -> None:
    stand.play.phones = {"Pixel": True, "Fairphone": True}
    async with opened(browser, f"{stand.url}/demo") as page:
        for name in ("Pixel", "Fairphone"):
            await expect(page.get_by_text("Switched off", exact=True)).to_be_hidden()
            await page.get_by_role("switch", name=name).click()
            await expect(page.get_by_role("switch", name=name)).not_to_be_checked()
        await expect(page.get_by_text("Switched off", exact=True)).to_be_visible()
        await send(page)
        await expect(fault(page)).to_have_text("No phone can send the SMS at the moment. Try again in a minute.")
        await page.get_by_role("switch", name="Pixel").click()
        await expect(page.get_by_text("Switched off", exact=True)).to_be_hidden()
        await button(page, "Send code").click()
        await arrived(page)


async def test_a_phone_that_is_switched_off_elsewhere(browser: Browser, stand: Stand) -> None:
    stand.play.is_reach_known = False
    async with opened(browser, f"{stand.url}/demo") as page:
        stand.play.phones = {"Pixel": False}
        await expect(page.get_by_role("switch")).not_to_be_checked()
        await send(page)
        await expect(page.locator("#delivery")).to_have_text("Waiting for a phone: all are switched off.")
        stand.play.fails_with = "no_device"
        await expect(page.locator("#delivery")).to_have_text("The SMS did not go out: no phone could send it.")


async def test_a_phone_that_is_there_no_more(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        await page.route("**/dev/phone/switch", lambda route: route.abort())
        await page.get_by_role("switch").click()
        await expect(page.get_by_text("The switch did not answer. Try again.")).to_be_visible()


async def test_a_service_that_is_away(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        await page.context.set_offline(True)
        await send(page)
        await expect(fault(page)).to_have_text("The service cannot be reached. Check the connection and try again.")
        await page.context.set_offline(False)
        await button(page, "Send code").click()
        await arrived(page)


async def refuse(page: Page, code: str, status: int, **error: Any) -> None:
    body = {"success": False, "error": {"code": code, "message": code, "details": {}, "retryable": True, **error}}
    await page.route("**/demo/send", lambda route: route.fulfill(status=status, json=body))


async def test_refusals_that_are_hard_to_come_by(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        for code, status, retry_after, words in (
            ("SERVICE_UNAVAILABLE", 503, 1, "The service cannot answer at the moment. Nothing was lost: try again"),
            ("DEVICE_OFFLINE", 503, 60, "The phone that should send the SMS is not connected. Try again in a minute."),
            ("RATE_LIMIT_EXCEEDED", 429, 90, "That was too often. Try again in 90 seconds."),
            ("INTERNAL_ERROR", 500, None, "Something went wrong on our side. Try again. (INTERNAL_ERROR)"),
        ):
            await refuse(page, code, status, retry_after=retry_after)
            await send(page)
            await expect(fault(page)).to_contain_text(words)
            await page.unroute("**/demo/send")


async def test_a_number_that_had_its_codes(browser: Browser, stand: Stand) -> None:
    stand.play.policy = Policy(cooldown_s=0, sends_per_hour=2)
    async with opened(browser, f"{stand.url}/demo") as page:
        await send(page)
        await arrived(page)
        await button(page, "Send again").click()
        await arrived(page, 2)
        await button(page, "Send again").click()
        await expect(fault(page)).to_have_text("This number has had its codes for the hour. Try again in 60 minutes.")
        await expect(page.locator("#resend")).to_have_text(re.compile("Send again in 59:[0-9]{2}"))


async def test_a_number_that_was_guessed_at_too_often(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        await send(page)
        for count in range(1, 5):
            code = await arrived(page, count)
            for left in ("2 attempts left", "1 attempt left", "the last attempt")[: 10 - 3 * (count - 1)]:
                await guess(page, wrong(code))
                await expect(fault(page)).to_contain_text(left)
            if count < 4:
                await button(page, "Send a new code").click()
        await button(page, "Change").click()
        await button(page, "Send code").click()
        await expect(fault(page)).to_have_text(
            "There were too many wrong codes for this number. Try again in 60 minutes."
        )


async def test_codes_that_are_no_more(browser: Browser, stand: Stand) -> None:
    stand.play.policy = Policy(cooldown_s=0, max_resends=0)
    async with opened(browser, f"{stand.url}/demo") as page:
        await send(page)
        await arrived(page)
        await button(page, "Send again").click()
        await expect(fault(page)).to_have_text(
            "This code was sent again as often as it can be. Start over with a new one."
        )
        await button(page, "Send a new code").click()
        await arrived(page, 2)
        async with opened(browser, f"{stand.url}/demo") as other:
            await send(other)
            await arrived(other, 3)
            await expect(fault(page)).to_have_text("A newer code was sent to this number. Ask for a new one here.")
            await button(page, "Send a new code").click()
            code = await arrived(page, 4)
            await guess(other, code)
            await expect(fault(other)).to_contain_text("Ask for a new one")
        await guess(page, code)
        await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()


async def test_who_lost_the_page_keeps_the_code(browser: Browser, stand: Stand) -> None:
    stand.play.policy = Policy(cooldown_s=30)
    async with opened(browser, f"{stand.url}/demo") as page:
        await send(page)
        code = await arrived(page)
        await page.reload()
        await send(page, NUMBER)
        await expect(fault(page)).to_contain_text("A code went to this number a moment ago. You can have another in ")
        await expect(page.locator("#send")).to_contain_text("Send code in 0:")
        await button(page, "Enter the code I have").click()
        await guess(page, code)
        await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()
