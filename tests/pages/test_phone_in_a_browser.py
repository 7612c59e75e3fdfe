"""The phone's screen in a real browser: live, whole again after every loss, and readable without scripts."""

import asyncio

import pytest
from playwright.async_api import Browser, expect

from tests.pages.browser import opened
from tests.pages.chromium import needs_chromium
from tests.pages.stand import Stand
from tests.programs import wait_until

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> </template> 135790 & 1"


async def test_sms_arrive_as_they_are_sent(browser: Browser, stand: Stand) -> None:
    stand.arrive("The first: 111111")
    async with opened(browser, f"{stand.url}/dev/phone") as page:
        log = page.get_by_role("log", name="Messages on the phone")
        items = log.get_by_role("listitem")
        await expect(items).to_have_count(1)
        await expect(log.get_by_role("button")).to_have_text("Copy 111111")
        stand.arrive("The second, with no code", to="+491713920012")
        stand.arrive("The third: 333333", message_id="msg_3")
        await expect(items).to_have_count(3)
        await expect(items.nth(1)).to_contain_text("To +491713920012")
        await expect(items.nth(1).get_by_role("button")).to_have_count(0)
        await expect(items.nth(2).get_by_role("button")).to_have_text("Copy 333333")
        assert await log.evaluate("(one) => one.scrollTop + one.clientHeight >= one.scrollHeight - 1")
        # The same message once more is once more on the phone, as it would be in the hand.
        stand.arrive("The third: 333333", message_id="msg_3")
        await expect(items).to_have_count(4)


async def test_a_text_is_a_text(browser: Browser, stand: Stand) -> None:
    stand.arrive(HOSTILE)
    for scripts in (True, False):
        async with opened(browser, f"{stand.url}/dev/phone", java_script_enabled=scripts) as page:
            await expect(page.locator(".sms-text")).to_have_text(HOSTILE)
            assert await page.title() == "otpsvc phone"


async def test_without_scripts_it_shows_what_is_there_and_looks_again(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/dev/phone", java_script_enabled=False) as page:
        await expect(page.get_by_text("No messages yet.")).to_be_visible()
        stand.arrive("Your code is 246802")
        await expect(page.get_by_text("Your code is 246802")).to_be_visible(timeout=15_000)
        await expect(page.get_by_text("No messages yet.")).to_be_hidden()
        await page.goto(f"{stand.url}/demo")
        await expect(page.locator("noscript .error")).to_be_visible()


async def test_what_was_missed_is_there_after_a_lost_connection(browser: Browser, stand: Stand) -> None:
    stand.arrive("Before: 111111", message_id="msg_1")
    async with opened(browser, f"{stand.url}/dev/phone") as page:
        items = page.get_by_role("log").get_by_role("listitem")
        await expect(items).to_have_count(1)
        stand.close()
        await asyncio.to_thread(wait_until, lambda: stand.play.streams == 0, "the stream to end")
        stand.arrive("Meanwhile: 222222", message_id="msg_2")
        stand.reopen()
        await expect(items).to_have_count(2)
        stand.arrive("After: 333333", message_id="msg_3")
        await expect(items).to_have_count(3)
        await expect(items.last).to_contain_text("After: 333333")
