"""What a person needs to read and use the pages: contrast, names, headings, narrow screens, no movement if unwanted."""

from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.otp.house import wrong
from tests.pages.browser import opened
from tests.pages.chromium import needs_chromium
from tests.pages.stand import Stand
from tests.pages.test_demo_story import arrived, button, fault, guess, send

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]

NARROW = {"width": 320, "height": 640}

# Every text that is shown, with its colour over the colour that lies behind it: WCAG 2, success criterion 1.4.3.
POOR_CONTRAST = """
() => {
  const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const parts = [r, g, b].map((c) => c / 255);
    const [x, y, z] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(one).backgroundColor);
      if (a === 1) return [r, g, b];
      if (a !== 0) throw new Error("half transparent: " + one.outerHTML.slice(0, 80));
    }
    throw new Error("no background");
  };
  const poor = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const fields = [...document.querySelectorAll("input")];
  const texts = [];
  while (walker.nextNode()) if (walker.currentNode.data.trim()) texts.push(walker.currentNode.parentElement);
  for (const element of [...texts, ...fields]) {
    if (!element.checkVisibility({ visibilityProperty: true }) || element.closest(".unseen, noscript")) continue;
    seen += 1;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgb(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([element.tagName, element.id || element.className, element.textContent, ratio]);
  }
  return { poor, seen };
}
"""

# What can be seen and used, with the name that a screen reader says.
NAMELESS = """
() => [...document.querySelectorAll("button, input, a, section, form, nav, [role]")]
  .filter((one) => one.checkVisibility() && !["alert", "status"].includes(one.role))
  .filter((one) => {
    const ids = (one.getAttribute("aria-labelledby") ?? "").split(" ");
    const by = ids.map((id) => document.getElementById(id)?.textContent);
    const label = one.labels?.[0]?.textContent;
    const words = ["BUTTON", "A"].includes(one.tagName) ? one.textContent : "";
    return !(one.ariaLabel || by.join("").trim() || label || words.trim());
  })
  .map((one) => one.outerHTML)
"""


async def check(page: Page) -> None:
    """See that all that is shown now can be read and named, and that its headings are in order."""
    contrast: dict[str, Any] = await page.evaluate(POOR_CONTRAST)
    assert contrast["poor"] == []
    assert contrast["seen"] > 8
    nameless = await page.evaluate(NAMELESS)
    assert [one for one in nameless if 'role="timer"' not in one] == []
    levels = await page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].filter((one) => one.checkVisibility()).map((one) => one.tagName)"
    )
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}
    ids = await page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(set(ids)) == len(ids)
    assert await page.evaluate("document.documentElement.lang") == "en"


async def each_step(page: Page, look: Any) -> None:
    """Go through the whole demo and look at each of its faces."""
    await look(page)
    await send(page, "12")
    await expect(fault(page)).not_to_be_empty()
    await look(page)
    await send(page)
    code = await arrived(page)
    await expect(page.locator("#delivery")).to_contain_text("on its way.")
    await look(page)
    await guess(page, wrong(code))
    await expect(fault(page)).to_contain_text("2 attempts left")
    await look(page)
    await guess(page, wrong(code))
    await expect(fault(page)).to_contain_text("1 attempt left")
    await guess(page, wrong(code))
    await expect(fault(page)).to_contain_text("the last attempt")
    await look(page)
    await page.get_by_role("switch").click()
    await expect(page.get_by_text("Switched off", exact=True)).to_be_visible()
    await look(page)
    await page.get_by_role("switch").click()
    await button(page, "Send a new code").click()
    await guess(page, await arrived(page, 2))
    await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()
    await look(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everything_can_be_read_and_has_a_name(browser: Browser, stand: Stand, scheme: str) -> None:
    async with opened(browser, f"{stand.url}/demo", color_scheme=scheme, reduced_motion="reduce") as page:
        await each_step(page, check)
        await page.goto(f"{stand.url}/dev/phone")
        await arrived(page, 2)
        await check(page)


async def fits(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    small: list[str] = await page.evaluate(
        "[...document.querySelectorAll('button, input')].filter((one) => one.checkVisibility())"
        ".filter((one) => one.getBoundingClientRect().height < 24).map((one) => one.outerHTML)"
    )
    assert small == []


async def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Browser, stand: Stand) -> None:
    async with opened(browser, f"{stand.url}/demo", viewport=NARROW, is_mobile=True, has_touch=True) as page:
        await each_step(page, fits)
        stand.arrive("W" * 300 + " 135790", to="+123456789012345")
        await arrived(page, 3)
        await page.goto(f"{stand.url}/dev/phone")
        await arrived(page, 3)
        await fits(page)


MOVING = """
() => [...document.querySelectorAll("*")]
  .map((one) => getComputedStyle(one))
  .filter((style) => style.animationName !== "none" || style.transitionDuration !== "0s").length
"""


async def test_nothing_moves_for_who_does_not_want_it(browser: Browser, stand: Stand) -> None:
    for wish, n_moving in (("reduce", 0), ("no-preference", 1)):
        stand.clear()
        async with opened(browser, f"{stand.url}/demo", reduced_motion=wish) as page:
            await send(page)
            await guess(page, await arrived(page))
            await expect(page.get_by_role("heading", name="Number verified")).to_be_visible()
            assert min(await page.evaluate(MOVING), 1) == n_moving
