"""What the outbox relies on, over every store that the tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import pytest
from msgspec.structs import replace

from notifications.outbox import OutboxStore
from notifications.records import Device, Outcome
from tests.notifications.gateway_store import GatewayStore
from tests.notifications.memory_store import MemoryStore
from tests.notifications.pushes import device, push
from tests.notifications.sqlite_store import SqliteStore

Store: TypeAlias = MemoryStore | SqliteStore | GatewayStore


@pytest.fixture(params=["memory", "sqlite", "gateway", "gateway on postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "gateway":
        async with GatewayStore.open(f"sqlite:///{tmp_path}/gateway.db") as gateways:
            yield gateways
    elif request.param == "gateway on postgres":
        async with GatewayStore.open(request.getfixturevalue("postgres_url")) as gateways:
            yield gateways
    else:
        made = SqliteStore(tmp_path / "outbox.db")
        yield made
        made.close()


async def add(store: Store, name: str, *, due_at: int = 100, to: Device | None = None) -> None:
    to = to or device()
    if isinstance(store, GatewayStore):
        await store.add(to, push(), delivery_id=name, created_at=50, due_at=due_at, expires_at=9_999)
    else:
        store.add(to, push(), delivery_id=name, created_at=50, due_at=due_at, expires_at=9_999)


async def outcomes(store: Store) -> dict[str, tuple[Outcome, str]]:
    return await store.outcomes() if isinstance(store, GatewayStore) else store.outcomes


def as_protocol(store: OutboxStore) -> OutboxStore:
    return store


async def names(store: Store, now: int, *, until: int = 500, limit: int = 10) -> list[str]:
    leased = await as_protocol(store).lease("ios", now=now, until=until, limit=limit)
    return [delivery.delivery_id for delivery in leased]


async def test_due_rows_are_leased_longest_due_first_and_only_once(store: Store) -> None:
    for name, due_at in (("b", 200), ("a", 100), ("c", 300)):
        await add(store, name, due_at=due_at)
    await add(store, "android", to=device(platform="android", device_id="pixel"))
    assert await names(store, 99) == []
    assert await names(store, 250, limit=1) == ["a"]
    assert await names(store, 250) == ["b"]
    assert await names(store, 250) == []
    assert await store.next_due("ios") == 300
    assert await store.next_due("web") is None


async def test_a_lease_that_ran_out_is_given_to_the_next_with_a_new_number(store: Store) -> None:
    await add(store, "a")
    [first] = await store.lease("ios", now=100, until=200, limit=1)
    assert await store.next_due("ios") == 200
    assert await names(store, 199) == []
    [second] = await store.lease("ios", now=200, until=300, limit=1)
    assert second.lease != first.lease
    await store.reschedule(first, due_at=0, attempts=7, reason="late")
    assert await names(store, 250) == []
    await store.reschedule(second, due_at=260, attempts=1, reason="503")
    [third] = await store.lease("ios", now=260, until=300, limit=1)
    assert third.attempts == 1


async def test_a_settled_row_is_gone_and_its_first_outcome_stands(store: Store) -> None:
    await add(store, "a")
    [row] = await store.lease("ios", now=100, until=200, limit=1)
    await store.settle(row, "sent", "", at=150)
    await store.settle(row, "failed", "BadDeviceToken", at=160)
    await store.reschedule(row, due_at=0, attempts=1, reason="late")
    assert await names(store, 9_000) == []
    assert await outcomes(store) == {"a": ("sent", "")}


async def test_a_token_is_removed_only_if_it_is_still_the_registered_one(store: Store) -> None:
    await add(store, "a")
    assert not await store.remove_token(replace(device(), registered_at=999))
    assert not await store.remove_token(device(token="cd" * 32))
    assert await store.remove_token(device())
    assert not await store.remove_token(device())
    assert await names(store, 100) == []
    assert await outcomes(store) == {"a": ("no_devices", "")}


async def test_a_row_goes_to_the_token_that_the_device_has_now(store: Store) -> None:
    await add(store, "a")
    newer = device(token="cd" * 32, registered_at=2_000)
    if isinstance(store, SqliteStore):
        store.replace_device(newer)
    elif isinstance(store, GatewayStore):
        await store.replace_device(newer)
    else:
        store.devices["alice", "phone"] = newer
    [row] = await store.lease("ios", now=100, until=200, limit=1)
    assert row.device == newer
