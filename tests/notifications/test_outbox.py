from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from notifications.apns import Apns
from notifications.fcm import Fcm, FcmSettings
from notifications.outbox import Outbox
from notifications.records import Delivery, Device, Outcome, Platform, Policy, Push
from notifications.verdict import Transport, Verdict
from notifications.webpush import WebPush, WebPushSettings
from tests.fakes.apns import Answer, ApnsFake, Silent
from tests.fakes.fcm import FcmFake
from tests.fakes.push_http import Hang
from tests.fakes.push_tls import Authority, ec_key_pem
from tests.fakes.webpush import WebPushFake
from tests.notifications.conftest import MakeSettings
from tests.notifications.memory_store import MemoryStore
from tests.notifications.pushes import delivery, device, push

HOUR = 3_600_000


def now() -> int:
    return int(time.time() * 1000)


def add(
    store: MemoryStore,
    to: Device | None = None,
    what: Push | None = None,
    *,
    policy: Policy = "always",
    due_in: int = 0,
    expires_in: int = HOUR,
) -> str:
    delivery_id = str(uuid.uuid4())
    at = now()
    store.add(
        to or device(),
        what or push(),
        delivery_id=delivery_id,
        policy=policy,
        created_at=at,
        due_at=at + due_in,
        expires_at=at + expires_in,
    )
    return delivery_id


@asynccontextmanager
async def running(
    store: MemoryStore, transports: Mapping[Platform, Transport], **changes: Any
) -> AsyncIterator[Outbox]:
    options: dict[str, Any] = {"poll_seconds": 0.2, "rng": random.Random(1)} | changes
    outbox = Outbox(store, transports, **options)
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def apns(apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings) -> AsyncIterator[Apns]:
    async with apns_fake.serving(authority), Apns(apns_settings()) as transport:
        yield transport


async def test_a_row_is_sent_once_and_deleted_only_after_the_answer(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    heard: list[tuple[Platform, Outcome, str]] = []
    apns_fake.latency = 0.2
    delivery_id = add(store)
    async with running(store, {"ios": apns}, on_outcome=lambda *outcome: heard.append(outcome)):
        await apns_fake.until(lambda: apns_fake.requests == 1)
        assert len(store.rows) == 1
        await store.until_settled(1)
    assert store.outcomes == {delivery_id: ("sent", "")}
    assert store.rows == {}
    assert apns_fake.times == {delivery_id: 1}
    assert heard == [("ios", "sent", "")]


async def test_a_new_row_leaves_at_once_when_the_outbox_is_woken(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    async with running(store, {"ios": apns}, poll_seconds=60.0) as outbox:
        for count in range(1, 4):
            await asyncio.sleep(0.02)
            began = time.monotonic()
            add(store)
            outbox.wake()
            await store.until_settled(count)
            assert time.monotonic() - began < 1.0


async def test_who_says_seen_within_the_grace_is_left_alone(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    delivery_id = add(store, policy="unseen", due_in=300)
    async with running(store, {"ios": apns}, grace=300):
        store.seen_messages.add(push().message_id)
        await store.until_settled(1)
    assert store.outcomes[delivery_id] == ("suppressed", "seen")
    assert apns_fake.requests == 0


async def test_who_is_connected_but_says_nothing_gets_it_after_the_grace(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    began = time.time()
    add(store, policy="unseen", due_in=300)
    async with running(store, {"ios": apns}, grace=300):
        await store.until_settled(1)
    assert time.time() - began >= 0.299
    assert len(apns_fake.shown) == 1


async def test_a_row_due_too_early_still_waits_for_the_grace(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    began = time.time()
    add(store, policy="unseen", due_in=0)
    async with running(store, {"ios": apns}, grace=300):
        await store.until_settled(1)
    assert time.time() - began >= 0.299


async def test_it_looks_again_just_before_each_attempt(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    apns_fake.script = lambda request: Answer(503)
    delivery_id = add(store, policy="unseen", due_in=0)
    async with running(store, {"ios": apns}, grace=0):
        await apns_fake.until(lambda: apns_fake.requests == 1)
        store.seen_messages.add(push().message_id)
        await store.until_settled(1)
    assert store.outcomes[delivery_id] == ("suppressed", "seen")
    assert apns_fake.requests == 1


async def test_the_policy_always_asks_nobody(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore(seen_messages={push().message_id})
    add(store, policy="always")
    async with running(store, {"ios": apns}):
        await store.until_settled(1)
    assert len(apns_fake.shown) == 1


async def test_a_failing_service_is_asked_again_with_the_same_ids_until_it_works(
    apns: Apns, apns_fake: ApnsFake
) -> None:
    store = MemoryStore()
    apns_fake.script = lambda request: Answer(503) if request.number < 3 else None
    delivery_id = add(store)
    ids: set[str] = set()
    async with running(store, {"ios": apns}):
        await store.until_settled(1)
    ids = {shown.apns_id for shown in apns_fake.shown}
    assert ids == {delivery_id}
    assert store.reasons[delivery_id] == ["status_503", "status_503"]
    assert apns_fake.requests == 3


async def test_what_a_service_asks_to_wait_is_waited(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    times: list[float] = []

    def script(request: Any) -> Answer | None:
        times.append(time.monotonic())
        return Answer(429, "TooManyRequests", retry_after=2) if len(times) == 1 else None

    apns_fake.script = script
    add(store)
    async with running(store, {"ios": apns}):
        await store.until_settled(1)
    assert times[1] - times[0] >= 1.9


async def test_a_push_whose_time_is_over_is_not_sent(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    late = add(store, expires_in=-1)
    apns_fake.script = lambda request: Answer(503)
    failing = add(store, expires_in=1_000)
    async with running(store, {"ios": apns}):
        await store.until_settled(2)
    assert store.outcomes[late] == ("expired", "")
    assert store.outcomes[failing] == ("expired", "status_503")
    assert apns_fake.shown == []


async def test_a_bad_token_is_never_tried_again(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    delivery_id = add(store, device(token="abcd"))
    async with running(store, {"ios": apns}):
        await store.until_settled(1)
    assert store.outcomes[delivery_id] == ("failed", "BadDeviceToken")
    assert apns_fake.requests == 1
    assert len(store.devices) == 1


async def test_a_token_that_is_gone_is_removed_only_if_it_went_after_it_was_registered(
    apns: Apns, apns_fake: ApnsFake
) -> None:
    store = MemoryStore()
    apns_fake.script = lambda request: Answer(410, "Unregistered", timestamp=2_000)
    again = device(device_id="again", registered_at=3_000)
    gone = device(device_id="gone", registered_at=1_000)
    kept, removed = add(store, again), add(store, gone)
    async with running(store, {"ios": apns}):
        await store.until_settled(2)
    assert store.outcomes[kept] == ("failed", "Unregistered")
    assert store.outcomes[removed] == ("token_removed", "Unregistered")
    assert list(store.devices.values()) == [again]


async def test_a_push_to_a_token_that_was_replaced_meanwhile_goes_to_the_new_one(
    apns: Apns, apns_fake: ApnsFake
) -> None:
    store = MemoryStore()
    old, new = device(), device(token="cd" * 32, registered_at=5_000)

    def script(request: Any) -> Answer | None:
        if request.token != old.token:
            return None
        store.devices["alice", "phone"] = new
        return Answer(410, "Unregistered", timestamp=4_000)

    apns_fake.script = script
    delivery_id = add(store, old)
    async with running(store, {"ios": apns}):
        await store.until_settled(1)
    assert store.outcomes[delivery_id] == ("sent", "")
    assert [shown.token for shown in apns_fake.shown] == [new.token]
    assert list(store.devices.values()) == [new]


async def test_trouble_with_our_own_token_pauses_everything_and_costs_no_push(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    apns_fake.script = lambda request: (
        Answer(429, "TooManyProviderTokenUpdates", retry_after=1) if request.number == 1 else None
    )
    first = add(store)
    async with running(store, {"ios": apns}):
        await apns_fake.until(lambda: apns_fake.requests == 1)
        began = time.monotonic()
        for _ in range(20):
            add(store)
        await store.until_settled(21)
    assert time.monotonic() - began >= 0.8
    assert set(store.outcomes.values()) == {("sent", "")}
    assert store.reasons[first][0] == "TooManyProviderTokenUpdates"
    assert len(apns_fake.provider_tokens) == 1
    assert set(apns_fake.times.values()) == {1}


async def test_one_bad_device_delays_no_other(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    bad = device(device_id="bad", token="ff" * 32)
    apns_fake.script = lambda request: (
        None if request.token != bad.token else (Silent() if request.number % 2 else Answer(429, "TooManyRequests"))
    )
    for _ in range(20):
        add(store, bad)
    for _ in range(200):
        add(store)
    async with running(store, {"ios": apns}):
        await store.until_settled(200, within=8.0)
    assert len(apns_fake.shown) == 200


async def test_a_dead_provider_delays_no_other(
    apns: Apns, apns_fake: ApnsFake, authority: Authority, tmp_path: Path
) -> None:
    store = MemoryStore()
    dead = FcmFake(tmp_path, script=lambda number, message: Hang())
    async with dead.serving(authority):
        settings = FcmSettings(dead.credentials_path, dead.url, ca_path=authority.ca_path, connections=20)
        async with Fcm(settings) as fcm:
            for number in range(100):
                add(store, device(platform="android", device_id=f"pixel-{number}", token="t"))
            async with running(store, {"android": fcm, "ios": apns}) as outbox:
                await dead.until(lambda: dead.requests == 20)
                for _ in range(100):
                    add(store)
                began = time.monotonic()
                outbox.wake("ios")
                await store.until_settled(100)
                assert time.monotonic() - began < 3.0
    assert len(apns_fake.shown) == 100
    assert dead.messages == []


async def test_a_slow_push_service_delays_no_other_of_the_same_kind(authority: Authority, tmp_path: Path) -> None:
    store = MemoryStore()
    slow, quick = WebPushFake(script=lambda number, browser: Hang()), WebPushFake()
    key_path = tmp_path / "vapid.pem"
    key_path.write_text(ec_key_pem()[0])
    settings = WebPushSettings(
        key_path, "mailto:a@example.org", ca_path=authority.ca_path, connections=16, per_service=4
    )
    async with slow.serving(authority), quick.serving(authority), WebPush(settings) as web:
        for service, name in ((slow, "slow"), (quick, "quick")):
            for number in range(60):
                token = service.subscribe(f"{name}-{number}", web.application_server_key)
                add(store, device(platform="web", device_id=f"{name}-{number}", token=token))
        async with running(store, {"web": web}):
            await store.until_settled(60, within=4.0)
    assert sum(len(browser.shown) for browser in quick.browsers.values()) == 60


async def test_a_dead_host_is_not_hammered(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    attempts = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    store = MemoryStore()
    for _ in range(300):
        add(store)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        apns_fake.port = server.sockets[0].getsockname()[1]
        async with Apns(apns_settings()) as apns, running(store, {"ios": apns}):
            await asyncio.sleep(2.0)
    assert store.outcomes == {}
    assert len(store.rows) == 300
    assert attempts < 40


async def test_a_store_that_fails_after_the_answer_costs_a_repeat_and_no_push(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()

    def script(request: Any) -> None:
        store.failing = request.number == 1

    apns_fake.script = script
    delivery_id = add(store)
    async with running(store, {"ios": apns}, lease_seconds=0.5):
        await apns_fake.until(lambda: apns_fake.requests == 1)
        await asyncio.sleep(0.1)
        store.failing = False
        await store.until_settled(1)
    assert store.outcomes == {delivery_id: ("sent", "")}
    assert apns_fake.times == {delivery_id: 2}


async def test_draining_finishes_what_is_under_way_and_takes_no_more(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    apns_fake.latency = 0.2
    first = add(store)
    outbox = Outbox(store, {"ios": apns})
    task = asyncio.create_task(outbox.run())
    await apns_fake.until(lambda: apns_fake.requests == 1)
    add(store)
    outbox.drain()
    async with asyncio.timeout(5):
        await task
    assert store.outcomes == {first: ("sent", "")}
    assert len(store.rows) == 1


async def test_a_stop_in_the_middle_leaves_the_row_for_the_next_process(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    apns_fake.latency = 0.3
    delivery_id = add(store)
    async with running(store, {"ios": apns}, lease_seconds=0.5):
        await apns_fake.until(lambda: apns_fake.requests == 1)
    assert len(store.rows) == 1
    async with running(store, {"ios": apns}, lease_seconds=0.5):
        await store.until_settled(1)
    assert apns_fake.times == {delivery_id: 2}
    assert len({shown.headers["apns-collapse-id"] for shown in apns_fake.shown}) == 1


async def test_two_processes_on_one_store_send_each_row_once(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    apns_fake.latency = 0.01
    for _ in range(200):
        add(store)
    async with running(store, {"ios": apns}), running(store, {"ios": apns}):
        await store.until_settled(200)
    assert set(apns_fake.times.values()) == {1}
    assert len(apns_fake.shown) == 200


async def test_an_app_developer_sees_at_once_whether_a_device_works(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    outbox = Outbox(store, {"ios": apns})

    def asked(to: Device) -> Delivery:
        return delivery(device=to, push=push(kind="test", body="Hello"), expires_at=now() + HOUR)

    assert await outbox.test(asked(device())) == ("sent", "")
    assert await outbox.test(asked(device(token="abcd"))) == ("failed", "BadDeviceToken")
    assert await outbox.test(asked(device(app_id="org.other"))) == ("failed", "TopicDisallowed")
    assert await outbox.test(asked(device(platform="web"))) == ("failed", "transport_not_configured")
    apns_fake.script = lambda request: Answer(410, "Unregistered", timestamp=now())
    store.devices["alice", "phone"] = device()
    assert await outbox.test(asked(device())) == ("token_removed", "Unregistered")
    assert store.devices == {}
    assert apns_fake.shown[0].payload["agentline"]["kind"] == "test"


async def test_a_token_of_the_wrong_form_is_told_when_it_is_handed_in(apns: Apns) -> None:
    outbox = Outbox(MemoryStore(), {"ios": apns})
    assert outbox.refusal(device()) == ""
    assert outbox.refusal(device(token="not hex")) == "BadDeviceToken"
    assert outbox.refusal(device(app_id="a b")) == "BadTopic"
    assert outbox.refusal(device(platform="ntfy", token="x")) == "transport_not_configured"


async def test_no_log_line_holds_text_or_token(
    apns: Apns, apns_fake: ApnsFake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = MemoryStore()
    apns_fake.script = lambda request: Answer(503) if request.number == 1 else None
    add(store, what=push("the secret text", title="the secret title"))
    add(store, device(token="abcd"))
    async with running(store, {"ios": apns}):
        await store.until_settled(2)
    for secret in ("the secret", device().token, "bearer"):
        assert secret not in caplog.text


class Raising:
    """A transport that breaks its contract."""

    limit = 1
    channel_limit = 1

    def channel(self, device: Device) -> str:
        return "x"

    def refusal(self, device: Device) -> str:
        return ""

    async def send(self, device: Device, push: Push, *, delivery_id: str, expires_at: int) -> Verdict:
        raise ZeroDivisionError


async def test_a_transport_that_raises_costs_a_repeat_and_harms_nothing(apns: Apns, apns_fake: ApnsFake) -> None:
    store = MemoryStore()
    broken = add(store, device(platform="web", device_id="w"))
    async with running(store, {"web": Raising(), "ios": apns}):
        while broken not in store.reasons:
            store.changed.clear()
            await asyncio.wait_for(store.changed.wait(), 5)
        good = add(store)
        await store.until_settled(1)
    assert store.outcomes == {good: ("sent", "")}
    assert store.reasons[broken][0] == "transport_fault"
