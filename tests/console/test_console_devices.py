"""Phones and browsers as the console's dialog shows them: pairing by picture, revoking, notifications."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.async_api import Page, expect

from gateway.pairing import Picture
from tests.console.acts import answer, finished, send
from tests.console.conftest import PATIENCE_MS, NewPage
from tests.console.proxy import CuttingProxy
from tests.fakes.webpush import Browser, base64url
from tests.server import TOKENS, GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

REVOKED_MS = 5_000
SUBSCRIBE = """(() => {
    const kept = () => JSON.parse(localStorage.getItem('test.subscription') ?? 'null');
    const subscription = () => kept() && {
        options: {},
        toJSON: () => kept(),
        unsubscribe: async () => { localStorage.removeItem('test.subscription'); return true; },
    };
    window.subscribed = [];
    window.asked = 0;
    PushManager.prototype.getSubscription = async () => subscription();
    PushManager.prototype.subscribe = async ({userVisibleOnly, applicationServerKey}) => {
        window.subscribed.push([userVisibleOnly, [...applicationServerKey]]);
        localStorage.setItem('test.subscription', JSON.stringify(SUBSCRIPTION));
        return subscription();
    };
    const request = Notification.requestPermission;
    Notification.requestPermission = () => { window.asked += 1; return request.call(Notification); };
})()"""
"""Stands in for the push service, which a browser under test cannot reach."""
MODULES = """picture => {
    const path = picture.querySelector('path');
    const size = picture.viewBox.baseVal.width;
    const dark = (x, y) => Number(path.isPointInFill(new DOMPoint(x + 0.5, y + 0.5)));
    return Array.from({length: size}, (_, y) => Array.from({length: size}, (_, x) => dark(x, y)));
}"""
COLOURS = "picture => [getComputedStyle(picture).backgroundColor, getComputedStyle(picture.firstChild).fill]"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pushing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    """A gateway that is set up for Web Push."""
    directory = tmp_path_factory.mktemp("pushing")
    key = ec.generate_private_key(ec.SECP256R1())
    path = directory / "vapid.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    webpush = {"private_key_path": str(path), "subject": "mailto:operator@example.org"}
    process = GatewayProcess(directory / "state", {"PUSH__WEBPUSH": webpush})
    await process.start_soon()
    try:
        yield process
    finally:
        process.stop_now()


async def open_devices(page: Page) -> None:
    await page.get_by_role("button", name="Devices").click()
    await expect(page.get_by_role("dialog", name="Devices")).to_be_visible()


async def test_the_picture_holds_the_link_and_is_dark_on_light_in_the_dark_theme(new_page: NewPage) -> None:
    page = await new_page(color_scheme="dark")
    async with page.expect_response("**/api/pair/codes") as told:
        await open_devices(page)
    sent = await (await told.value).json()
    picture = page.get_by_role("img", name="QR code")
    await expect(picture.locator("path")).to_have_attribute("d", sent["qr"]["path"])
    assert await picture.evaluate(MODULES) == [list(row) for row in Picture.of(sent["url"]).rows]
    assert await picture.evaluate(COLOURS) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    await expect(page.locator("#pair-code code")).to_have_text(sent["url"])
    await expect(page.locator("#pair-code")).to_contain_text(sent["warning"])
    await expect(page.locator("#pair-left")).to_contain_text("Good for 1:")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy the link").click()
    assert await page.evaluate("navigator.clipboard.readText()") == sent["url"]


async def test_a_code_that_ran_out_is_replaced_by_a_new_one(new_page: NewPage) -> None:
    page = await new_page()
    await page.clock.install()
    await open_devices(page)
    link = page.locator("#pair-code code")
    await expect(link).to_contain_text("#pair=")
    first = await link.inner_text()
    await page.clock.fast_forward(125_000)
    await page.clock.run_for(4_000)
    await expect(link).not_to_have_text(first)
    await expect(page.locator("#pair-left")).to_contain_text("Good for")


async def test_a_phone_that_opens_the_link_is_listed_and_signed_out_when_it_is_revoked(
    new_page: NewPage, proxy: CuttingProxy
) -> None:
    owner = await new_page()
    await open_devices(owner)
    link = owner.locator("#pair-code code")
    await expect(link).to_contain_text("#pair=")
    url = await link.inner_text()
    assert url.startswith(proxy.url)
    phone = await new_page(url.removeprefix(proxy.url))
    await expect(phone.locator("#connection")).to_have_attribute("data-state", "online")
    assert "pair" not in phone.url
    listed = owner.locator("#paired li", has_text="Browser on")
    await expect(listed).to_have_count(1)
    # The code works once, so the picture is another by now.
    await expect(link).not_to_have_text(url)

    await open_devices(phone)
    await expect(phone.locator("#paired li[aria-current]")).to_contain_text("this device")
    await listed.get_by_role("button", name="Revoke").click()
    await expect(phone.locator("#paired li[aria-current]")).to_have_count(1)
    await listed.get_by_role("button", name="Really revoke").click()
    await expect(phone.locator("#sign-in")).to_be_visible(timeout=REVOKED_MS)
    # An open dialog would leave the form below it without effect.
    await phone.click("#token")
    assert not await phone.evaluate("document.getElementById('devices-dialog').open")
    await expect(listed).to_have_count(0)


async def test_a_gateway_without_a_key_shows_the_reason_in_place_of_the_switch(new_page: NewPage) -> None:
    page = await new_page()
    await open_devices(page)
    await expect(page.locator("#notify-reason")).to_contain_text("not set up for notifications")
    await expect(page.get_by_role("switch")).to_be_hidden()


async def test_the_switch_registers_the_subscription_of_the_sockets_device(
    new_page: NewPage, proxy: CuttingProxy, pushing: GatewayProcess
) -> None:
    proxy.lead_to(pushing.url)
    page = await new_page()
    async with pushing.http() as http:
        key = (await http.get("/api/devices")).json()["webpush_key"]
        browser = Browser("console", key)
        subscription = {
            "endpoint": "https://push.example.org/console",
            "expirationTime": None,
            "keys": {"p256dh": base64url(browser.point), "auth": base64url(browser.secret)},
        }
        await page.context.grant_permissions(["notifications"])
        await page.context.add_init_script(SUBSCRIBE.replace("SUBSCRIPTION", json.dumps(subscription)))
        async with page.expect_websocket() as opened:
            await page.reload()
        device_id = (await opened.value).url.partition("device_id=")[2]
        await open_devices(page)
        switch = page.get_by_role("switch", name="Notify me")
        await expect(switch).not_to_be_checked()
        assert await page.evaluate("window.asked") == 0
        await switch.click()
        await expect(switch).to_be_enabled()
        await expect(switch).to_be_checked()
        assert await page.evaluate("window.asked") == 1
        [[visible, given]] = await page.evaluate("window.subscribed")
        assert visible is True
        assert base64url(bytes(given)) == key
        [device] = (await http.get("/api/devices")).json()["devices"]
        assert (device["device_id"], device["platform"]) == (device_id, "web")

        await page.reload()
        await open_devices(page)
        await expect(switch).to_be_checked()
        assert await page.evaluate("window.asked") == 0
        await switch.click()
        await expect(switch).not_to_be_checked()
        await expect(switch).to_be_enabled()
        assert (await http.get("/api/devices")).json()["devices"] == []

        await switch.click()
        await expect(switch).to_be_checked()
        await expect(switch).to_be_enabled()
        await page.click("#close-devices")
        await page.click("#sign-out")
        await expect(page.locator("#token")).to_be_visible()
        assert (await http.get("/api/devices")).json()["devices"] == []
        assert await page.evaluate("localStorage.getItem('test.subscription')") is None


async def deliver(page: Page, origin: str, payload: dict[str, Any], body: str | None = None) -> list[dict[str, Any]]:
    """Hand a push to the service worker, as the browser does; the notifications once one has the text `body`."""
    session = await page.context.new_cdp_session(page)
    registration: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(event: dict[str, Any]) -> None:
        if event["registrations"] and not registration.done():
            registration.set_result(event["registrations"][0]["registrationId"])

    session.on("ServiceWorker.workerRegistrationUpdated", note)
    await page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    await session.send("ServiceWorker.enable")
    async with asyncio.timeout(PATIENCE_MS / 1000):
        push = {"origin": origin, "registrationId": await registration, "data": json.dumps(payload)}
    await session.send("ServiceWorker.deliverPushMessage", push)
    shown = """async ([title, body]) => {
        const worker = await navigator.serviceWorker.ready;
        for (const until = Date.now() + 10_000; Date.now() < until; ) {
            const there = await worker.getNotifications();
            const found = there.map(({title, body, tag, data}) => ({title, body, tag, data}));
            if (found.some(one => one.title === title && one.body === body)) return found;
            await new Promise(resolve => setTimeout(resolve, 20));
        }
        return [];
    }"""
    awaited = [payload["title"], payload["body"] if body is None else body]
    result: list[dict[str, Any]] = await page.evaluate(shown, awaited)
    await session.detach()
    return result


async def test_a_push_is_shown_and_its_repeat_replaces_it_and_a_tap_opens_the_thread(
    new_page: NewPage, proxy: CuttingProxy
) -> None:
    page = await new_page()
    await page.context.grant_permissions(["notifications"])
    await send(page, "/echo pushed about")
    await finished(page)
    thread_id = page.url.partition("#/t/")[2]
    await page.click("#new-thread")
    names = {"thread_id": thread_id, "turn_id": "u-1", "message_id": "m-1", "agent": "demo", "status": "completed"}
    push = {"title": "A conversation", "body": "Half.", "kind": "turn", **names}
    [shown] = await deliver(page, proxy.url, push)
    assert shown == {"title": "A conversation", "body": "Half.", "tag": "turn-u-1", "data": {"thread": thread_id}}
    [again] = await deliver(page, proxy.url, push | {"body": "Whole."})
    assert again["body"] == "Whole."
    asking = push | {"kind": "approval", "approval_id": "a-1", "title": "demo asks", "body": "May I?"}
    both = await deliver(page, proxy.url, asking)
    assert {one["tag"] for one in both} == {"turn-u-1", "approval-a-1"}

    worker = page.context.service_workers[0]
    await worker.evaluate("thread => open(thread)", thread_id)
    await expect(answer(page)).to_have_text("pushed about")
    assert page.url.endswith(f"#/t/{thread_id}")


async def test_a_push_without_text_shows_the_answer_that_it_may_fetch_or_a_phrase(
    new_page: NewPage, proxy: CuttingProxy, gateway: GatewayProcess
) -> None:
    page = await new_page()
    await page.context.grant_permissions(["notifications"])
    await send(page, "/echo kept at home")
    await finished(page)
    thread_id = page.url.partition("#/t/")[2]
    turn_id = (await gateway.get(f"/api/threads/{thread_id}/messages"))["messages"][-1]["turn_id"]
    push = {"title": "demo", "body": "", "kind": "turn", "thread_id": thread_id, "turn_id": turn_id, "truncated": True}
    [shown] = await deliver(page, proxy.url, push | {"fetch_token": TOKENS["alice"]}, "kept at home")
    assert shown["tag"] == f"turn-{turn_id}"
    [shown] = await deliver(page, proxy.url, push | {"fetch_token": "too old"}, "New answer")
    assert shown["data"] == {"thread": thread_id}
    kept = "caches.open('agentline-shell').then(cache => cache.keys()).then(all => all.map(one => one.url))"
    assert not [url for url in await page.evaluate(kept) if "/api/" in url]


async def test_a_message_taken_back_while_it_waited_and_an_answer_stopped_before_its_first_word_are_told_apart(
    new_page: NewPage, gateway: GatewayProcess
) -> None:
    page = await new_page()
    await send(page, "/hang")
    await expect(page.locator(".message.assistant.running")).to_have_count(1)
    await send(page, "/echo never said")
    await expect(page.locator(".pending")).to_contain_text("never said")
    # Its turn is known once it is accepted, which is later than it is shown.
    turn = await page.wait_for_function("JSON.parse(localStorage.getItem('agentline.pending')).at(-1)?.turnId")
    async with gateway.http() as http:
        await http.post(f"/api/turns/{await turn.json_value()}/cancel")
    await page.get_by_role("button", name="Stop the answer").click()
    await finished(page, 2)
    notes = page.locator(".note")
    await expect(notes.filter(has_text="You stopped this answer.")).to_have_count(1)
    await expect(notes.filter(has_text="You took this message back.")).to_have_count(1)


async def test_what_is_missing_to_an_agent_is_folded_away(
    new_page: NewPage, proxy: CuttingProxy, tmp_path: Path
) -> None:
    process = GatewayProcess(tmp_path, {"AGENTS": {"codex": None, "claude": {}, "demo": {}}})
    proxy.lead_to(await process.start_soon())
    try:
        page = await new_page()
        fold = page.locator("#reason details")
        await expect(fold.locator("summary")).to_contain_text("Not set up: claude")
        await expect(fold.locator(".inner")).to_be_hidden()
        await fold.locator("summary").click()
        await expect(fold.locator(".inner")).to_contain_text("claude is not set up")
    finally:
        process.stop_now()
