"""What `gateway.store.base.Store` promises, held against each implementation."""

import asyncio
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from gateway.errors import Busy
from gateway.store.base import IdConflict, QueueFull, Store, StoreUnavailable, WrongAgent
from gateway.store.records import (
    Accepted,
    Adoption,
    Approval,
    Attachment,
    Checkpoint,
    Exchange,
    NewTurn,
    Outcome,
    Segment,
    Thread,
    Turn,
)
from gateway.store.sql import SqlStore

DAY = 86_400_000


def new(name: str, **changes: Any) -> NewTurn:
    fields: dict[str, Any] = {
        "user_id": "alice",
        "agent": "demo",
        "thread_id": "t",
        "client_id": f"c-{name}",
        "turn_id": f"u-{name}",
        "message_id": f"m-{name}",
        "answer_id": f"a-{name}",
        "content": "Hi",
        "epoch": 1_000,
        "title": "Hi",
        "queue_limit": 8,
        "at": 5_000,
    }
    return NewTurn(**fields | changes)


async def attached(store: Store, attachment_id: str, **changes: Any) -> dict[str, Any]:
    """Put an attachment into the store; it as a message names it."""
    fields: dict[str, Any] = {
        "attachment_id": attachment_id,
        "user_id": "alice",
        "name": "a.png",
        "content_type": "image/png",
        "size": 3,
        "sha256": f"hash of {attachment_id}",
        "created_at": 5_000,
    }
    put = Attachment(**fields | changes)
    await store.put_attachment(put, 10**9)
    return {"id": put.attachment_id, "name": put.name, "content_type": put.content_type, "size": put.size}


def segment(first: int, last: int, events: bytes = b"\x00\xff events") -> Segment:
    return Segment(first=first, last=last, events=events)


def end(accepted: Accepted | Turn, first: int | None = None, last: int | None = None, **changes: Any) -> Outcome:
    turn = accepted.turn if isinstance(accepted, Accepted) else accepted
    piece = None if first is None or last is None else segment(first, last)
    fields: dict[str, Any] = {
        "turn_id": turn.turn_id,
        "status": "completed",
        "content": "Hello.",
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1},
        "error": None,
        "duration_ms": 7,
        "at": 6_000,
        "checkpoint": Checkpoint(thread_key=turn.thread_key, epoch=1_000, segment=piece),
    }
    return Outcome(**fields | changes)


async def key_of(store: Store, thread_id: str = "t", user_id: str = "alice") -> int:
    thread = await store.thread(user_id, thread_id)
    assert thread is not None
    return thread.key


async def log_of(store: Store, key: int) -> list[tuple[int, int]]:
    return [(piece.first, piece.last) for piece in await store.segments(key, 0, 1_000)]


# Accepting


async def test_an_accepted_turn_runs_and_can_be_read_back_whole(store: Store) -> None:
    sent = new("1", content="Grüße 👋🏽", attachments=[await attached(store, "f")], retry_of="u-0")
    accepted = await store.accept(sent)
    assert not accepted.duplicate
    assert accepted.created_thread
    assert accepted.queued == 0
    assert accepted.thread == Thread(
        key=accepted.thread.key,
        user_id="alice",
        thread_id="t",
        agent="demo",
        title="Hi",
        epoch=1_000,
        head=0,
        session=None,
        created_at=5_000,
        updated_at=5_000,
    )
    turn = accepted.turn
    assert (turn.number, turn.status, turn.start, turn.started_at) == (1, "running", 0, 5_000)
    assert (turn.content, list(turn.attachments), turn.retry_of) == (sent.content, list(sent.attachments), "u-0")
    assert (turn.client_id, turn.message_id, turn.answer_id) == ("c-1", "m-1", "a-1")
    assert await store.turn("alice", "u-1") == (accepted.thread, turn)
    assert await store.thread("alice", "t") == accepted.thread
    assert await store.thread_by_key(accepted.thread.key) == accepted.thread
    assert await store.running() == [(accepted.thread, turn)]


async def test_turns_behind_a_running_one_queue_in_order(store: Store) -> None:
    accepted = [await store.accept(new(str(n), at=5_000 + n)) for n in range(3)]
    assert [one.queued for one in accepted] == [0, 1, 2]
    assert [one.turn.status for one in accepted] == ["running", "queued", "queued"]
    assert [one.turn.start for one in accepted] == [0, None, None]
    assert [one.created_thread for one in accepted] == [True, False, False]
    assert await store.open_turns(accepted[0].thread.key) == [one.turn for one in accepted]
    again = await store.accept(new("2"))
    assert (again.duplicate, again.queued) == (True, 2)


async def test_the_same_client_id_gives_the_first_turn_and_changes_nothing(store: Store) -> None:
    first = await store.accept(new("1"))
    again = await store.accept(new("1", turn_id="other", message_id="other", answer_id="other", at=9_000, title="No"))
    assert again == replace(first, duplicate=True, created_thread=False)
    assert len(await store.open_turns(first.thread.key)) == 1


async def test_a_send_repeated_after_its_turn_ended_gives_the_ended_turn(store: Store) -> None:
    await store.finish(end(await store.accept(new("1"))))
    again = await store.accept(new("1"))
    assert (again.duplicate, again.turn.status, again.queued) == (True, "completed", 0)


async def test_a_send_without_client_id_is_never_a_duplicate(store: Store) -> None:
    await store.accept(new("1", client_id=None))
    assert not (await store.accept(new("2", client_id=None))).duplicate


async def test_two_users_may_use_the_same_client_id(store: Store) -> None:
    await store.accept(new("1"))
    other = await store.accept(new("2", client_id="c-1", user_id="bob", content="else"))
    assert not other.duplicate


@pytest.mark.parametrize(
    "change",
    [{"content": "Ho"}, {"thread_id": "t2"}, {"agent": "claude"}, {"attachments": [{"id": "f"}]}],
    ids=lambda change: next(iter(change)),
)
async def test_a_used_client_id_with_something_else_is_a_conflict_and_stores_nothing(
    store: Store, change: dict[str, Any]
) -> None:
    first = await store.accept(new("1"))
    with pytest.raises(IdConflict):
        await store.accept(new("2", client_id="c-1", **change))
    assert await store.turn("alice", "u-2") is None
    assert await store.thread("alice", "t2") is None
    assert await store.thread("alice", "t") == first.thread


async def test_a_repeated_send_that_lets_the_server_choose_the_thread_is_a_duplicate(store: Store) -> None:
    first = await store.accept(new("1", thread_id="chosen-1", thread_chosen_by_client=False))
    again = await store.accept(
        new("2", client_id="c-1", thread_id="chosen-2", thread_chosen_by_client=False, epoch=2_000)
    )
    assert again == replace(first, duplicate=True, created_thread=False)
    assert await store.thread("alice", "chosen-2") is None
    named = await store.accept(new("3", client_id="c-1", thread_id="chosen-1"))
    assert named.duplicate
    with pytest.raises(IdConflict):
        await store.accept(new("4", client_id="c-1", thread_id="elsewhere"))


async def test_a_named_thread_repeated_without_a_name_is_a_conflict(store: Store) -> None:
    await store.accept(new("1"))
    with pytest.raises(IdConflict):
        await store.accept(new("2", client_id="c-1", thread_id="fresh", thread_chosen_by_client=False))


async def test_a_thread_of_another_agent_is_refused_and_named(store: Store) -> None:
    first = await store.accept(new("1"))
    with pytest.raises(WrongAgent) as caught:
        await store.accept(new("2", agent="claude"))
    assert caught.value.agent == "demo"
    assert await store.open_turns(first.thread.key) == [first.turn]


async def test_a_full_queue_refuses_but_not_a_duplicate(store: Store) -> None:
    with_limit = {"queue_limit": 2}
    for n in range(3):
        await store.accept(new(str(n), **with_limit))
    with pytest.raises(QueueFull):
        await store.accept(new("3", **with_limit))
    assert await store.turn("alice", "u-3") is None
    assert (await store.accept(new("2", **with_limit))).duplicate


async def test_a_queue_limit_of_zero_only_starts_at_once(store: Store) -> None:
    first = await store.accept(new("1", queue_limit=0))
    with pytest.raises(QueueFull):
        await store.accept(new("2", queue_limit=0))
    await store.finish(end(first))
    assert (await store.accept(new("2", queue_limit=0))).turn.status == "running"


async def test_a_refused_send_makes_no_thread_and_its_client_id_stays_free(store: Store) -> None:
    await store.accept(new("1"))
    with pytest.raises(QueueFull):
        await store.accept(new("2", queue_limit=0))
    assert not (await store.accept(new("2"))).duplicate


async def test_two_users_have_threads_of_the_same_id_and_see_only_their_own(store: Store) -> None:
    mine = await store.accept(new("1"))
    other = await store.accept(new("2", user_id="bob", agent="claude"))
    assert mine.thread.key != other.thread.key
    assert (await store.turn("bob", "u-1"), await store.turn("alice", "u-2")) == (None, None)
    assert [one.thread for one in await store.threads("bob", agent=None, before=None, limit=9)] == [other.thread]
    await store.finish(end(mine))
    assert await store.mark_read("bob", "t", "a-1", None, 5_000) is None
    await store.finish(end(other))
    assert await store.delete("bob", "t")
    assert await store.thread("alice", "t") is not None


async def accept_everything(stores: list[SqlStore], ids: int, seed: int) -> list[Accepted]:
    """Accept each id one to five times, in mixed order, all at once, over several stores."""
    chance = random.Random(seed)
    sends = [
        new(f"{n}-{copy}", client_id=f"c-{n}", thread_id=f"t-{n}-{copy}", thread_chosen_by_client=False)
        for n in range(ids)
        for copy in range(chance.randint(1, 5))
    ]
    chance.shuffle(sends)
    async with asyncio.timeout(40):
        return await asyncio.gather(*(stores[i % len(stores)].accept(send) for i, send in enumerate(sends)))


async def test_many_ids_sent_up_to_five_times_at_once_make_as_many_turns(store_url: str) -> None:
    ids = 1_000 if store_url.startswith("sqlite") else 300  # Postgres takes ten times the CPU
    async with SqlStore.open(store_url) as one, SqlStore.open(store_url) as two:
        accepted = await accept_everything([one, two], ids, seed=1)
        assert Counter(answer.duplicate for answer in accepted)[False] == ids
        turn_of: dict[str | None, str] = {}
        for answer in accepted:
            assert turn_of.setdefault(answer.turn.client_id, answer.turn.turn_id) == answer.turn.turn_id
        assert len(turn_of) == ids
        assert len(await one.running()) == ids
        assert len(await one.threads("alice", agent=None, before=None, limit=5_000)) == ids


async def test_without_the_unique_index_the_same_sends_make_duplicates(store_url: str) -> None:
    """The control: it is the index that the test above depends on."""
    async with SqlStore.open(store_url) as one, SqlStore.open(store_url) as two:
        await one.database.write(lambda connection: connection.execute(text("DROP INDEX uq_turns_user_id_client_id")))
        accepted = await accept_everything([one, two], 100, seed=1)
        assert Counter(answer.duplicate for answer in accepted)[False] > 100


async def test_what_was_accepted_is_there_after_a_kill(store_url: str) -> None:
    """The child is killed while it accepts on; every turn that it reported must be found."""
    program = """
        import asyncio, sys
        from gateway.store.records import NewTurn
        from gateway.store.sql import SqlStore

        async def main():
            async with SqlStore.open(sys.argv[1]) as store:
                async def keep_accepting(who):
                    for n in range(10_000):
                        name = f"{who}-{n}"
                        await store.accept(NewTurn(
                            user_id="alice", agent="demo", thread_id=name, client_id=name, turn_id=name,
                            message_id=f"m-{name}", answer_id=f"a-{name}", content="Hi", epoch=1, title="",
                            queue_limit=8, at=1))
                        print(name, flush=True)
                await asyncio.gather(*(keep_accepting(who) for who in range(4)))

        asyncio.run(main())
    """
    child = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs in this loop
        [sys.executable, "-c", textwrap.dedent(program), store_url], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        reported = [child.stdout.readline().strip() for _ in range(50)]
        child.send_signal(signal.SIGKILL)
        reported += child.stdout.read().split("\n")[:-1]
    finally:
        child.kill()
        child.stdout.close()
        child.wait(10)
    assert child.returncode == -signal.SIGKILL
    async with SqlStore.open(store_url) as store:
        for turn_id in reported:
            assert await store.turn("alice", turn_id) is not None
        assert {turn.turn_id for _, turn in await store.running()} >= set(reported)


async def test_a_cancelled_accept_is_done_or_undone_and_harms_no_other(store: Store) -> None:
    calls = [asyncio.create_task(store.accept(new(str(n), thread_id=f"t-{n}"))) for n in range(60)]
    chance = random.Random(2)
    for _ in range(20):
        await asyncio.sleep(0)
        chance.choice(calls).cancel()
    async with asyncio.timeout(20):
        results = await asyncio.gather(*calls, return_exceptions=True)
    for n, result in enumerate(results):
        found = await store.turn("alice", f"u-{n}")
        if isinstance(result, Accepted):
            assert found == (result.thread, result.turn)
        else:
            assert isinstance(result, asyncio.CancelledError)
            assert (found is None) == (await store.thread("alice", f"t-{n}") is None)


# Ending turns


async def test_finishing_stores_the_answer_and_the_log_and_the_state(store: Store) -> None:
    accepted = await store.accept(new("1"))
    assert await store.finish(end(accepted, 1, 4, error={"code": "x", "message": "y"}, status="failed")) is None
    found = await store.turn("alice", "u-1")
    assert found is not None
    thread, turn = found
    assert (thread.head, thread.updated_at) == (4, 6_000)
    assert (turn.status, turn.stop_reason, turn.usage) == ("failed", "end_turn", {"input_tokens": 1})
    assert (turn.error, turn.duration_ms, turn.finished_at) == ({"code": "x", "message": "y"}, 7, 6_000)
    answer = await store.message(thread.key, "a-1")
    assert answer is not None
    assert (answer.role, answer.content, answer.status, answer.position) == ("assistant", "Hello.", "failed", 1999)
    assert (answer.turn_id, answer.created_at) == ("u-1", 6_000)
    assert await store.segments(thread.key, 0, 9) == [segment(1, 4)]
    assert await store.running() == []


async def test_an_empty_answer_is_a_message_too(store: Store) -> None:
    accepted = await store.accept(new("1"))
    await store.finish(end(accepted, content=""))
    answer = await store.message(accepted.thread.key, "a-1")
    assert answer is not None
    assert answer.content == ""


async def test_a_turn_ends_once(store: Store) -> None:
    accepted = await store.accept(new("1"))
    await store.finish(end(accepted, 1, 2))
    with pytest.raises(LookupError):
        await store.finish(end(accepted, 3, 4, content="again"))
    with pytest.raises(LookupError):
        await store.finish(end(accepted, turn_id="unknown"))
    assert await log_of(store, accepted.thread.key) == [(1, 2)]


async def test_of_many_that_end_a_turn_at_once_one_succeeds(store_url: str) -> None:
    async with SqlStore.open(store_url) as one, SqlStore.open(store_url) as two:
        accepted = await one.accept(new("1"))
        ends = [store.finish(end(accepted, content=str(n))) for n, store in enumerate([one, two] * 4)]
        results = await asyncio.gather(*ends, return_exceptions=True)
        assert results.count(None) == 1
        assert sum(isinstance(result, LookupError) for result in results) == 7
        answer = await one.message(accepted.thread.key, "a-1")
        assert answer is not None
        assert answer.content == str(results.index(None))


async def test_a_queued_turn_cannot_be_finished(store: Store) -> None:
    await store.accept(new("1"))
    with pytest.raises(LookupError):
        await store.finish(end(await store.accept(new("2"))))


async def test_finishing_starts_the_next_from_the_new_head(store: Store) -> None:
    first, second, third = [await store.accept(new(str(n))) for n in range(3)]
    following = await store.finish(end(first, 1, 5))
    assert following == replace(second.turn, status="running", start=5, started_at=6_000)
    assert await store.open_turns(first.thread.key) == [following, third.turn]
    assert [turn for _, turn in await store.running()] == [following]


async def test_finishing_that_fails_leaves_the_turn_running_and_the_next_queued(store: Store) -> None:
    first = await store.accept(new("1"))
    await store.accept(new("2"))
    before = await store.open_turns(first.thread.key)
    with pytest.raises(ValueError, match="gap"):
        await store.finish(end(first, 3, 5))
    assert await store.open_turns(first.thread.key) == before
    assert await store.message(first.thread.key, "a-1") is None
    assert await log_of(store, first.thread.key) == []


async def test_a_turn_may_end_without_starting_the_next(store: Store) -> None:
    first = await store.accept(new("1"))
    await store.accept(new("2"))
    assert await store.waiting() == []
    assert await store.finish(end(first, 1, 3, start_next=False)) is None
    assert [thread.key for thread in await store.waiting()] == [first.thread.key]
    third = await store.accept(new("3"))
    assert (third.turn.status, third.queued) == ("queued", 1)
    started = await store.start_next(first.thread.key, 8_000)
    assert started is not None
    assert (started.turn_id, started.status, started.start, started.started_at) == ("u-2", "running", 3, 8_000)
    assert await store.start_next(first.thread.key, 9_000) is None
    assert await store.waiting() == []


async def test_nothing_starts_where_nothing_waits(store: Store) -> None:
    accepted = await store.accept(new("1"))
    await store.finish(end(accepted))
    assert await store.start_next(accepted.thread.key, 1) is None
    assert await store.start_next(12_345, 1) is None


async def test_the_database_itself_refuses_a_second_running_turn(store_url: str) -> None:
    async with SqlStore.open(store_url) as store:
        await store.accept(new("1"))
        await store.accept(new("2"))
        with pytest.raises(IntegrityError):
            await store.database.write(
                lambda connection: connection.execute(text("UPDATE turns SET status = 'running'"))
            )


async def test_many_starts_at_once_start_one(store_url: str) -> None:
    async with SqlStore.open(store_url) as one, SqlStore.open(store_url) as two:
        first = await one.accept(new("1"))
        for n in range(2, 6):
            await one.accept(new(str(n)))
        await one.finish(end(first, start_next=False))
        starts = await asyncio.gather(*(store.start_next(first.thread.key, 7_000) for store in [one, two] * 4))
        assert [turn.turn_id for turn in starts if turn is not None] == ["u-2"]


async def test_cancelling_one_queued_turn_gives_it_an_empty_answer(store: Store) -> None:
    first, second, third = [await store.accept(new(str(n))) for n in range(3)]
    (cancelled,) = await store.cancel_queued(first.thread.key, second.turn.turn_id, 7_000)
    assert (cancelled.turn_id, cancelled.status, cancelled.finished_at) == ("u-1", "cancelled", 7_000)
    assert await store.open_turns(first.thread.key) == [first.turn, third.turn]
    answer = await store.message(first.thread.key, "a-1")
    assert answer is not None
    assert (answer.content, answer.status) == ("", "cancelled")
    assert await store.cancel_queued(first.thread.key, second.turn.turn_id, 8_000) == []


async def test_cancelling_all_queued_turns_leaves_the_running_one(store: Store) -> None:
    first, second, third = [await store.accept(new(str(n))) for n in range(3)]
    other = await store.accept(new("other", thread_id="t2"))
    cancelled = await store.cancel_queued(first.thread.key, None, 7_000)
    assert [turn.turn_id for turn in cancelled] == [second.turn.turn_id, third.turn.turn_id]
    assert await store.open_turns(first.thread.key) == [first.turn]
    assert await store.cancel_queued(first.thread.key, first.turn.turn_id, 7_000) == []
    assert await store.cancel_queued(other.thread.key, second.turn.turn_id, 7_000) == []


# The log


async def test_a_checkpoint_moves_heads_and_keeps_sessions(store: Store) -> None:
    one, two = await store.accept(new("1")), await store.accept(new("2", thread_id="t2"))
    await store.checkpoint(
        [
            Checkpoint(thread_key=one.thread.key, epoch=1_000, segment=segment(1, 3), session={"id": [1, None]}),
            Checkpoint(thread_key=two.thread.key, epoch=1_000, segment=segment(1, 1)),
        ]
    )
    await store.checkpoint([Checkpoint(thread_key=one.thread.key, epoch=1_000, segment=segment(4, 9))])
    thread = await store.thread("alice", "t")
    assert thread is not None
    assert (thread.head, thread.session) == (9, {"id": [1, None]})
    other = await store.thread("alice", "t2")
    assert other is not None
    assert (other.head, other.session) == (1, None)


async def test_segments_come_whole_in_order_and_no_more_than_asked(store: Store) -> None:
    key = (await store.accept(new("1"))).thread.key
    pieces = [segment(1, 3, b"abc"), segment(4, 4, b""), segment(5, 9, bytes(range(256)))]
    await store.checkpoint([Checkpoint(thread_key=key, epoch=1_000, segment=piece) for piece in pieces])
    assert await store.segments(key, 0, 9) == pieces
    assert await store.segments(key, 2, 9) == pieces
    assert await store.segments(key, 3, 9) == pieces[1:]
    assert await store.segments(key, 4, 9) == pieces[2:]
    assert await store.segments(key, 8, 9) == pieces[2:]
    assert await store.segments(key, 9, 9) == []
    assert await store.segments(key, 1, 2) == pieces[:2]
    assert await store.segments(key + 1, 0, 9) == []


async def test_a_checkpoint_that_leaves_a_gap_is_refused_whole(store: Store) -> None:
    one, two = await store.accept(new("1")), await store.accept(new("2", thread_id="t2"))
    batch = [
        Checkpoint(thread_key=one.thread.key, epoch=1_000, segment=segment(1, 3)),
        Checkpoint(thread_key=two.thread.key, epoch=1_000, segment=segment(2, 3)),
    ]
    with pytest.raises(ValueError, match="gap"):
        await store.checkpoint(batch)
    assert await log_of(store, one.thread.key) == []
    thread = await store.thread("alice", "t")
    assert thread is not None
    assert thread.head == 0


async def test_a_checkpoint_written_again_is_stored_once_and_may_have_grown(store: Store) -> None:
    key = (await store.accept(new("1"))).thread.key
    for last in (3, 3, 5, 4):
        await store.checkpoint([Checkpoint(thread_key=key, epoch=1_000, segment=segment(1, last))])
    assert await log_of(store, key) == [(1, 5)]
    thread = await store.thread_by_key(key)
    assert thread is not None
    assert thread.head == 5


async def test_a_checkpoint_of_a_deleted_thread_is_passed_over(store: Store) -> None:
    gone, kept = await store.accept(new("1")), await store.accept(new("2", thread_id="t2"))
    await store.finish(end(gone))
    await store.delete("alice", "t")
    await store.checkpoint(
        [Checkpoint(thread_key=accepted.thread.key, epoch=1_000, segment=segment(1, 2)) for accepted in (gone, kept)]
    )
    assert await log_of(store, gone.thread.key) == []
    assert await log_of(store, kept.thread.key) == [(1, 2)]


async def test_a_new_epoch_drops_the_older_segments_and_counts_on_from_the_checkpoint(store: Store) -> None:
    accepted = await store.accept(new("1"))
    key = accepted.thread.key
    await store.checkpoint([Checkpoint(thread_key=key, epoch=1_000, segment=segment(1, 7))])
    await store.accept(new("2"))
    following = await store.finish(end(accepted, 20, 22, status="interrupted", epoch=3_000))
    thread = await store.thread_by_key(key)
    assert thread is not None
    assert following is not None
    assert (thread.epoch, thread.head, following.start) == (3_000, 22, 22)
    assert await log_of(store, key) == [(20, 22)]


async def test_an_epoch_only_grows(store: Store) -> None:
    accepted = await store.accept(new("1"))
    await store.finish(end(accepted, 1, 2, epoch=7))
    thread = await store.thread_by_key(accepted.thread.key)
    assert thread is not None
    assert thread.epoch == 1_001


async def test_trim_forgets_only_a_prefix_of_ended_turns(store: Store) -> None:
    first = await store.accept(new("1"))
    key = first.thread.key
    await store.accept(new("2"))
    await store.accept(new("3"))
    await store.checkpoint([Checkpoint(thread_key=key, epoch=1_000, segment=segment(1, 2))])
    second = await store.finish(end(first, 3, 4, at=DAY))
    assert second is not None
    await store.checkpoint([Checkpoint(thread_key=key, epoch=1_000, segment=segment(5, 6))])
    third = await store.finish(end(second, 7, 8, at=2 * DAY))
    assert third is not None
    await store.checkpoint([Checkpoint(thread_key=key, epoch=1_000, segment=segment(9, 10))])

    assert (await store.trim(DAY, 100))[0] == 0
    assert (await store.trim(DAY + 1, 1))[0] == 1
    assert await log_of(store, key) == [(3, 4), (5, 6), (7, 8), (9, 10)]
    assert (await store.trim(DAY + 1, 100))[0] == 1
    assert await log_of(store, key) == [(5, 6), (7, 8), (9, 10)]
    assert (await store.trim(9 * DAY, 100))[0] == 2
    assert await log_of(store, key) == [(9, 10)]
    await store.finish(end(third, 11, 12, at=3 * DAY))
    assert (await store.trim(9 * DAY, 100))[0] == 2
    thread = await store.thread_by_key(key)
    assert thread is not None
    assert thread.head == 12


async def test_trim_keeps_a_segment_that_also_holds_events_of_a_later_turn(store: Store) -> None:
    first = await store.accept(new("1"))
    key = first.thread.key
    await store.finish(end(first, 1, 4, at=DAY))
    second = await store.accept(new("2"))
    await store.checkpoint([Checkpoint(thread_key=key, epoch=1_000, segment=segment(1, 6))])
    assert second.turn.start == 4
    assert (await store.trim(9 * DAY, 100))[0] == 0


async def test_trim_keeps_a_later_old_segment_behind_one_that_must_stay(store: Store) -> None:
    """A clock that went back: the second turn ended 'before' the first."""
    first = await store.accept(new("1"))
    key = first.thread.key
    await store.finish(end(first, 1, 4, at=5 * DAY))
    await store.finish(end(await store.accept(new("2")), 5, 8, at=DAY))
    assert (await store.trim(2 * DAY, 100))[0] == 0
    assert await log_of(store, key) == [(1, 4), (5, 8)]


async def test_trim_goes_through_all_threads_a_few_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.log.TRIMMED_TOGETHER", 2)
    keys = []
    for n in range(5):
        accepted = await store.accept(new(str(n), thread_id=f"t-{n}"))
        await store.checkpoint([Checkpoint(thread_key=accepted.thread.key, epoch=1_000, segment=segment(1, 2))])
        await store.finish(end(accepted, 3, 4, at=9 * DAY if n == 1 else DAY))
        keys.append(accepted.thread.key)
    assert await store.trim(2 * DAY, 1) == (1, 0)
    assert await store.trim(2 * DAY, 9) == (1, keys[1])
    assert await store.trim(2 * DAY, 9, keys[1]) == (4, keys[3])
    assert await store.trim(2 * DAY, 9, keys[3]) == (2, None)
    assert await store.trim(2 * DAY, 9, keys[4]) == (0, None)
    assert [len(await log_of(store, key)) for key in keys] == [0, 2, 0, 0, 0]


# Threads and messages


async def test_history_shows_no_queued_message_and_pages_both_ways(store: Store) -> None:
    key = 0
    for n in range(4):
        accepted = await store.accept(new(str(n), attachments=[await attached(store, f"f-{n}")]))
        key = accepted.thread.key
        await store.finish(end(accepted, content=f"answer {n}"))
    await store.accept(new("4"))
    await store.accept(new("5"))
    everything = await store.messages(key, limit=100)
    assert [one.message_id for one in everything] == [f"{kind}-{n}" for n in range(4) for kind in "ma"] + ["m-4"]
    positions = [one.position for one in everything]
    assert positions == sorted(set(positions))
    assert [one.role for one in everything[:2]] == ["user", "assistant"]
    assert [one.status for one in everything[:2]] == [None, "completed"]
    assert [one["id"] for one in everything[2].attachments] == ["f-1"]
    assert list(everything[3].attachments) == []
    assert await store.messages(key, limit=2) == everything[-2:]
    assert await store.messages(key, before=positions[4], limit=3) == everything[1:4]
    assert await store.messages(key, after=positions[1], limit=3) == everything[2:5]
    assert await store.messages(key, after=positions[-1], limit=3) == []
    assert await store.message(key, "m-0") == everything[0]
    assert await store.message(key, "m-5") is None
    assert await store.message(key, "unknown") is None


async def test_summaries_come_newest_first_in_pages_without_loss(store: Store) -> None:
    for n in range(7):
        await store.accept(new(str(n), thread_id=f"t-{n}", agent="demo" if n % 2 else "claude"))  # all at one time
    seen, before = [], None
    while page := await store.threads("alice", agent=None, before=before, limit=3):
        seen += [one.thread.thread_id for one in page]
        before = page[-1].thread.updated_at
    assert seen == [f"t-{n}" for n in reversed(range(7))]
    only = await store.threads("alice", agent="demo", before=None, limit=9)
    assert [one.thread.thread_id for one in only] == ["t-5", "t-3", "t-1"]
    assert await store.threads("nobody", agent=None, before=None, limit=9) == []


async def test_a_summary_shows_the_last_message_and_what_is_unread(store: Store) -> None:
    first = await store.accept(new("1"))
    await store.accept(new("2"))
    summary = await store.summary("alice", "t")
    assert summary is not None
    assert summary.last_message is not None
    assert (summary.last_message.message_id, summary.running) == ("m-1", True)
    assert (summary.unread, summary.read_message_id) == (0, None)
    second = await store.finish(end(first))
    assert second is not None
    await store.finish(end(second))
    summary = await store.summary("alice", "t")
    assert summary is not None
    assert summary.last_message == await store.message(first.thread.key, "a-2")
    assert (summary.running, summary.unread) == (False, 2)
    assert [summary] == await store.threads("alice", agent=None, before=None, limit=9)
    assert await store.summary("bob", "t") is None


async def test_the_read_mark_never_goes_back(store: Store) -> None:
    for n in range(3):
        await store.finish(end(await store.accept(new(str(n)))))
    assert await store.mark_read("alice", "t", "a-1", None, 5_000) is True
    assert await store.mark_read("alice", "t", "a-1", None, 5_000) is False
    assert await store.mark_read("alice", "t", "m-0", None, 5_000) is False
    summary = await store.summary("alice", "t")
    assert summary is not None
    assert (summary.unread, summary.read_message_id) == (1, "a-1")
    assert await store.mark_read("alice", "t", "a-2", None, 5_000) is True
    assert await store.mark_read("alice", "t", "unknown", None, 5_000) is None
    assert await store.mark_read("alice", "unknown", "a-2", None, 5_000) is None


async def test_read_marks_set_at_once_end_at_the_furthest(store: Store) -> None:
    for n in range(8):
        await store.finish(end(await store.accept(new(str(n)))))
    await asyncio.gather(*(store.mark_read("alice", "t", f"a-{n}", None, 5_000) for n in (3, 7, 1, 5, 0, 6, 2, 4)))
    summary = await store.summary("alice", "t")
    assert summary is not None
    assert summary.read_message_id == "a-7"


async def test_a_message_that_still_waits_cannot_be_read(store: Store) -> None:
    await store.accept(new("1"))
    await store.accept(new("2"))
    assert await store.mark_read("alice", "t", "m-2", None, 5_000) is None


async def test_a_thread_can_be_renamed_by_its_user(store: Store) -> None:
    accepted = await store.accept(new("1"))
    assert await store.rename("alice", "t", "New") == replace(accepted.thread, title="New")
    assert await store.rename("bob", "t", "New") is None


async def test_deleting_takes_all_that_belongs_to_the_thread(store_url: str) -> None:
    async with SqlStore.open(store_url) as store:
        kept = await store.accept(new("kept", thread_id="t2"))
        first = await store.accept(new("1"))
        asked = approval("p1", "u-1")
        point = Checkpoint(
            thread_key=first.thread.key, epoch=1_000, segment=segment(1, 2), session={}, approvals=[asked]
        )
        await store.checkpoint([point])
        await store.finish(end(first))
        assert await store.delete("alice", "t") is True
        assert await store.delete("alice", "t") is False
        assert await store.turn("alice", "u-1") is None
        assert await store.approval("alice", "p1") is None
        with pytest.raises(LookupError):
            await store.finish(end(first))
        assert [thread.key for thread, _ in await store.running()] == [kept.thread.key]
        for table in ("turns", "messages", "segments", "approvals"):
            others = text(f"SELECT count(*) FROM {table} WHERE thread_key <> {kept.thread.key}")  # noqa: S608  # no input
            assert await store.database.read(lambda connection, q=others: connection.execute(q).scalar_one()) == 0


async def test_a_thread_is_not_deleted_while_a_turn_of_it_is_open(store: Store) -> None:
    running = await store.accept(new("1"))
    await store.accept(new("2"))
    with pytest.raises(Busy):
        await store.delete("alice", "t")
    following = await store.finish(end(running))
    assert following is not None
    with pytest.raises(Busy):
        await store.delete("alice", "t")
    assert await store.delete("bob", "t") is False
    await store.finish(end(following))
    assert await store.delete("alice", "t") is True


async def test_a_thread_made_again_reuses_neither_epoch_nor_key(store: Store) -> None:
    epochs, keys = [], []
    for name, epoch in (("1", 1_000), ("2", 1_000), ("3", 900), ("4", 5_000)):
        accepted = await store.accept(new(name, epoch=epoch))
        assert accepted.created_thread
        epochs.append(accepted.thread.epoch)
        keys.append(accepted.thread.key)
        await store.finish(end(accepted, checkpoint=Checkpoint(thread_key=keys[-1], epoch=epochs[-1], segment=None)))
        await store.delete("alice", "t")
    assert epochs == [1_000, 1_001, 1_002, 5_000]
    assert len(set(keys)) == 4
    other = await store.accept(new("5", user_id="bob"))
    assert other.thread.epoch == 1_000


# Approvals


def approval(approval_id: str, turn_id: str, **changes: Any) -> Approval:
    fields: dict[str, Any] = {
        "approval_id": approval_id,
        "thread_id": "t",
        "turn_id": turn_id,
        "request": {"kind": "command", "detail": {"command": "ls"}},
        "decision": None,
        "by": None,
        "text": None,
        "created_at": 5_000,
        "expires_at": 6_000,
        "resolved_at": None,
    }
    return Approval(**fields | changes)


async def test_an_approval_is_kept_as_it_stands_and_its_first_decision_stays(store: Store) -> None:
    key = (await store.accept(new("1"))).thread.key

    async def keep(one: Approval) -> Approval | None:
        await store.checkpoint([Checkpoint(thread_key=key, epoch=1_000, segment=None, approvals=[one])])
        return await store.approval("alice", one.approval_id)

    asked = approval("p1", "u-1")
    assert await keep(asked) == asked
    decided = replace(asked, decision="approved", by="phone", text="go", resolved_at=5_500)
    assert await keep(decided) == decided
    assert await keep(asked) == decided
    assert await keep(replace(decided, decision="declined", resolved_at=5_600)) == decided
    assert await store.approval("bob", "p1") is None
    assert await store.approval("alice", "p2") is None


# The store itself


async def test_what_was_stored_is_there_after_closing_and_opening(store_url: str) -> None:
    async with SqlStore.open(store_url) as store:
        accepted = await store.accept(new("1"))
    async with SqlStore.open(store_url) as store:
        assert await store.turn("alice", "u-1") == (accepted.thread, accepted.turn)
        await store.ping()


async def test_a_closed_store_is_unavailable(store_url: str) -> None:
    async with SqlStore.open(store_url) as store:
        key = (await store.accept(new("1"))).thread.key
    with pytest.raises(StoreUnavailable):
        await store.ping()
    with pytest.raises(StoreUnavailable):
        await store.start_next(key, 1)


async def test_closing_finishes_what_was_asked_for(store_url: str) -> None:
    async with SqlStore.open(store_url) as store:
        calls = [asyncio.create_task(store.accept(new(str(n), thread_id=f"t-{n}"))) for n in range(20)]
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert all(not one.duplicate for one in await asyncio.gather(*calls))


async def test_opening_says_nothing_on_standard_output(store_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    async with SqlStore.open(store_url) as store:
        await store.ping()
    assert capfd.readouterr() == ("", "")


async def test_a_url_that_is_no_use_is_refused_without_its_secrets() -> None:
    for url in (
        "mysql://root:hunter2@host/db",
        "hunter2",
        "sqlite://",
        "postgres://root:hunter2@host:port/db",
        "postgres://root:hunter2@host/db?sslmode=hunter2",
    ):
        with pytest.raises(ValueError, match="database URL") as caught:
            async with SqlStore.open(url):
                pass
        assert "hunter2" not in str(caught.value)


async def test_a_message_for_a_running_turn_stands_between_its_question_and_its_answer(store: Store) -> None:
    first = await store.accept(new("1"))
    handed = await store.accept(new("2", steer_into=first.turn.turn_id))
    assert (handed.steered, handed.duplicate, handed.queued) == (True, False, 0)
    assert (handed.turn.turn_id, handed.turn.message_id) == (first.turn.turn_id, "m-2")
    await store.finish(end(first))
    assert [m.message_id for m in await store.messages(first.thread.key, limit=9)] == ["m-1", "m-2", "a-1"]
    again = await store.accept(new("2", turn_id="u-9", message_id="m-9"))
    assert (again.steered, again.duplicate, again.turn.message_id) == (True, True, "m-2")


async def test_a_send_repeated_while_its_own_turn_runs_is_not_handed_to_it(store: Store) -> None:
    first = await store.accept(new("1"))
    again = await store.accept(new("1", turn_id="u", message_id="m", answer_id="a", steer_into="u-1"))
    assert (again.duplicate, again.steered, again.turn) == (True, False, first.turn)
    assert [m.message_id for m in await store.messages(first.thread.key, limit=9)] == ["m-1"]


async def test_a_message_for_a_turn_that_has_ended_becomes_a_turn_of_its_own(store: Store) -> None:
    first = await store.accept(new("1"))
    await store.finish(end(first))
    second = await store.accept(new("2", steer_into=first.turn.turn_id))
    assert not second.steered
    assert (second.turn.turn_id, second.turn.status) == ("u-2", "running")


async def test_a_message_that_its_turn_did_not_take_can_be_sent_anew_under_the_same_id(store: Store) -> None:
    first = await store.accept(new("1"))
    await store.accept(new("2", steer_into=first.turn.turn_id))
    await store.unsteer("m-2")
    queued = await store.accept(new("2"))
    assert (queued.steered, queued.duplicate, queued.turn.status) == (False, False, "queued")


def adoption(thread_id: str, session_id: str, user_id: str = "alice") -> Adoption:
    exchange = Exchange(
        turn_id=f"u-{user_id}-{thread_id}",
        message_id=f"m-{user_id}-{thread_id}",
        answer_id=f"a-{user_id}-{thread_id}",
        question="Q",
        answer="A",
    )
    return Adoption(
        user_id=user_id,
        agent="codex",
        thread_id=thread_id,
        title="Q",
        session={"codex_thread_id": session_id},
        exchanges=[exchange],
        epoch=7,
        at=7,
    )


async def test_a_session_is_one_thread_of_each_user_whatever_it_is_called(store: Store) -> None:
    first, made = await store.adopt(adoption("s-1", "one"))
    assert made
    assert await store.adopt(adoption("s-1", "one")) == (first, False)
    assert await store.adopt(adoption("s-2", "one")) == (first, False)
    for other in (adoption("s-3", "two"), adoption("s-1", "one", "bob")):
        thread, made = await store.adopt(other)
        assert made
        assert thread.key != first.key


async def test_a_session_adopted_again_after_its_thread_was_deleted_starts_behind_it(store: Store) -> None:
    first, _ = await store.adopt(adoption("s-1", "one"))
    assert await store.delete("alice", "s-1")
    again, made = await store.adopt(adoption("s-1", "one"))
    assert made
    assert again.epoch > first.epoch
