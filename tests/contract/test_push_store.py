"""What the store promises about devices, and about pushes from the end of a turn on."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.store.base import Store
from gateway.store.records import Approval, Checkpoint, PushOutcome, PushPlan
from gateway.store.sql import SqlStore
from notifications.records import Delivery, Device, Platform, Policy, Push
from tests.contract.test_store import end, new, segment

FOREVER = 10**12


def device(device_id: str = "phone", **changes: Any) -> Device:
    fields: dict[str, Any] = {
        "user_id": "alice",
        "device_id": device_id,
        "platform": "ios",
        "token": f"token-of-{device_id}",
        "registered_at": 1_000,
    }
    return Device(**fields | changes)


def plan(turn_id: str, policy: Policy = "unseen", **changes: Any) -> PushPlan:
    push = Push(
        kind="turn",
        title="",
        body="Hello.",
        length=6,
        thread_id="t",
        turn_id=turn_id,
        message_id=f"a-{turn_id.removeprefix('u-')}",
        agent="demo",
        status="completed",
    )
    return PushPlan(push=replace(push, **changes), policy=policy, grace_ms=3_000, expires_at=FOREVER)


async def finished(store: Store, name: str, **changes: Any) -> None:
    """A turn that ended at 6,000, with its push; `changes` are of the turn."""
    accepted = await store.accept(new(name, **changes))
    await store.finish(end(accepted, push=plan(f"u-{name}")))


async def leased(store: Store, now: int = FOREVER - 1, platform: Platform = "ios") -> list[Delivery]:
    """Every due row."""
    return await store.outbox.lease(platform, now=now, until=now + 30_000, limit=100)


async def told(store: Store, turn_id: str) -> list[tuple[str | None, str, str]]:
    return [(push.device_id, push.outcome, push.reason) for push in await store.push_outcomes(turn_id)]


# Devices


async def test_a_device_is_read_back_as_it_was_put_and_listed_by_its_user(store: Store) -> None:
    phone = device(environment="sandbox", app_id="org.example.app", notify="always")
    tablet, bobs = device("tablet", platform="android"), device("phone", user_id="bob", token="bobs")
    for one in (tablet, phone, bobs):
        await store.put_device(one)
    assert await store.device("alice", "phone") == phone
    assert await store.devices("alice") == [phone, tablet]
    assert await store.devices("bob") == [bobs]
    assert await store.device("alice", "none") is None
    assert await store.device("carol", "phone") is None


async def test_a_device_that_is_put_again_has_its_new_token_and_environment_only(store: Store) -> None:
    await store.put_device(device(notify="never"))
    newer = device(token="second", environment="sandbox", registered_at=2_000)
    await store.put_device(newer)
    assert await store.devices("alice") == [newer]
    await store.put_device(device("tablet", token="token-of-phone"))
    assert len(await store.devices("alice")) == 2, "the first token is free again"


@pytest.mark.parametrize("user_id", ["alice", "bob"])
async def test_a_token_that_another_device_hands_in_is_no_longer_the_first_ones(store: Store, user_id: str) -> None:
    await store.put_device(device())
    moved = device("other", user_id=user_id, token="token-of-phone", registered_at=2_000)
    await store.put_device(moved)
    assert await store.device("alice", "phone") is None
    assert await store.devices(user_id) == [moved]


async def test_the_same_text_on_two_platforms_is_two_tokens(store: Store) -> None:
    await store.put_device(device("a", token="same"))
    await store.put_device(device("b", platform="ntfy", token="same"))
    assert len(await store.devices("alice")) == 2


async def test_a_removed_device_is_gone_and_only_its_user_can_remove_it(store: Store) -> None:
    await store.put_device(device())
    assert not await store.remove_device("bob", "phone")
    assert await store.remove_device("alice", "phone")
    assert not await store.remove_device("alice", "phone")
    assert await store.devices("alice") == []


# What the end of a turn writes


async def test_the_end_of_a_turn_writes_a_row_for_each_device_of_its_user(store: Store) -> None:
    for one in (device(), device("tablet"), device("bobs", user_id="bob")):
        await store.put_device(one)
    accepted = await store.accept(new("1", title="A question"))
    await store.finish(end(accepted, push=plan("u-1")))
    assert await store.outbox.next_due("ios") == 9_000, "after the grace"
    assert await leased(store, now=8_999) == []
    rows = await leased(store, now=9_000)
    assert [row.device for row in rows] == [device(), device("tablet")]
    assert len({row.delivery_id for row in rows}) == 2
    for row in rows:
        assert (row.push.title, row.push.body, row.push.badge) == ("A question", "Hello.", 1)
        assert (row.policy, row.created_at, row.expires_at, row.attempts) == ("unseen", 6_000, FOREVER, 0)
    assert await told(store, "u-1") == []
    assert await store.outbox_sizes() == {"ios": 2, "android": 0, "web": 0, "ntfy": 0}


async def test_an_end_that_is_not_stored_writes_no_row(store: Store) -> None:
    """The control of the one before: the rows are part of the very transaction that ends the turn."""
    await store.put_device(device())
    accepted = await store.accept(new("1"))
    gap = Checkpoint(thread_key=accepted.thread.key, epoch=1_000, segment=segment(7, 9))
    with pytest.raises(ValueError, match=r"gap|behind|segment"):
        await store.finish(end(accepted, push=plan("u-1"), checkpoint=gap))
    with pytest.raises(LookupError):
        await store.finish(end(replace(accepted.turn, turn_id="u-none"), push=plan("u-none")))
    assert await store.outbox.next_due("ios") is None
    found = await store.turn("alice", "u-1")
    assert found is not None
    assert found[1].status == "running"
    await store.finish(end(accepted, push=plan("u-1")))
    with pytest.raises(LookupError):
        await store.finish(end(accepted, push=plan("u-1")))
    assert len(await leased(store)) == 1, "once"


async def test_a_push_that_cannot_be_written_leaves_the_turn_running(store_url: str) -> None:
    """The other way round: no turn ends without its rows."""
    async with SqlStore.open(store_url) as store:
        await store.put_device(device())
        accepted = await store.accept(new("1"))
        await store.database.write(lambda connection: connection.exec_driver_sql("ALTER TABLE outbox RENAME TO away"))
        with pytest.raises(Exception, match="outbox"):
            await store.finish(end(accepted, push=plan("u-1")))
        await store.database.write(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO outbox"))
        found = await store.turn("alice", "u-1")
        assert found is not None
        assert found[1].status == "running"
        await store.finish(end(accepted, push=plan("u-1")))
        assert len(await leased(store)) == 1


async def test_without_a_device_the_outcome_is_known_at_once(store: Store) -> None:
    await finished(store, "1")
    assert await store.push_outcomes("u-1") == [
        PushOutcome(device_id=None, platform=None, kind="turn", outcome="no_devices", reason="", at=6_000)
    ]
    assert await store.outbox_sizes() == {"ios": 0, "android": 0, "web": 0, "ntfy": 0}


@pytest.mark.parametrize(
    ("server", "of_device", "due_at"),
    [
        ("unseen", None, 9_000),
        ("unseen", "always", 6_000),
        ("unseen", "never", None),
        ("always", None, 6_000),
        ("always", "unseen", 9_000),
        ("always", "never", None),
        ("never", None, None),
        ("never", "always", None),
    ],
)
async def test_server_and_device_decide_when_and_whether(
    store: Store, server: Policy, of_device: Policy | None, due_at: int | None
) -> None:
    await store.put_device(device(notify=of_device))
    await store.finish(end(await store.accept(new("1")), push=plan("u-1", server)))
    assert await store.outbox.next_due("ios") == due_at
    assert await told(store, "u-1") == ([("phone", "suppressed", "policy")] if due_at is None else [])


async def test_every_outcome_that_is_kept_is_told_once_and_after_its_commit(store_url: str) -> None:
    heard: list[tuple[Platform | None, str]] = []
    async with SqlStore.open(store_url, on_push_outcome=lambda *outcome: heard.append(outcome)) as store:
        await finished(store, "1")
        assert heard == [(None, "no_devices")]
        await store.put_device(device(notify="never"))
        await store.put_device(device("pixel", platform="android"))
        await finished(store, "2")
        assert heard[1:] == [("ios", "suppressed")]
        accepted = await store.accept(new("3"))
        gap = Checkpoint(thread_key=accepted.thread.key, epoch=1_000, segment=segment(70, 90))
        with pytest.raises(ValueError, match=r"gap|behind|segment"):
            await store.finish(end(accepted, push=plan("u-3"), checkpoint=gap))
        assert len(heard) == 2, "what was undone was not"
        [row] = await leased(store, platform="android")
        await store.outbox.settle(row, "sent", "", at=9_000)
        await store.outbox.settle(row, "failed", "late", at=9_001)
        assert heard[2:] == [("android", "sent")]


# Seen, badge, withdrawal


async def test_the_badge_counts_unread_answers_in_all_of_the_users_threads(store: Store) -> None:
    await store.put_device(device())
    await finished(store, "1")
    await finished(store, "2", thread_id="other")
    await finished(store, "3", user_id="bob", thread_id="bobs")
    assert [row.push.badge for row in await leased(store)] == [1, 2]
    await store.mark_read("alice", "t", "a-1", None, 7_000)
    await finished(store, "4", thread_id="other")
    assert [row.push.badge for row in await leased(store) if row.push.turn_id == "u-4"] == [2]


async def test_a_row_is_seen_once_the_read_mark_has_passed_its_message(store: Store) -> None:
    await store.put_device(device())
    await finished(store, "1")
    await finished(store, "2")
    first, second = await leased(store)
    assert not await store.outbox.seen(first)
    await store.mark_read("alice", "t", "a-1", None, 7_000)
    assert await store.outbox.seen(first)
    assert not await store.outbox.seen(second)


async def test_an_approval_is_seen_once_it_is_resolved(store: Store) -> None:
    await store.put_device(device())
    accepted = await store.accept(new("1"))
    approval = Approval(
        approval_id="p1",
        thread_id="t",
        turn_id="u-1",
        request={},
        decision=None,
        by=None,
        text=None,
        created_at=5_500,
        expires_at=FOREVER,
        resolved_at=None,
    )
    await store.enqueue_push("u-1", plan("u-1", kind="approval", approval_id="p1"), 5_500)
    [row] = await leased(store)
    assert row.push.kind == "approval"
    assert not await store.outbox.seen(row), "not even stored yet"
    for resolved_at in (None, 5_600):
        record = replace(approval, resolved_at=resolved_at, decision=resolved_at and "approved")
        await store.checkpoint(
            [Checkpoint(thread_key=accepted.thread.key, epoch=1_000, segment=None, approvals=[record])]
        )
        assert await store.outbox.seen(row) is (resolved_at is not None)
    await store.enqueue_push("u-none", plan("u-none"), 5_500)
    assert await store.outbox_sizes() == {"ios": 1, "android": 0, "web": 0, "ntfy": 0}


async def test_what_was_shown_and_is_now_seen_is_withdrawn_where_that_helps(store: Store) -> None:
    platforms: tuple[tuple[str, Platform], ...] = (
        ("phone", "ios"),
        ("tablet", "ios"),
        ("pixel", "android"),
        ("browser", "web"),
        ("topic", "ntfy"),
    )
    for name, platform in platforms:
        await store.put_device(device(name, platform=platform))
    await store.put_device(device("unsent"))
    await finished(store, "1")
    for _, platform in platforms:
        for row in await leased(store, platform=platform):
            if row.device.device_id == "unsent":
                await store.outbox.settle(row, "failed", "BadDeviceToken", at=9_000)
            else:
                await store.outbox.settle(row, "sent", "", at=9_000)
    before = await told(store, "u-1")
    assert await store.mark_read("alice", "t", "a-1", "phone", 10_000)
    rows = [row for _, platform in platforms[1:] for row in await leased(store, platform=platform)]
    assert [row.device.device_id for row in rows] == ["tablet", "pixel"]
    for row in rows:
        assert (row.push.kind, row.push.turn_id, row.push.badge, row.policy) == ("seen", "u-1", 0, "always")
        assert row.push.body == row.push.title == ""
        await store.outbox.settle(row, "sent", "", at=11_000)
    assert await told(store, "u-1") == before, "a withdrawal is no outcome of the turn"
    assert not await store.mark_read("alice", "t", "a-1", "tablet", 12_000)
    assert await leased(store) == [], "nothing moved"


async def test_what_was_seen_while_it_was_being_sent_is_withdrawn_too(store: Store) -> None:
    await store.put_device(device())
    await store.put_device(device("eager", notify="always"))
    await finished(store, "1")
    rows = await leased(store)
    await store.mark_read("alice", "t", "a-1", "tablet", 9_000)
    for row in rows:
        await store.outbox.settle(row, "sent", "", at=9_100)
    taken_back = await leased(store)
    assert [(row.device.device_id, row.push.kind, row.push.badge) for row in taken_back] == [("phone", "seen", 0)]


# Threads, keys, leases


async def test_a_deleted_thread_takes_its_rows_and_outcomes_along(store: Store) -> None:
    await store.put_device(device())
    await finished(store, "1")
    [row] = await leased(store)
    await finished(store, "2")
    await finished(store, "3", thread_id="stays")
    await store.outbox.settle(row, "sent", "", at=9_000)
    assert await store.delete("alice", "t")
    assert await told(store, "u-1") == []
    assert [row.push.turn_id for row in await leased(store)] == ["u-3"]
    await store.outbox.settle(row, "failed", "late", at=9_000)
    assert await told(store, "u-1") == []


async def test_rows_of_a_process_that_died_are_due_at_once_and_those_that_wait_keep_waiting(store: Store) -> None:
    await store.put_device(device())
    for name in ("1", "2", "3"):
        await finished(store, name)
    one, two, _ = await leased(store, now=9_000)
    await store.outbox.reschedule(two, due_at=50_000, attempts=1, reason="503")
    await finished(store, "4")
    await store.outbox.settle(one, "sent", "", at=9_100)
    await store.release_pushes(7_000)
    assert await store.outbox.next_due("ios") == 7_000
    assert [row.push.turn_id for row in await leased(store, now=7_000)] == ["u-3"]
    assert [row.push.turn_id for row in await leased(store, now=9_000)] == ["u-4"], "its grace was not cut short"


async def test_a_secret_is_random_made_once_and_the_same_for_every_process(store_url: str) -> None:
    async with SqlStore.open(store_url) as one, SqlStore.open(store_url) as other:
        made = await one.secret("a")
        assert len(made) == 32
        assert await one.secret("a") == made == await other.secret("a")
        assert await one.secret("b") != made
    async with SqlStore.open(store_url) as again:
        assert await again.secret("a") == made
