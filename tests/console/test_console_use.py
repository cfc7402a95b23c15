"""The console in daily use: reading, finding, moving about, on a phone, with a keyboard, with a screen reader."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.console.acts import answer, finished, send
from tests.console.conftest import NewPage

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_markdown_is_drawn_and_code_is_copied(new_page: NewPage) -> None:
    page = await new_page()
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await send(page, "/markdown")
    await finished(page)
    for part in (
        "h3",
        "strong",
        "em",
        "a[href='https://example.org/']",
        "ol li ul li",
        "blockquote",
        "table td",
        "pre",
    ):
        await expect(answer(page).locator(part).first).to_be_visible()
    await page.get_by_role("button", name="Copy code").click()
    assert await page.evaluate("navigator.clipboard.readText()") == 'print("Hello")'
    await page.get_by_role("button", name="Copy answer").click()
    assert (await page.evaluate("navigator.clipboard.readText()")).startswith("# A heading")


async def test_a_growing_text_is_drawn_as_the_whole_text_would_be(new_page: NewPage) -> None:
    page = await new_page()
    same = await page.evaluate(
        """async () => {
            const { MarkdownView } = await import('/console/markdown-view.js');
            const text = [
                '# A', '', 'One *two*', 'three', '', '- a', '- b', '', '  c', '', '| x | y |', '|---|---|', '| 1 | 2 |',
                '', '```py', 'x', '', 'y', '```', 'End', '===', '', '> q', '', 'last',
            ].join(String.fromCharCode(10));
            const growing = new MarkdownView();
            for (let end = 1; end <= text.length; end += 1) {
                growing.update(text.slice(0, end));
                const whole = new MarkdownView();
                whole.update(text.slice(0, end));
                if (!growing.element.isEqualNode(whole.element)) return text.slice(0, end);
            }
            growing.update('replaced');
            return growing.element.textContent;
        }"""
    )
    assert same == "replaced"


async def test_threads_are_listed_with_titles_activity_and_unread_marks(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/pieces 40 0.03\n/echo first of all")
    running = page.locator("#threads a", has_text="/pieces 40").first
    await expect(running.locator(".pulse")).to_be_visible()
    await page.click("#new-thread")
    await expect(page.locator("#welcome")).to_be_visible()
    await expect(running.locator(".badge")).to_have_text("1")
    assert (await page.title()).startswith("(")
    await send(page, "/echo a newer one")
    await finished(page)
    await running.click()
    await expect(answer(page)).to_contain_text("first of all")
    await expect(running.locator(".badge")).to_have_count(0)
    await expect(page.locator("#threads a").first).to_contain_text("a newer one")
    await page.get_by_role("button", name="Rename or delete").click()
    await page.get_by_label("Title").fill("Counted to forty")
    await page.press("#thread-title", "Enter")
    await expect(page.locator("#title")).to_have_text("Counted to forty")
    await expect(page.locator("#threads a[aria-current]")).to_contain_text("Counted to forty")
    await page.get_by_role("button", name="Rename or delete").click()
    await page.get_by_role("button", name="Delete conversation").click()
    await expect(page.locator("#threads a", has_text="Counted to forty")).to_have_count(0)
    await expect(page.locator("#welcome")).to_be_visible()
    assert page.url.endswith("/")


async def test_going_back_and_forth_leads_through_the_threads(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/echo one")
    await finished(page)
    await page.click("#new-thread")
    await send(page, "/echo two")
    await finished(page)
    await page.go_back()
    await expect(page.locator("#welcome")).to_be_visible()
    await page.go_back()
    await expect(answer(page)).to_have_text("one")
    await page.go_forward()
    await page.go_forward()
    await expect(answer(page)).to_have_text("two")


async def test_another_agent_can_be_chosen(new_page: NewPage) -> None:
    page = await new_page()
    await page.get_by_role("radio", name="second").check(force=True)
    await expect(page.locator("#message")).to_have_attribute("placeholder", "Message second")
    await send(page, "/echo hello")
    await finished(page)
    await expect(page.locator("#agent")).to_have_text("second")


async def test_on_a_phone_the_list_is_a_drawer_and_nothing_is_wider_than_the_screen(new_page: NewPage) -> None:
    page = await new_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    await page.fill("#message", "/markdown\n/approval command\n/long 40")
    await page.get_by_role("button", name="Send").tap()
    await expect(page.get_by_role("button", name="Allow once")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    overflowing = """() => [...document.querySelectorAll('#main *')]
        .filter(node => !node.closest('pre, .table, summary, .visually-hidden'))
        .filter(node => node.getBoundingClientRect().right > innerWidth + 1)
        .map(node => node.outerHTML.slice(0, 80))"""
    assert await page.evaluate(overflowing) == []
    await expect(page.locator("#sidebar")).to_be_hidden()
    await page.get_by_role("button", name="Show the list").tap()
    await expect(page.get_by_role("button", name="New conversation")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Show the list")).to_be_focused()
    await page.get_by_role("button", name="Allow once").tap()
    await finished(page)


async def test_a_keyboard_alone_does_everything(new_page: NewPage) -> None:
    page = await new_page()
    await expect(page.locator("#message")).to_be_focused()
    await page.keyboard.type("/approval command")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Allow once")).to_be_visible()
    for _ in range(40):
        if await page.evaluate("document.activeElement.textContent") == "Allow once":
            break
        await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    await finished(page)
    await expect(page.locator("#message")).to_be_focused()
    await expect(page.locator("#announcer")).to_contain_text("Answer: The answer was approved")


async def test_what_screen_readers_hear_is_the_end_and_not_every_piece(new_page: NewPage) -> None:
    page = await new_page()
    await page.evaluate(
        """() => {
            window.said = [];
            const note = () => window.said.push(document.getElementById('announcer').textContent);
            new MutationObserver(note).observe(document.getElementById('announcer'), {childList: true});
        }"""
    )
    await send(page, "/pieces 100 0.01")
    await finished(page)
    said = await page.evaluate("window.said")
    assert said[0] == "demo is answering."
    assert said[-1].startswith("Answer: 1 2 3")
    assert len(said) == 2
    assert await page.locator("#transcript").get_attribute("aria-live") == "off"


async def test_every_control_has_a_name_and_the_page_has_its_landmarks(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/markdown\n/tool\n/approval question")
    await expect(page.get_by_role("region", name="Approval needed")).to_be_visible()
    nameless = """() => [...document.querySelectorAll('button, input, textarea, a')]
        .filter(node => node.checkVisibility())
        .filter(node => !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
        .map(node => node.outerHTML)"""
    assert await page.evaluate(nameless) == []
    for role in ("navigation", "main", "log"):
        await expect(page.get_by_role(role)).to_have_count(1)
    assert await page.evaluate("document.querySelectorAll('h1:not([hidden])').length") >= 1
    await page.get_by_role("button", name="Red").click()
    await finished(page)


async def test_a_reader_who_scrolled_up_is_left_alone(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/long 900\n/pieces 30 0.03")
    await expect(answer(page)).to_contain_text("fox")
    await page.wait_for_function(
        "() => { const box = document.getElementById('transcript'); return box.scrollTop > 100; }"
    )
    await page.locator("#transcript").hover()
    await page.mouse.wheel(0, -5000)
    await expect(page.get_by_role("button", name="Go to the newest message")).to_be_visible()
    await finished(page)
    assert await page.evaluate("document.getElementById('transcript').scrollTop") < 50
    await page.get_by_role("button", name="Go to the newest message").click()
    await expect(page.get_by_role("button", name="Go to the newest message")).to_be_hidden()
