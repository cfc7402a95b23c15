"""The push, from the end of a turn in a real gateway to the lock screen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.push_house import GRACE, PLATFORMS, TOPIC, House, apns_token, eventually, push_house
from tests.fakes.apns import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with push_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="module")
async def house(shared: House) -> AsyncIterator[House]:
    """The module's, with no device registered and nothing said."""
    yield shared
    await shared.clear()


def seconds(turn: dict[str, Any], push: dict[str, Any]) -> float:
    """Between the turn's end and the push's outcome."""
    ended, told = datetime.fromisoformat(turn["finished_at"]), datetime.fromisoformat(push["at"])
    return (told - ended).total_seconds()


async def test_when_nobody_is_there_the_full_response_stands_on_every_lock_screen(house: House) -> None:
    for platform in PLATFORMS:
        await house.register(f"my-{platform}", platform)
    phone = house.client()
    await phone.connect()
    accepted = await phone.message("/echo Grüße, 你好 👩‍👩‍👧 and\n/pause 0.2\n/echo the end.")
    await phone.abort()
    turn_id = accepted["turn_id"]
    assert await house.outcomes(turn_id, 4) == {f"my-{platform}": "sent" for platform in PLATFORMS}
    turn = await house.turn(turn_id)
    answer = turn["content"]
    assert answer.endswith("the end.")
    names = {
        "thread_id": turn["thread_id"],
        "turn_id": turn_id,
        "message_id": turn["message_id"],
        "agent": "demo",
        "status": "completed",
        "kind": "turn",
    }

    [on_iphone] = house.on_iphone("my-ios")
    aps = on_iphone.payload["aps"]
    assert aps["alert"]["body"] == answer
    assert aps["alert"]["title"].startswith("/echo Grüße")
    assert (aps["thread-id"], aps["mutable-content"], aps["badge"]) == (turn["thread_id"], 1, 1)
    assert aps["interruption-level"] == "active"
    assert "category" not in aps
    assert on_iphone.payload["agentline"] == names
    assert on_iphone.headers["apns-collapse-id"] == f"turn-{turn_id}"

    [on_android] = house.fcm.messages
    assert on_android["data"]["body"] == answer
    assert names.items() <= on_android["data"].items()
    assert on_android["android"]["priority"] == "HIGH"
    assert on_android["android"]["ttl"].endswith("s")

    [in_browser] = house.web.browsers["my-web"].shown
    assert in_browser["body"] == answer
    assert names.items() <= in_browser.items()

    [on_ntfy] = house.ntfy.raw
    assert (on_ntfy["topic"], on_ntfy["message"], on_ntfy["body"]) == (TOPIC, answer, answer)
    assert names.items() <= on_ntfy.items()
    assert on_ntfy["click"].startswith("http://")


async def test_who_is_there_and_says_so_is_not_told_again(house: House) -> None:
    for platform in PLATFORMS:
        await house.register(f"my-{platform}", platform)
    async with house.client(device_id="my-ios") as phone:
        accepted = await phone.message("/echo Hello.")
        done = await phone.finish(accepted["turn_id"])
        await phone.send("seen", thread_id=accepted["thread_id"], message_id=done["message_id"])
        outcomes = await house.outcomes(accepted["turn_id"], 4)
    assert set(outcomes.values()) == {"suppressed seen"}
    assert not house.apns.shown
    assert not house.fcm.messages
    assert not house.web.browsers["my-web"].shown
    assert not house.ntfy.shown


async def test_who_is_there_but_frozen_is_told_after_the_grace(house: House) -> None:
    """A phone in a pocket: its socket is open and reads nothing."""
    await house.register("frozen")
    phone = house.client(device_id="frozen", receive_buffer=4096)
    await phone.connect()
    accepted = await phone.message("/long 2000")
    [push] = await house.pushes(accepted["turn_id"])
    turn = await house.turn(accepted["turn_id"])
    assert push["outcome"] == "sent"
    assert seconds(turn, push) >= GRACE - 0.01
    [shown] = house.on_iphone("frozen")
    assert turn["content"].startswith(shown.payload["aps"]["alert"]["body"])
    health = await house.gateway.get("/api/health")
    assert health["connections"]["demo"] == 1, "the socket is open"
    await phone.abort()


async def test_each_device_says_whether_it_wants_to_be_told(house: House) -> None:
    await house.register("eager", notify="always")
    await house.register("quiet", notify="never")
    await house.register("usual")
    async with house.client() as phone:
        accepted = await phone.message("/echo Hello.")
        done = await phone.finish(accepted["turn_id"])
        await eventually(lambda: bool(house.on_iphone("eager")))
        await phone.send("seen", thread_id=accepted["thread_id"], message_id=done["message_id"])
    pushes = await house.pushes(accepted["turn_id"], 3)
    assert {push["device_id"]: (push["outcome"], push["reason"]) for push in pushes} == {
        "eager": ("sent", ""),
        "quiet": ("suppressed", "policy"),
        "usual": ("suppressed", "seen"),
    }
    eager = next(push for push in pushes if push["device_id"] == "eager")
    assert seconds(await house.turn(accepted["turn_id"]), eager) < GRACE
    assert not house.on_iphone("quiet")
    assert not house.on_iphone("usual")


async def test_a_long_answer_comes_cut_and_its_token_opens_that_turn_and_nothing_else(house: House) -> None:
    for platform in PLATFORMS:
        await house.register(f"my-{platform}", platform, notify="always")
    other = await house.send("/echo another answer")
    turn_id = await house.send("/long 3000")
    await house.outcomes(turn_id, 4)
    whole = (await house.turn(turn_id))["content"]
    [on_iphone] = [s for s in house.on_iphone("my-ios") if s.payload["agentline"]["turn_id"] == turn_id]
    assert 3900 < len(json.dumps(on_iphone.payload, ensure_ascii=False, separators=(",", ":")).encode()) <= 4096
    ours = on_iphone.payload["agentline"]
    cut = [
        (on_iphone.payload["aps"]["alert"]["body"], ours["truncated"], ours["length"]),
        *((m["data"]["body"], True, int(m["data"]["length"])) for m in house.fcm.messages if "length" in m["data"]),
        *((m["body"], m["truncated"], m["length"]) for m in house.web.browsers["my-web"].shown if "length" in m),
        *((m["message"], m["truncated"], m["length"]) for m in house.ntfy.raw if "length" in m),
    ]
    assert len(cut) == 4
    for text, truncated, length in cut:
        assert (truncated, length) == (True, len(whole))
        assert whole.startswith(text)
        assert len(text) > 3000

    token = ours["fetch_token"]
    async with house.gateway.http(None) as http:
        answer = await http.get(f"/api/turns/{turn_id}", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
        assert answer.json()["content"] == whole
        assert answer.json()["pushes"] == [], "whose devices there are is not for a lock screen"
        damaged = token[:-1] + ("A" if token[-1] != "A" else "B")
        later = f"{int(token.partition('.')[0], 16) + 1000:x}.{token.partition('.')[2]}"
        for method, path, bearer in (
            ("GET", f"/api/turns/{other}", token),
            ("GET", f"/api/turns/{turn_id}", damaged),
            ("GET", f"/api/turns/{turn_id}", later),
            ("GET", "/api/threads", token),
            ("GET", "/api/devices", token),
            ("POST", f"/api/turns/{turn_id}/retry", token),
            ("POST", f"/api/turns/{turn_id}/cancel", token),
        ):
            refused = await http.request(method, path, headers={"Authorization": f"Bearer {bearer}"})
            assert refused.status_code == 401, (method, path)


async def test_a_turn_that_failed_says_why_and_one_that_was_cancelled_says_nothing(house: House) -> None:
    await house.register("phone", notify="always")
    failed = await house.send("/echo So far\n/error overloaded after")
    wordless = await house.send("/error overloaded")
    assert await house.outcomes(failed) == {"phone": "sent"}
    assert await house.outcomes(wordless) == {"phone": "sent"}
    told = {s.payload["agentline"]["turn_id"]: s.payload for s in house.on_iphone("phone")}
    assert told[failed]["aps"]["alert"]["body"].startswith("So far")
    assert told[failed]["agentline"]["status"] == "failed"
    error = (await house.turn(wordless))["error"]
    assert told[wordless]["aps"]["alert"]["body"] == error["message"]

    async with house.client() as phone:
        accepted = await phone.message("/echo begun\n/hang")
        await phone.send("cancel", turn_id=accepted["turn_id"])
        assert (await phone.finish(accepted["turn_id"]))["status"] == "cancelled"
    assert (await house.turn(accepted["turn_id"]))["pushes"] == []


async def test_an_approval_rings_with_a_category_unless_somebody_decides_within_the_grace(house: House) -> None:
    await house.register("phone")
    turn_id = await house.send("/approval command")
    [push] = await house.pushes(turn_id)
    assert (push["kind"], push["outcome"]) == ("approval", "sent")
    [shown] = house.on_iphone("phone", "approval")
    aps, ours = shown.payload["aps"], shown.payload["agentline"]
    assert (aps["category"], aps["interruption-level"]) == ("agentline.approval", "time-sensitive")
    assert (ours["turn_id"], ours["status"]) == (turn_id, "running")
    assert aps["alert"]["title"] == "demo asks"
    assert aps["alert"]["body"]
    assert shown.headers["apns-collapse-id"] == f"approval-{ours['approval_id']}"
    decided = await house.gateway.post(f"/api/approvals/{ours['approval_id']}", {"decision": "approved"})
    assert decided.status_code == 200
    pushes = await house.pushes(turn_id, 2)
    assert [(push["kind"], push["outcome"]) for push in pushes] == [("approval", "sent"), ("turn", "sent")]

    async with house.client() as phone:
        accepted = await phone.message("/approval command")
        asked = (await phone.receive(until="approval_request"))[-1]
        await phone.send("approval", approval_id=asked["approval_id"], decision="declined")
        await phone.finish(accepted["turn_id"])
    pushes = await house.pushes(accepted["turn_id"], 2)
    assert {push["kind"]: push["outcome"] for push in pushes} == {"approval": "suppressed", "turn": "sent"}


async def test_a_test_push_tells_an_app_developer_what_became_of_it(house: House) -> None:
    for platform in PLATFORMS:
        assert (await house.register(f"my-{platform}", platform))["deliverable"] is True
        tried = await house.gateway.post(f"/api/devices/my-{platform}/test")
        assert tried.status_code == 200
        assert tried.json() == {"device_id": f"my-{platform}", "outcome": "sent", "reason": ""}
    [shown] = house.on_iphone("my-ios", "test")
    assert shown.payload["aps"]["alert"]["title"] == "Agentline"

    house.apns.script = lambda request: Answer(400, "BadDeviceToken")
    tried = await house.gateway.post("/api/devices/my-ios/test")
    assert tried.json()["reason"] == "BadDeviceToken"
    house.apns.script = lambda request: Answer(503, "ServiceUnavailable")
    await house.register("my-ios")
    tried = await house.gateway.post("/api/devices/my-ios/test")
    assert (tried.json()["outcome"], tried.json()["reason"]) == ("failed", "ServiceUnavailable")
    house.apns.script = lambda request: Answer(410, "Unregistered", timestamp=4_000_000_000_000)
    tried = await house.gateway.post("/api/devices/my-ios/test")
    assert (tried.json()["outcome"], tried.json()["reason"]) == ("token_removed", "Unregistered")
    assert (await house.gateway.post("/api/devices/my-ios/test")).status_code == 404
    listed = (await house.gateway.get("/api/devices"))["devices"]
    assert [device["device_id"] for device in listed] == ["my-android", "my-ntfy", "my-web"]


async def test_a_device_is_registered_shown_changed_and_removed_by_its_user_alone(house: House) -> None:
    made = await house.register("phone", app_id="org.example.other", environment="sandbox", notify="always")
    assert {
        name: made[name] for name in ("device_id", "platform", "environment", "app_id", "notify", "deliverable")
    } == {
        "device_id": "phone",
        "platform": "ios",
        "environment": "sandbox",
        "app_id": "org.example.other",
        "notify": "always",
        "deliverable": True,
    }
    shown = await house.gateway.get("/api/devices/phone")
    assert shown == {name: value for name, value in made.items() if name != "deliverable"}
    listed = await house.gateway.get("/api/devices")
    assert listed["devices"] == [shown]
    assert listed["platforms"] == dict.fromkeys(PLATFORMS, True)
    assert apns_token("phone") not in json.dumps([made, listed]), "whoever has the token can push to the phone"

    changed = await house.register("phone", environment="production")
    assert (changed["environment"], changed["app_id"], changed["notify"]) == ("production", None, None)
    assert len((await house.gateway.get("/api/devices"))["devices"]) == 1

    async with house.gateway.http("bob") as bob:
        for answer in (
            await bob.get("/api/devices/phone"),
            await bob.delete("/api/devices/phone"),
            await bob.post("/api/devices/phone/test"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert (await bob.get("/api/devices")).json()["devices"] == []
    async with house.gateway.http(None) as nobody:
        assert (await nobody.get("/api/devices")).status_code == 401
    async with house.gateway.http() as alice:
        assert (await alice.delete("/api/devices/phone")).status_code == 204
        assert (await alice.delete("/api/devices/phone")).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"platform": "ios", "token": "not hexadecimal"}, "token"),
        ({"platform": "ios", "token": ""}, "token"),
        ({"platform": "ios", "token": {"a": 1}}, "token"),
        ({"platform": "ios", "token": apns_token("x"), "environment": "staging"}, "environment"),
        ({"platform": "ios", "token": apns_token("x"), "notify": "sometimes"}, "notify"),
        ({"platform": "pager", "token": "x"}, "platform"),
        ({"platform": "web", "token": {"endpoint": "https://example.org/push"}}, "token"),
        ({"platform": "web", "token": {"endpoint": "file:///etc", "keys": {"p256dh": "x", "auth": "y"}}}, "token"),
        ({"platform": "ntfy", "token": "with/slash"}, "token"),
        ({"token": "x"}, "platform"),
    ],
)
async def test_a_registration_that_nothing_can_be_sent_to_is_refused_and_names_the_field(
    house: House, body: dict[str, Any], field: str
) -> None:
    answer = await house.put("phone", **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("bad_request", field)
    assert (await house.gateway.get("/api/devices"))["devices"] == []


@pytest.mark.parametrize("platform", ["ios", "web"])
async def test_a_phone_that_changes_hands_gets_nothing_more_of_its_former_user(house: House, platform: str) -> None:
    """Also when the other user's app spells the same token another way."""
    token = await house.token("shared", platform)
    await house.register("shared", platform, token=token)
    turn_id = await house.send("/echo for Alice alone")
    await eventually_ended(house, turn_id)
    respelled = token.upper() if platform == "ios" else dict(reversed(token.items())) | {"expirationTime": 99}
    await house.register("mine-now", platform, user="bob", token=respelled)
    assert await house.outcomes(turn_id) == {"shared": "no_devices"}
    assert (await house.gateway.get("/api/devices"))["devices"] == []
    bobs = await house.send("/echo for Bob alone", "bob")
    assert await house.outcomes(bobs, user="bob") == {"mine-now": "sent"}
    if platform == "ios":
        arrived = [shown.payload["aps"]["alert"]["body"] for shown in house.on_iphone("shared")]
    else:
        arrived = [shown["body"] for shown in house.web.browsers["shared"].shown]
    assert arrived == ["for Bob alone"]


async def eventually_ended(house: House, turn_id: str) -> None:
    async with asyncio.timeout(10):
        while (await house.turn(turn_id))["status"] in ("queued", "running"):  # noqa: ASYNC110  another process ends it
            await asyncio.sleep(0.02)


async def test_a_turn_of_a_user_without_devices_says_so(house: House) -> None:
    await house.register("of-bob", user="bob")
    turn_id = await house.send("/echo Hello.")
    [push] = await house.pushes(turn_id)
    assert (push["device_id"], push["platform"], push["kind"], push["outcome"]) == (None, None, "turn", "no_devices")
    async with house.gateway.http("bob") as bob:
        assert (await bob.get(f"/api/turns/{turn_id}")).status_code == 404


async def test_what_each_device_got_is_told_with_the_turn(house: House) -> None:
    for name in ("good", "gone", "refused"):
        await house.register(name, notify="always")
    said = {
        apns_token("gone"): Answer(410, "Unregistered", timestamp=4_000_000_000_000),
        apns_token("refused"): Answer(400, "DeviceTokenNotForTopic"),
    }
    house.apns.script = lambda request: said.get(request.token)
    turn_id = await house.send("/echo Hello.")
    outcomes = await house.outcomes(turn_id, 3)
    assert outcomes["good"] == "sent"
    assert outcomes["gone"] == "token_removed Unregistered"
    assert outcomes["refused"].endswith(" DeviceTokenNotForTopic")
    assert (await house.turn(turn_id))["status"] == "completed", "a push never changes its turn"
    names = [device["device_id"] for device in (await house.gateway.get("/api/devices"))["devices"]]
    assert "gone" not in names


async def test_seen_clears_the_badge_and_takes_the_notification_back_on_the_other_devices(house: House) -> None:
    await house.register("phone")
    await house.register("tablet")
    await house.register("pixel", "android")
    first = await house.send("/echo one", thread_id="here")
    await house.outcomes(first, 3)
    second = await house.send("/echo two", thread_id="there")
    await house.outcomes(second, 3)
    badges = [shown.payload["aps"]["badge"] for shown in house.on_iphone("tablet")]
    assert badges == [1, 2]
    message_id = (await house.turn(first))["message_id"]
    async with house.client(device_id="phone") as phone:
        await phone.send("seen", thread_id="here", message_id=message_id)
        await phone.quiet()
    await eventually(lambda: len(house.on_iphone("tablet", "seen")) == 1)
    await eventually(lambda: house.fcm.messages[-1]["data"]["kind"] == "seen")
    [taken_back] = house.on_iphone("tablet", "seen")
    assert taken_back.payload["aps"] == {"content-available": 1, "thread-id": "here", "badge": 1}
    assert taken_back.payload["agentline"]["turn_id"] == first
    assert taken_back.headers["apns-collapse-id"] == f"turn-{first}"
    data = house.fcm.messages[-1]["data"]
    assert (data["turn_id"], data["badge"]) == (first, "1")
    assert not house.on_iphone("phone", "seen"), "where it was seen, it is known"
    assert len((await house.turn(first))["pushes"]) == 3, "a withdrawal is no outcome of the turn"
