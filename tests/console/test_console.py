"""A person at the console, in a real browser, over a network that fails."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.console.conftest import PATIENCE_MS, NewPage
from tests.console.proxy import CuttingProxy
from tests.server import TOKENS, GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBERS = "".join(f"{number} " for number in range(1, 101)).strip()
COUNT_UPDATES = """() => {
    const seen = window.updates = [];
    const note = () => {
        const text = document.querySelector('.message.assistant .markdown')?.textContent ?? '';
        if (text && text !== seen.at(-1)) seen.push(text);
    };
    new MutationObserver(note).observe(document.getElementById('messages'), {childList: true, subtree: true, characterData: true});
}"""
XSS = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 2'>",
    "<svg onload='window.pwned = 3'><a href='javascript:window.pwned=4'>x</a></svg>",
    "[click](javascript:window.pwned=5)",
    "[click](JaVaScRiPt:window.pwned=5)",
    "[click](&#106;avascript:window.pwned=6)",
    "[click](<java\tscript:window.pwned=6>)",
    "[click](data:text/html,<script>window.pwned=7</script>)",
    '[click](https://example.org/" onmouseover="window.pwned=8)',
    '[click](https://example.org "title\\" onmouseover=window.pwned=9 x=\\"")',
    "![x](https://example.org/x.png\" onerror=\"window.pwned=10)",
    "![x](javascript:window.pwned=11)",
    "<javascript:window.pwned=12>",
    "<iframe srcdoc='<script>parent.pwned=13</script>'></iframe>",
    "<https://example.org/'onclick='window.pwned=14>",
    "| a | <script>window.pwned=15</script> |",
    "```html\"><script>window.pwned=16</script>",
    "</code></pre><script>window.pwned=17</script>",
    "```",
    "<style>*{display:none}</style>",
    "<form action='https://example.org'><button formaction=javascript:window.pwned=18>x</button></form>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.pwned=19>",
    "`<b>` **<b onclick=window.pwned=20>bold</b>** ~~<i>~~ [<u>](https://example.org/<u>)",
    "{{constructor.constructor('window.pwned=21')()}}",
]


async def send(page: Page, text: str) -> None:
    await page.fill("#message", text)
    await page.press("#message", "Enter")


async def finished(page: Page, answers: int = 1) -> None:
    """Wait until so many answers have come to their end."""
    await expect(page.locator(".message.assistant footer .actions")).to_have_count(answers, timeout=PATIENCE_MS)


def answer(page: Page) -> Any:
    return page.locator(".message.assistant .markdown").last


async def test_an_answer_grows_in_view_in_many_steps(new_page: NewPage) -> None:
    page = await new_page()
    await page.evaluate(COUNT_UPDATES)
    await send(page, "/pieces 100 0.01")
    await finished(page)
    await expect(answer(page)).to_have_text(NUMBERS)
    updates = await page.evaluate("window.updates")
    assert len(updates) >= 10, f"{len(updates)} updates"
    assert all(NUMBERS.startswith(text.strip()) for text in updates)


async def test_the_token_in_the_fragment_signs_in_and_leaves_the_address_bar(new_page: NewPage) -> None:
    page = await new_page()
    await expect(page.locator("#message")).to_be_focused()
    assert "token" not in page.url
    assert await page.evaluate("history.length") <= 2
    await page.reload()
    await expect(page.locator("#message")).to_be_visible()


async def test_a_pasted_link_signs_in_and_a_wrong_token_is_refused_in_words(new_page: NewPage) -> None:
    page = await new_page("/")
    await expect(page.locator("#token")).to_be_focused()
    await page.fill("#token", "wrong")
    await page.press("#token", "Enter")
    await expect(page.locator("#sign-in-problem")).to_contain_text("not valid")
    await page.fill("#token", f"http://example.org/#token={TOKENS['alice']}")
    await page.click("text=Sign in")
    await expect(page.locator("#message")).to_be_visible()
    await page.click("#sign-out")
    await expect(page.locator("#token")).to_be_visible()
    assert await page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('agentline'))") == []


async def test_a_connection_cut_in_mid_answer_loses_and_doubles_nothing(
    new_page: NewPage, proxy: CuttingProxy
) -> None:
    page = await new_page()
    await page.evaluate(COUNT_UPDATES)
    await send(page, "/pieces 100 0.03")
    await expect(answer(page)).to_contain_text(" 10 ")
    proxy.cut(refuse=True)
    await expect(page.locator("#banner")).to_be_visible()
    before = await answer(page).inner_text()
    proxy.mend()
    await page.click("#reconnect")
    await expect(page.locator("#banner")).to_be_hidden()
    await finished(page)
    await expect(answer(page)).to_have_text(NUMBERS)
    assert len(before) < len(NUMBERS)
    updates = await page.evaluate("window.updates")
    assert all(NUMBERS.startswith(text.strip()) for text in updates)
    assert len(updates) >= 10


async def test_a_browser_that_goes_offline_catches_up_by_itself(new_page: NewPage, proxy: CuttingProxy) -> None:
    page = await new_page()
    await send(page, "/pieces 100 0.03")
    await expect(answer(page)).to_contain_text(" 10 ")
    await page.context.set_offline(True)
    proxy.cut()
    await expect(page.locator("#banner")).to_contain_text("offline")
    await send(page, "/echo written offline")
    await expect(page.locator(".pending")).to_contain_text("Sending")
    await page.context.set_offline(False)
    await finished(page, 2)
    await expect(page.locator(".message.assistant .markdown").first).to_have_text(NUMBERS)
    await expect(answer(page)).to_have_text("written offline")
    await expect(page.locator(".pending")).to_have_count(0)


async def test_a_reload_in_mid_turn_goes_on_from_the_stored_place(new_page: NewPage) -> None:
    page = await new_page()
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda payload: frames.append(str(payload))))
    await send(page, "/reasoning I count.\n/tool\n/pieces 100 0.03")
    await expect(answer(page)).to_contain_text(" 10 ")
    await page.reload()
    # Stored before the reload: reasoning and tools are there, which no snapshot of a finished turn would bring.
    await expect(page.locator(".fold.reasoning")).to_have_count(1)
    await expect(answer(page)).to_contain_text(" 12 ")
    await page.reload()
    await finished(page)
    await expect(answer(page)).to_have_text(NUMBERS)
    await expect(page.locator(".fold.tool")).to_have_count(1)
    attaches = [frame for frame in frames if '"attach"' in frame]
    assert len(attaches) == 2
    assert all('"cursor"' in frame for frame in attaches)


async def test_a_browser_without_storage_is_shown_the_thread_anew(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/pieces 100 0.02")
    await expect(answer(page)).to_contain_text(" 10 ")
    await page.evaluate("addEventListener('pagehide', () => localStorage.removeItem('agentline.thread.' + location.hash.slice(4)))")
    await page.reload()
    await finished(page)
    await expect(answer(page)).to_have_text(NUMBERS)


async def test_a_server_that_dies_in_mid_answer_keeps_the_text_and_offers_a_retry(
    new_page: NewPage, gateway: GatewayProcess, proxy: CuttingProxy
) -> None:
    page = await new_page()
    await send(page, "/flaky 2\n/cut")
    await expect(page.locator(".note.failed")).to_be_visible()
    await expect(answer(page)).to_contain_text("The connection breaks in the mid")
    await page.click(".message.assistant .retry")
    await finished(page, 2)
    await expect(page.locator(".message.user")).to_have_count(1)


async def test_a_tool_is_approved_with_a_button(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/approval command")
    approval = page.get_by_role("region", name="Approval needed")
    await expect(approval).to_contain_text("rm notes.txt")
    await expect(page.locator("#alarm")).to_contain_text("needs your decision")
    assert await approval.get_by_role("button").all_inner_texts() == ["Allow once", "Allow for this thread", "Decline"]
    await approval.get_by_role("button", name="Allow once").click()
    await finished(page)
    await expect(answer(page)).to_have_text("The answer was approved, so I did it.")
    await expect(page.locator(".approval.decided")).to_contain_text("Allowed")
    await expect(page.locator(".tool")).to_have_attribute("data-status", "completed")


async def test_an_approval_is_declined_on_a_second_device_and_seen_on_the_first(new_page: NewPage) -> None:
    first, second = await new_page(), await new_page()
    await send(first, "/approval file_change")
    await expect(first.locator(".diff .added")).to_contain_text("+new")
    await second.goto(first.url)
    await second.get_by_role("button", name="Decline").click()
    await finished(first)
    await expect(first.locator(".approval.decided")).to_contain_text("Declined")
    await expect(answer(first)).to_contain_text("left it alone")


async def test_a_question_takes_a_choice_and_words(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/approval question")
    await page.get_by_label("Your answer").fill("like the sky")
    await page.get_by_role("button", name="Blue").click()
    await finished(page)
    await expect(answer(page)).to_have_text("You chose blue and said: like the sky.")


async def test_a_turn_is_stopped_and_tried_again(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/pieces 500 0.02")
    await expect(answer(page)).to_contain_text(" 5 ")
    await page.get_by_role("button", name="Stop the answer").click()
    await expect(page.locator(".note")).to_contain_text("You stopped this answer")
    await expect(page.locator("#message")).to_be_focused()
    await expect(page.get_by_role("button", name="Stop the answer")).to_be_hidden()
    kept = await answer(page).inner_text()
    await page.wait_for_function("kept => document.querySelector('.markdown').innerText === kept", arg=kept)
    await page.get_by_role("button", name="Retry").click()
    await expect(answer(page)).to_contain_text(" 5 ")
    await page.get_by_role("button", name="Stop the answer").click()
    await expect(page.locator(".note")).to_have_count(2)


async def test_messages_sent_during_an_answer_wait_and_can_be_taken_back(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/pieces 60 0.05")
    await expect(answer(page)).to_contain_text(" 2 ")
    await send(page, "/echo second")
    await send(page, "/echo third")
    await expect(page.locator(".pending.queued")).to_have_count(2)
    await page.reload()
    await expect(page.locator(".pending.queued")).to_have_count(2)
    await page.locator(".pending.queued", has_text="third").get_by_role("button", name="Cancel").click()
    await expect(page.locator(".pending.queued")).to_have_count(1)
    await page.get_by_role("button", name="Stop the answer").click()
    await expect(page.locator(".message.assistant", has_text="second")).to_be_visible()
    await expect(page.locator(".pending")).to_have_count(0)


async def test_markup_in_an_answer_stays_text_and_no_script_in_it_runs(new_page: NewPage) -> None:
    page = await new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await send(page, "/reasoning " + XSS[0] + "\n" + "\n".join(f"/echo {line}" for line in XSS))
    await finished(page)
    assert await page.evaluate("window.pwned") is None
    transcript = page.locator("#transcript")
    for tag in ("script", "img", "iframe", "form", "style", "math", "object", "embed"):
        assert await transcript.locator(tag).count() == 0, tag
    assert await transcript.locator(":not(.icon, .icon *)").locator("svg:not(.icon)").count() == 0
    handlers = "nodes => nodes.flatMap(node => [...node.attributes]).filter(one => /^on|^style$|^srcdoc$/.test(one.name)).length"
    assert await transcript.locator("*").evaluate_all(handlers) == 0
    links = await transcript.locator("a").evaluate_all("links => links.map(link => [link.href, link.rel, link.target])")
    assert links
    for href, rel, target in links:
        assert re.match(r"https?://example\.org/|mailto:", href), href
        assert rel == "noopener noreferrer nofollow"
        assert target == "_blank"
    for link in await transcript.locator("a").all():
        await link.hover()
    text = await transcript.inner_text()
    assert "<script>window.pwned = 1</script>" in text
    assert "<img src=x onerror='window.pwned = 2'>" in text
    assert not [url for url in requests if "example.org" in url]
    assert await page.evaluate("window.pwned") is None


async def test_inline_scripts_and_other_hosts_are_forbidden_to_the_page_itself(
    new_page: NewPage, faults: list[str]
) -> None:
    page = await new_page("/")
    blocked = await page.evaluate(
        """async () => {
            const broken = [];
            document.addEventListener('securitypolicyviolation', event => broken.push(event.effectiveDirective));
            const script = document.createElement('script');
            try { script.textContent = 'window.pwned = 1'; } catch { broken.push('trusted types'); }
            try { document.body.innerHTML = '<b>x</b>'; } catch { broken.push('trusted types'); }
            await fetch('https://example.org/').catch(() => {});
            await new Promise(resolve => setTimeout(resolve, 50));
            return broken;
        }"""
    )
    assert "trusted types" in blocked
    assert "connect-src" in blocked
    assert any("connect-src" in fault for fault in faults)
    faults.clear()
    assert await page.evaluate("window.pwned") is None


async def test_markdown_is_drawn_and_code_is_copied(new_page: NewPage) -> None:
    page = await new_page()
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await send(page, "/markdown")
    await finished(page)
    for part in ("h3", "strong", "em", "a[href='https://example.org/']", "ol li ul li", "blockquote", "table td", "pre"):
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
            const text = '# A\\n\\nOne *two*\\nthree\\n\\n- a\\n- b\\n\\n  c\\n\\n| x | y |\\n|---|---|\\n| 1 | 2 |\\n\\n```py\\nx\\n\\ny\\n```\\nEnd\\n===\\n\\n> q\\n\\nlast';
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
    await running.click()
    await expect(answer(page)).to_contain_text("first of all")
    await expect(running.locator(".badge")).to_have_count(0)
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


async def test_a_draft_and_an_unsent_message_survive_a_reload(new_page: NewPage, proxy: CuttingProxy) -> None:
    page = await new_page()
    await page.wait_for_function("navigator.serviceWorker.ready.then(() => true)")
    await page.fill("#message", "half a thou")
    await page.reload()
    await expect(page.locator("#message")).to_have_value("half a thou")
    proxy.cut(refuse=True)
    await send(page, "/echo in the end")
    await expect(page.locator(".pending")).to_contain_text("in the end")
    await page.reload()  # the service worker has the page; the gateway is away
    await expect(page.locator(".pending")).to_contain_text("in the end")
    proxy.mend()
    await finished(page)
    await expect(answer(page)).to_have_text("in the end")
    await expect(page.locator(".message.user")).to_have_count(1)


async def test_the_service_worker_keeps_no_answer_of_the_gateway(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/echo secret words")
    await finished(page)
    await page.wait_for_function("navigator.serviceWorker.ready.then(() => true)")
    kept = await page.evaluate(
        """async () => (await Promise.all((await caches.keys()).map(async name => (await (await caches.open(name)).keys())
            .map(request => new URL(request.url).pathname)))).flat()"""
    )
    assert "/" in kept
    assert not [path for path in kept if path.startswith("/api")]
    manifest = await page.evaluate("fetch('/manifest.webmanifest').then(answer => answer.json())")
    assert manifest["display"] == "standalone"


async def test_on_a_phone_the_list_is_a_drawer_and_nothing_is_wider_than_the_screen(new_page: NewPage) -> None:
    page = await new_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    await page.fill("#message", "/markdown\n/approval command\n/long 40")
    await page.get_by_role("button", name="Send").tap()
    await expect(page.get_by_role("button", name="Allow once")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    overflowing = """() => [...document.querySelectorAll('#main *')].filter(node => !node.closest('pre, .table, summary, .visually-hidden')
        && node.getBoundingClientRect().right > innerWidth + 1).map(node => node.outerHTML.slice(0, 80))"""
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
    nameless = """() => [...document.querySelectorAll('button, input, textarea, a')].filter(node => node.checkVisibility()
        && !(node.ariaLabel || node.textContent.trim() || node.labels?.length)).map(node => node.outerHTML)"""
    assert await page.evaluate(nameless) == []
    for role in ("navigation", "main", "log"):
        await expect(page.get_by_role(role)).to_have_count(1)
    assert await page.evaluate("document.querySelectorAll('h1:not([hidden])').length") >= 1
    await page.get_by_role("button", name="Red").click()
    await finished(page)


async def test_a_reader_who_scrolled_up_is_left_alone(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/items 40\n/pieces 30 0.03")
    await expect(answer(page)).to_contain_text("Paragraph 40.")
    await page.wait_for_function("() => { const box = document.getElementById('transcript'); return box.scrollTop > 100; }")
    await page.locator("#transcript").hover()
    await page.mouse.wheel(0, -5000)
    await expect(page.get_by_role("button", name="Go to the newest message")).to_be_visible()
    await finished(page)
    assert await page.evaluate("document.getElementById('transcript').scrollTop") < 50
    await page.get_by_role("button", name="Go to the newest message").click()
    await expect(page.get_by_role("button", name="Go to the newest message")).to_be_hidden()


async def test_two_windows_of_one_person_show_the_same(new_page: NewPage) -> None:
    first, second = await new_page(), await new_page()
    await send(first, "/pieces 100 0.01")
    await expect(answer(first)).to_contain_text(" 3 ")
    await second.goto(first.url)
    await asyncio.gather(finished(first), finished(second))
    await expect(answer(second)).to_have_text(NUMBERS)
    await expect(answer(first)).to_have_text(NUMBERS)
