"""The demo in a real browser: a number goes in, the SMS arrives on the phone, the code is typed, it is verified.

Whatever the browser complains about, the page's security policy included, fails the test that it happens in.
"""

import re

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from otpsvc.otp.policy import Policy
from tests.otp.house import wrong
from tests.pages.browser import opened
from tests.pages.chromium import needs_chromium
from tests.pages.stand import Stand

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]

NUMBER = "+12025550123"
PAUSED = re.compile("Send again in 0:(30|[12][0-9])")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def fault(page: Page) -> Locator:
    return page.get_by_role("alert").filter(visible=True, has_text=" ")


async def send(page: Page, number: str = "+1 202 555 0123") -> None:
    await page.get_by_label("Number, with its country’s code").fill(number)
    await button(page, "Send code").click()


async def arrived(page: Page, count: int = 1) -> str:
    """Wait until so many SMS are on the phone's screen; give the code in the newest."""
    log = page.get_by_role("log", name="Messages on the phone")
    await expect(log.get_by_role("listitem")).to_have_count(count)
    return await log.locator("b").last.inner_text()


async def guess(page: Page, code: str) -> None:
    await page.get_by_label("Code from the SMS").fill(code)
    await button(page, "Verify").click()


async def test_a_number_is_verified(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        await send(page)
        field = page.get_by_label("Code from the SMS")
        await expect(field).to_be_focused()
        code = await arrived(page)
        await expect(page.get_by_role("log")).to_contain_text(f"To {NUMBER}")
        await expect(page.get_by_role("log")).to_contain_text(f"@127.0.0.1 #{code}")
        await expect(page.locator("#code-form")).to_contain_text("Sent to +12•••••0123")
        await expect(page.get_by_role("timer")).to_have_text(re.compile("4:5[0-9]"))
        await expect(page.locator("#delivery")).to_have_text("The SMS is on its way.")
        await field.press_sequentially(f"{code[:3]} {code[3:]}")
        await button(page, "Verify").click()
        await expect(page.get_by_role("heading", name="Number verified")).to_be_focused()
        await expect(page.locator("#done")).to_contain_text("+12•••••0123 is yours.")
        await button(page, "Start over").click()
        await expect(page.get_by_label("Number, with its country’s code")).to_have_value("")


async def test_it_takes_no_more_than_a_keyboard(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        for _ in range(8):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.id") == "number":
                break
        await page.keyboard.type("+4917139200 12")
        await page.keyboard.press("Enter")
        code = await arrived(page)
        await page.keyboard.type(wrong(code))
        await page.keyboard.press("Enter")
        await expect(fault(page)).to_have_text("That code is wrong. 2 attempts left.")
        await page.keyboard.type(code)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.id") == "verify"
        await page.keyboard.press("Space")
        await expect(page.get_by_role("heading", name="Number verified")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#number")).to_be_focused()
        while not await page.evaluate("document.activeElement.matches('[role=switch]')"):
            await page.keyboard.press("Tab")
        await page.keyboard.press("Space")
        await expect(page.get_by_text("Switched off", exact=True)).to_be_visible()
        await expect(page.get_by_role("switch")).to_be_focused()


async def test_three_wrong_codes_end_it_and_a_new_one_begins(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        await send(page)
        first = await arrived(page)
        for left in ("2 attempts", "1 attempt"):
            await guess(page, wrong(first))
            await expect(fault(page)).to_have_text(f"That code is wrong. {left} left.")
            await expect(page.locator("#attempts")).to_have_text(left[0])
            await expect(page.get_by_label("Code from the SMS")).to_be_focused()
        await guess(page, wrong(first))
        await expect(fault(page)).to_have_text("That code is wrong, and it was the last attempt.")
        await expect(page.get_by_label("Code from the SMS")).to_be_disabled()
        await expect(button(page, "Verify")).to_be_hidden()
        await expect(button(page, "Send a new code")).to_be_focused()
        await button(page, "Send a new code").click()
        await guess(page, await arrived(page, 2))
        await expect(page.get_by_role("heading", name="Number verified")).to_be_focused()


async def test_a_code_of_the_wrong_form_costs_no_attempt(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        await send(page)
        code = await arrived(page)
        for text in ("", "12", code + "7", "abcdef"):
            await guess(page, text)
            await expect(fault(page)).to_have_text("The code has 6 digits. No attempt was used.")
        await expect(page.locator("#attempts")).to_have_text("3")
        await guess(page, code)
        await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()


async def test_a_code_can_be_sent_again_after_its_pause(browser: Browser, stand: Stand) -> None:
    stand.play.policy = Policy(cooldown_s=30)
    async with opened(browser, f"{stand.url}/demo") as page:
        await page.clock.install()
        await page.reload()
        await send(page)
        code = await arrived(page)
        again = page.locator("#resend")
        await expect(again).to_have_text(PAUSED)
        await again.click(force=True)
        await expect(again).to_have_attribute("aria-disabled", "true")
        await page.clock.fast_forward(31_000)
        await expect(again).to_have_text("Send again")
        await again.click()
        # The page's clock is ahead of the service's, which decides.
        await expect(fault(page)).to_contain_text("A code went to this number a moment ago. You can have another in ")
        await expect(again).to_have_text(PAUSED)
        stand.play.policy = Policy(cooldown_s=0)
        await page.clock.fast_forward(31_000)
        await again.click()
        newest = await arrived(page, 2)
        assert newest != code
        await expect(fault(page)).to_have_count(0)
        await guess(page, newest)
        await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()


async def test_an_expired_code_says_so_before_anybody_types_it(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        await page.clock.install()
        await page.reload()
        await send(page)
        await arrived(page)
        await page.clock.fast_forward(241_000)
        await expect(page.locator("#said")).to_contain_text("The code expires in ")
        await page.clock.fast_forward(60_000)
        await expect(fault(page)).to_have_text("This code has expired. Ask for a new one.")
        await expect(button(page, "Send a new code")).to_be_focused()
        await button(page, "Send a new code").click()
        await guess(page, await arrived(page, 2))
        await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()


async def test_a_code_that_the_service_knows_to_be_expired(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        await page.route("**/demo/otp/*", lambda route: route.abort())
        await send(page)
        code = await arrived(page)
        stand.expire()
        await guess(page, code)
        await expect(fault(page)).to_have_text("This code has expired. Ask for a new one.")
        await expect(button(page, "Send a new code")).to_be_visible()


async def test_two_clicks_send_one_code(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo") as page:
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
        await page.get_by_role("button", name="Sweden").click()
        await expect(page.locator("#number")).to_be_focused()
        await button(page, "Send code").dblclick()
        code = await arrived(page)
        await page.get_by_label("Code from the SMS").fill(code)
        await button(page, "Verify").dblclick()
        await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()
        assert [url.rpartition("/")[2] for url in sent] == ["send", "verify"]


async def test_what_an_answer_was_lost_of_is_not_done_twice(browser: Browser, stand: Stand) -> None:
    async def lose(route: Route) -> None:
        await route.fetch()
        await route.abort()

    async with opened(browser, f"{stand.url}/demo") as page:
        await page.route("**/demo/send", lose)
        await send(page)
        await expect(fault(page)).to_have_text("The service cannot be reached. Check the connection and try again.")
        await page.unroute("**/demo/send")
        await button(page, "Send code").click()
        code = await arrived(page)
        await page.route("**/demo/verify", lose)
        await guess(page, wrong(code))
        await expect(fault(page)).to_contain_text("cannot be reached")
        await page.unroute("**/demo/verify")
        await button(page, "Verify").click()
        await expect(fault(page)).to_have_text("That code is wrong. 2 attempts left.")
        await arrived(page)


async def test_the_phone_hands_over_its_code(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo", permissions=["clipboard-read", "clipboard-write"]) as page:
        await send(page)
        code = await arrived(page)
        stand.arrive("Another one's: 135790")
        await arrived(page, 2)
        await button(page, "Copy 135790").click()
        await expect(page.get_by_label("Code from the SMS")).to_have_value("")
        await button(page, f"Copy {code}").click()
        await expect(page.get_by_label("Code from the SMS")).to_have_value(code)
        assert await page.evaluate("navigator.clipboard.readText()") == code
        await expect(button(page, "Verify")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()


WEB_OTP = """
window.OTPCredential = class {};
window.asked = [];
navigator.credentials.get = (options) => new Promise((resolve, reject) => {
  window.asked.push(options.otp.transport.join());
  window.offer = (code) => resolve({ code });
  options.signal.addEventListener("abort", () => { window.asked.push("over"); reject(options.signal.reason); });
});
"""


async def test_browsers_that_read_sms_fill_it_in(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo", script=WEB_OTP) as page:
        await send(page)
        code = await arrived(page)
        field = page.get_by_label("Code from the SMS")
        for name, value in (("autocomplete", "one-time-code"), ("inputmode", "numeric")):
            await expect(field).to_have_attribute(name, value)
        await expect(page.locator("#number")).to_have_attribute("autocomplete", "tel")
        assert await page.evaluate("window.asked") == ["sms"]
        await button(page, "Change").click()
        assert await page.evaluate("window.asked") == ["sms", "over"]
        await button(page, "Send code").click()
        code = await arrived(page, 2)
        await page.evaluate("(code) => window.offer(code)", code)
        await expect(field).to_have_value(code)
        await button(page, "Verify").click()
        await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()
        assert await page.evaluate("window.asked") == ["sms", "over", "sms", "over"]
