"""A turn as a person at the console sees it, in a real browser, over a network that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.console.acts import COUNT_UPDATES, NUMBERS, answer, finished, send
from tests.console.conftest import NewPage
from tests.console.proxy import CuttingProxy
from tests.server import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_answer_grows_in_view_in_many_steps(new_page: NewPage) -> None:
    page = await new_page()
    await page.evaluate(COUNT_UPDATES)
    await send(page, "/pieces 100 0.01")
    await finished(page)
    await expect(answer(page)).to_have_text(NUMBERS)
    updates = await page.evaluate("window.updates")
    assert len(updates) >= 10, f"{len(updates)} updates"
    assert all(NUMBERS.startswith(text.strip()) for text in updates)


async def test_a_connection_cut_in_mid_answer_loses_and_doubles_nothing(new_page: NewPage, proxy: CuttingProxy) -> None:
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
    await page.evaluate(
        "addEventListener('pagehide', () => localStorage.removeItem('agentline.thread.' + location.hash.slice(4)))"
    )
    await page.reload()
    await finished(page)
    await expect(answer(page)).to_have_text(NUMBERS)


async def test_a_server_killed_in_mid_answer_is_caught_up_with_and_the_turn_tried_again(
    new_page: NewPage, proxy: CuttingProxy, tmp_path: Path
) -> None:
    process = GatewayProcess(tmp_path, {"AGENTS": {"claude": None, "codex": None, "demo": {"pace": 50}}})
    proxy.lead_to(await process.start_soon())
    try:
        page = await new_page()
        await send(page, "/pieces 200 0.03")
        await expect(answer(page)).to_contain_text(" 40 ")
        await process.kill()
        proxy.lead_to(await process.restart())
        await expect(page.locator(".note")).to_contain_text("The server stopped")
        await expect(answer(page)).to_contain_text("1 2 3 4 5 ")
        await page.get_by_role("button", name="Retry").click()
        await expect(page.locator(".message.assistant")).to_have_count(2)
        await expect(answer(page)).to_contain_text(" 40 ")
        await expect(page.locator(".message.user")).to_have_count(1)
        await page.get_by_role("button", name="Stop the answer").click()
        await finished(page, 2)
    finally:
        process.stop_now()


async def test_an_answer_whose_backend_breaks_off_keeps_its_text_and_offers_a_retry(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/cut")
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


async def test_two_windows_of_one_person_show_the_same(new_page: NewPage) -> None:
    first, second = await new_page(), await new_page()
    await send(first, "/pieces 100 0.01")
    await expect(answer(first)).to_contain_text(" 3 ")
    await second.goto(first.url)
    await asyncio.gather(finished(first), finished(second))
    await expect(answer(second)).to_have_text(NUMBERS)
    await expect(answer(first)).to_have_text(NUMBERS)
