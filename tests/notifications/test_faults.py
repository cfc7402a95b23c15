"""Every fault of every service with other traffic flowing, through the outbox: nothing lost, nothing hangs."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from notifications.apns import Apns
from notifications.fcm import Fcm, FcmSettings
from notifications.outbox import Outbox
from notifications.records import Device, Platform, Push
from notifications.verdict import Transport, Verdict
from notifications.webpush import WebPush, WebPushSettings
from tests.fakes.apns import ApnsFake, Fault, Request
from tests.fakes.fcm import FcmFake, error
from tests.fakes.push_http import Action, Drop, Hang, Reply, TcpReset
from tests.fakes.push_tls import Authority, ec_key_pem
from tests.fakes.webpush import WebPushFake
from tests.notifications.conftest import MakeSettings
from tests.notifications.memory_store import MemoryStore
from tests.notifications.pushes import device, push
from tests.notifications.test_apns import FAULTS


class Timed:
    """A transport that keeps how long its attempts took and how they ended."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.longest = 0.0
        self.unknown: Counter[str] = Counter()
        self.limit, self.channel_limit = inner.limit, inner.channel_limit
        self.channel, self.refusal = inner.channel, inner.refusal

    async def send(self, device: Device, push: Push, *, delivery_id: str, expires_at: int) -> Verdict:
        began = time.monotonic()
        verdict = await self.inner.send(device, push, delivery_id=delivery_id, expires_at=expires_at)
        self.longest = max(self.longest, time.monotonic() - began)
        if verdict.kind == "unknown":
            self.unknown[push.turn_id] += 1
        return verdict


async def send_all(platform: Platform, transport: Timed, to: Device, count: int, within: float) -> list[str]:
    """Sends `count` turns through the outbox; returns their ids once all are settled as sent."""
    store = MemoryStore()
    at = int(time.time() * 1000)
    turns = [str(uuid.uuid4()) for _ in range(count)]
    for turn_id in turns:
        store.add(
            to,
            push("x" * 20_000, turn_id=turn_id),
            delivery_id=turn_id,
            created_at=at,
            due_at=at,
            expires_at=at + 3_600_000,
        )
    task = asyncio.create_task(Outbox(store, {platform: transport}, poll_seconds=0.5, rng=random.Random(1)).run())
    try:
        await store.until_settled(count, within)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert set(store.outcomes.values()) == {("sent", "")}
    return turns


def check(times: Counter[str], turns: list[str], transport: Timed) -> None:
    assert times.keys() == set(turns)
    for turn_id, count in times.items():
        assert count <= 1 + transport.unknown[turn_id]
    assert transport.longest < 15.0


def every(step: int, action: Action) -> Callable[[int, Any], Action | None]:
    return lambda number, _: action if number % step == 0 else None


HTTP_FAULTS = [
    Reply(503),
    Reply(500, b"<html>"),
    Reply(429, b"", {"retry-after": "1"}),
    Drop(),
    TcpReset(),
    pytest.param(Hang(), marks=pytest.mark.soak),
]


@pytest.mark.parametrize("action", HTTP_FAULTS, ids=str)
async def test_a_fault_of_fcm_loses_nothing(action: Action, authority: Authority, tmp_path: Path) -> None:
    if isinstance(action, Reply) and action.status == 429:
        action = error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "1")
    fake = FcmFake(tmp_path, latency=0.01, script=every(20, action))
    async with fake.serving(authority):
        settings = FcmSettings(fake.credentials_path, fake.url, ca_path=authority.ca_path)
        async with Fcm(settings) as fcm:
            timed = Timed(fcm)
            turns = await send_all("android", timed, device(platform="android", token="t"), 100, 25.0)
    check(fake.times, turns, timed)


@pytest.mark.parametrize("action", HTTP_FAULTS, ids=str)
async def test_a_fault_of_a_push_service_loses_nothing(action: Action, authority: Authority, tmp_path: Path) -> None:
    fake = WebPushFake(latency=0.01, script=every(20, action))
    key_path = tmp_path / "vapid.pem"
    key_path.write_text(ec_key_pem()[0])
    async with fake.serving(authority):
        settings = WebPushSettings(key_path, "mailto:a@example.org", ca_path=authority.ca_path)
        async with WebPush(settings) as web:
            timed = Timed(web)
            to = device(platform="web", token=fake.subscribe("firefox", web.application_server_key))
            turns = await send_all("web", timed, to, 100, 25.0)
    check(fake.times, turns, timed)


@pytest.mark.soak
@pytest.mark.parametrize(("script", "unknowable"), FAULTS)
async def test_a_fault_of_apns_with_the_real_deadlines_loses_nothing_and_nothing_hangs(
    script: Callable[[Request], Fault | None],
    unknowable: bool,
    apns_fake: ApnsFake,
    authority: Authority,
    apns_settings: MakeSettings,
) -> None:
    apns_fake.script = script
    apns_fake.latency = 0.03
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        timed = Timed(apns)
        turns = await send_all("ios", timed, device(), 1_000, 90.0)
    check(apns_fake.times, turns, timed)
    assert apns_fake.violations == []
    assert unknowable or not timed.unknown
