"""What many nodes ask of the store: one of them runs a turn, and one that lost it changes nothing any more."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import String, bindparam, update

from gateway.store import tables
from gateway.store.base import Store
from gateway.store.records import Checkpoint, Claim
from gateway.store.sql import SqlStore
from gateway.store.turns import ENDING
from tests.contract.test_store import approval, end, log_of, new, segment


def point(key: int, first: int, last: int, epoch: int = 1_000, **changes: Any) -> Checkpoint:
    return Checkpoint(thread_key=key, epoch=epoch, segment=segment(first, last), **changes)


async def claimed(store: Store, turn_id: str, attempt: str) -> Claim:
    claim = await store.claim(turn_id, attempt, 6_000)
    assert claim is not None
    return claim


# Claiming


async def test_a_turn_is_claimed_once_and_says_by_whom(store: Store) -> None:
    accepted = await store.accept(new("1"))
    assert accepted.turn.attempt is None
    first = await claimed(store, "u-1", "one")
    assert first == Claim(thread=accepted.thread, turn=replace(accepted.turn, attempt="one"), unshown=[])
    assert (await claimed(store, "u-1", "two")).turn.attempt == "one"
    assert await claimed(store, "u-1", "one") == first
    found = await store.turn(None, "u-1")
    assert found is not None
    assert found[1].attempt == "one"


async def test_only_a_running_turn_can_be_claimed(store: Store) -> None:
    first = await store.accept(new("1"))
    await store.accept(new("2"))
    assert await store.claim("u-2", "one", 6_000) is None
    assert await store.claim("u-none", "one", 6_000) is None
    await store.finish(end(first))
    assert await store.claim("u-1", "one", 6_000) is None
    assert (await claimed(store, "u-2", "one")).turn.attempt == "one"


async def test_of_many_that_claim_a_turn_at_once_exactly_one_wins(store_url: str) -> None:
    async with SqlStore.open(store_url) as one, SqlStore.open(store_url) as other:
        for turn in range(20):
            await one.accept(new(str(turn), thread_id=f"t-{turn}"))
            names = [f"{turn}-{n}" for n in range(10)]
            stores = (one, other) * 5
            claims = await asyncio.gather(
                *(claimed(store, f"u-{turn}", name) for store, name in zip(stores, names, strict=True))
            )
            standing = {claim.turn.attempt for claim in claims}
            assert len(standing) == 1
            assert standing < set(names)


async def test_without_the_look_at_the_standing_attempt_several_win(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: it is the condition of the one statement that the test above depends on."""
    claim = update(tables.turns).where(tables.turns.c.turn_id == bindparam("turn")).values(attempt=bindparam("as"))
    monkeypatch.setattr("gateway.store.turns.CLAIM", claim)
    async with SqlStore.open(store_url) as store:
        await store.accept(new("1"))
        claims = await asyncio.gather(*(claimed(store, "u-1", str(n)) for n in range(5)))
        assert len({claim.turn.attempt for claim in claims}) == 5


async def test_without_the_fence_another_attempt_ends_the_turn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of what is asked further below."""
    unfenced = (
        update(tables.turns)
        .where(tables.turns.c.turn_id == bindparam("turn"), bindparam("as", type_=String).is_not(None))
        .values({name: bindparam(f"new_{name}") for name in ENDING})
        .returning(tables.turns.c.number, tables.turns.c.answer_id)
    )
    monkeypatch.setattr("gateway.store.turns.ENDED", unfenced)
    accepted = await store.accept(new("1"))
    await claimed(store, "u-1", "one")
    await store.finish(end(accepted, 1, 3, attempt="two"))
    assert await log_of(store, accepted.thread.key) == [(1, 3)]


async def test_what_runs_is_listed_by_whether_it_was_claimed(store: Store) -> None:
    for n in range(4):
        await store.accept(new(str(n), thread_id=f"t-{n}", at=5_000 + n))
    await store.accept(new("waits", thread_id="t-0"))
    await claimed(store, "u-1", "one")
    await claimed(store, "u-3", "three")
    assert await store.unclaimed(9_000, 10) == ["u-0", "u-2"]
    assert await store.unclaimed(9_000, 1) == ["u-0"]
    assert await store.unclaimed(5_002, 10) == ["u-0"]
    assert await store.claimed(10) == ["u-1", "u-3"]
    assert await store.claimed(1) == ["u-1"]


# Ending


@pytest.mark.parametrize(("standing", "given"), [("one", "two"), ("one", None), (None, "one")])
async def test_another_attempt_does_not_end_the_turn(store: Store, standing: str | None, given: str | None) -> None:
    accepted = await store.accept(new("1"))
    waiting = await store.accept(new("2"))
    if standing is not None:
        await claimed(store, "u-1", standing)
    with pytest.raises(LookupError):
        await store.finish(end(accepted, 1, 3, attempt=given))
    assert await log_of(store, accepted.thread.key) == []
    assert [turn.status for turn in await store.open_turns(accepted.thread.key)] == ["running", "queued"]
    following = await store.finish(end(accepted, 1, 3, attempt=standing))
    assert following is not None
    assert (following.turn_id, following.attempt) == (waiting.turn.turn_id, None)


async def test_a_turn_of_an_older_epoch_does_not_end(store: Store) -> None:
    accepted = await store.accept(new("1"))
    key = accepted.thread.key
    stale = point(key, 1, 3, epoch=999)
    with pytest.raises(LookupError):
        await store.finish(end(accepted, checkpoint=stale))
    assert [turn.status for turn in await store.open_turns(key)] == ["running"]
    await store.finish(end(accepted, checkpoint=stale, epoch=2_000))  # who takes it over gives the epoch
    thread = await store.thread_by_key(key)
    assert thread is not None
    assert (thread.epoch, thread.head) == (2_000, 3)


# Checkpoints


async def test_a_checkpoint_of_another_epoch_is_passed_over_and_named(store: Store) -> None:
    fenced, kept = await store.accept(new("1")), await store.accept(new("2", thread_id="t2"))
    key = fenced.thread.key
    asked = approval("ap", "u-1")
    stale = point(key, 1, 2, epoch=999, session={"old": 1}, approvals=[asked])
    assert await store.checkpoint([stale, point(kept.thread.key, 1, 2)]) == {key}
    assert await log_of(store, key) == []
    assert await log_of(store, kept.thread.key) == [(1, 2)]
    thread = await store.thread_by_key(key)
    assert thread is not None
    assert (thread.head, thread.session) == (0, None)
    assert await store.approval("alice", "ap") is None
    assert await store.checkpoint([replace(stale, epoch=1_000)]) == set()
    await store.finish(end(fenced))
    await store.delete("alice", "t")
    assert await store.checkpoint([stale]) == set()


async def test_a_checkpoint_of_an_older_epoch_leaving_a_gap_refuses_nothing(store: Store) -> None:
    accepted = await store.accept(new("1"))
    key = accepted.thread.key
    assert await store.checkpoint([point(key, 70, 90, epoch=999), point(key, 1, 2)]) == {key}
    assert await log_of(store, key) == [(1, 2)]


async def test_something_is_appended_at_rest_only_behind_the_very_head_and_while_nothing_runs(store: Store) -> None:
    accepted = await store.accept(new("1"))
    key = accepted.thread.key
    assert not await store.append_at_rest(point(key, 1, 2))
    await store.finish(end(accepted, 1, 2))
    for refused in (point(key, 2, 4), point(key, 4, 5), point(key, 3, 4, epoch=999), point(key + 1, 1, 2)):
        assert not await store.append_at_rest(refused)
    assert await log_of(store, key) == [(1, 2)]
    assert await store.append_at_rest(point(key, 3, 4))
    assert not await store.append_at_rest(point(key, 3, 4))
    assert await log_of(store, key) == [(1, 2), (3, 4)]


async def test_of_many_that_append_at_rest_at_once_one_succeeds(store_url: str) -> None:
    async with SqlStore.open(store_url) as one, SqlStore.open(store_url) as other:
        accepted = await one.accept(new("1"))
        await one.finish(end(accepted))
        given = [point(accepted.thread.key, 1, 1 + n) for n in range(8)]
        done = await asyncio.gather(
            *(store.append_at_rest(p) for store, p in zip((one, other) * 4, given, strict=True))
        )
        assert sum(done) == 1
        assert await log_of(one, accepted.thread.key) == [(1, 1 + done.index(True))]


# Cancelling


async def test_a_running_turn_is_asked_to_stop_durably(store: Store) -> None:
    first, second = await store.accept(new("1")), await store.accept(new("2"))
    key = first.thread.key
    assert not first.turn.cancel_asked
    assert await store.ask_cancel(key, "u-2") == []
    assert await store.ask_cancel(key + 1, None) == []
    asked = replace(first.turn, cancel_asked=True)
    assert await store.ask_cancel(key, "u-1") == [asked]
    assert await store.ask_cancel(key, None) == [asked]
    assert (await claimed(store, "u-1", "one")).turn.cancel_asked
    following = await store.finish(end(first, attempt="one"))
    assert following == replace(second.turn, status="running", start=0, started_at=6_000)


async def test_who_shall_be_cancelled_is_listed_while_somebody_runs_it(store: Store) -> None:
    first, second = await store.accept(new("1")), await store.accept(new("2", thread_id="t-2"))
    for accepted in (first, second):
        await store.ask_cancel(accepted.thread.key, None)
    assert await store.cancel_asked(10) == [], "who claims it is told then"
    await claimed(store, "u-1", "one")
    await claimed(store, "u-2", "two")
    assert await store.cancel_asked(10) == ["u-1", "u-2"]
    assert await store.cancel_asked(1) == ["u-1"]
    await store.finish(end(first, attempt="one"))
    assert await store.cancel_asked(10) == ["u-2"]


async def test_what_was_cancelled_in_the_queue_is_listed_until_a_log_shows_it(store: Store) -> None:
    first = await store.accept(new("1"))
    for name in ("2", "3", "4"):
        await store.accept(new(name))
    key = first.thread.key
    assert await store.unshown(key) == []
    gone = [*await store.cancel_queued(key, "u-3", 6_000), *await store.cancel_queued(key, "u-2", 6_000)]
    assert await store.unshown(key) == [gone[1], gone[0]]
    assert list((await claimed(store, "u-1", "one")).unshown) == [gone[1], gone[0]]
    assert await store.with_unshown() == [key]
    await store.checkpoint([point(key, 1, 2, epoch=999, shown=["u-2"])])
    assert len(await store.unshown(key)) == 2
    await store.checkpoint([point(key, 1, 2, shown=["u-2"])])
    assert await store.unshown(key) == [gone[0]]
    await store.finish(end(first, attempt="one", checkpoint=point(key, 3, 4, shown=["u-3"])))
    assert await store.unshown(key) == []
    assert await store.with_unshown() == []
