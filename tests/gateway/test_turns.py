import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Busy, Draining, IdConflict, NotFound, NotRetryable, QueueFull, StoreUnavailable
from gateway.eventlog.local import LocalEventLog, decode_events
from gateway.eventlog.position import Position
from gateway.runner.stream import RETRIES
from gateway.store.records import Outcome
from gateway.store.records import Turn as StoredTurn
from gateway.store.sql import SqlStore
from gateway.turns import title_of
from providers import (
    ApprovalRequest,
    Completed,
    Event,
    ProviderError,
    SessionUpdated,
    TextDelta,
    ToolCall,
    Turn,
    Usage,
)
from tests.gateway.engine import engine
from tests.gateway.events import accept, ask, say

FAST = {"turn": {"first_event_seconds": 0.2, "idle_seconds": 0.2, "total_seconds": 5}}


def says(*texts: str, stop_reason: str = "end_turn") -> Callable[[Turn], AsyncGenerator[Event]]:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        for text in texts:
            yield TextDelta("a", text)
        yield Usage(3, 4)
        yield Completed(stop_reason)

    return stream


class Held:
    """A provider that says `begin`, waits until `go` is set, and completes."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.closed = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, turn: Turn) -> AsyncGenerator[Event]:
        try:
            yield TextDelta("a", "begin")
            self.begun.set()
            await self.go.wait()
            yield TextDelta("a", " end")
            yield Completed()
        finally:
            self.closed.set()


# The way of a turn


async def test_a_turn_runs_from_accepted_to_done(store: SqlStore, tmp_path: Path) -> None:
    async with engine(store, tmp_path, a=says("Hel", "lo", stop_reason="max_tokens")) as parts:
        phone = parts.client()
        accepted = await phone.send("Hi", id="c-1", thread_id="t")
        done = await phone.until("done")
        assert phone.kinds[0] == "accepted"
        assert phone.kinds[1] == "user_message"
        assert phone.text == done["content"] == "Hello"
        assert (done["status"], done["stop_reason"]) == ("completed", "max_tokens")
        assert done["usage"] == {"input_tokens": 3, "output_tokens": 4}
        stored = await parts.ended(accepted)
        assert (stored.status, stored.usage) == ("completed", {"input_tokens": 3, "output_tokens": 4})
        assert await parts.answer(stored) == "Hello"


async def test_typing_surrounds_the_answer(store: SqlStore, tmp_path: Path) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        phone = parts.client()
        await phone.send()
        await phone.until("message")
        held.go.set()
        await phone.until("done")
        kinds = [(f["type"], f.get("active")) for f in phone.frames if f["type"] != "thread_updated"]
        assert kinds == [
            ("accepted", None),
            ("user_message", None),
            ("typing", True),
            ("message", None),
            ("message", None),
            ("typing", False),
            ("done", None),
        ]


@pytest.mark.parametrize("session", ["a-thread-of-the-backend", 7, ["a", "b"], ""])
async def test_a_session_may_be_any_json_value(store: SqlStore, tmp_path: Path, session: Any) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        yield SessionUpdated(session)
        yield Completed()

    async with engine(store, tmp_path, a=stream) as parts:
        for _ in range(2):
            await parts.run("Hi", thread_id="t")
        assert [turn.session for turn in parts.agents["a"].turns] == [None, session]


async def test_the_provider_gets_the_conversation_and_its_session(store: SqlStore, tmp_path: Path) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        count = (turn.session or {}).get("count", 0) + 1
        yield SessionUpdated({"count": count})
        yield TextDelta("a", f"answer {count}")
        yield Completed()

    async with engine(store, tmp_path, a=stream) as parts:
        for number in (1, 2, 3):
            await parts.run(f"question {number}", thread_id="t")
        last = parts.agents["a"].turns[-1]
        assert [(m.role, m.content) for m in last.messages] == [
            ("user", "question 1"),
            ("assistant", "answer 1"),
            ("user", "question 2"),
            ("assistant", "answer 2"),
            ("user", "question 3"),
        ]
        assert last.session == {"count": 2}
        assert (last.user_id, last.thread_id) == ("alice", "t")


async def test_the_same_id_at_once_from_everywhere_starts_one_turn(store: SqlStore, tmp_path: Path) -> None:
    async with engine(store, tmp_path, a=says("x")) as parts:
        sent = await asyncio.gather(*(parts.submit("Hi", id="c-1", thread_id="t") for _ in range(20)))
        assert len({accepted.turn.turn_id for accepted in sent}) == 1
        assert sorted(accepted.duplicate for accepted in sent) == [False] + [True] * 19
        await parts.ended(sent[0])
        assert len(parts.agents["a"].turns) == 1
        with pytest.raises(IdConflict):
            await parts.submit("other", id="c-1", thread_id="t")


async def test_messages_queue_and_run_in_order_one_at_a_time(store: SqlStore, tmp_path: Path) -> None:
    at_once, most = 0, 0

    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        yield TextDelta("a", turn.messages[-1].content)
        await asyncio.sleep(0)
        at_once -= 1
        yield Completed()

    async with engine(store, tmp_path, a=stream) as parts:
        phone = parts.client()
        sent = [await phone.send(str(number), thread_id="t") for number in range(9)]
        for accepted in sent:
            await parts.ended(accepted)
        for _ in sent:
            await phone.until("done")
        assert most == 1
        assert [f["content"] for f in phone.frames if f["type"] == "done"] == [str(n) for n in range(9)]
        assert [f["content"] for f in phone.frames if f["type"] == "user_message"] == [str(n) for n in range(9)]


async def test_the_queue_is_bounded_and_may_be_declined(store: SqlStore, tmp_path: Path) -> None:
    held = Held()
    async with engine(store, tmp_path, {"limits": {"queue": 2}}, a=held) as parts:
        first = await parts.submit(thread_id="t")
        with pytest.raises(Busy):
            await parts.submit(thread_id="t", when_busy="reject")
        queued = [await parts.submit(thread_id="t") for _ in range(2)]
        assert [accepted.queued for accepted in (first, *queued)] == [0, 1, 2]
        with pytest.raises(QueueFull):
            await parts.submit(thread_id="t")
        held.go.set()
        for accepted in (first, *queued):
            assert (await parts.ended(accepted)).status == "completed"


# Stopping


async def test_a_cancelled_turn_keeps_its_text_and_its_provider_is_closed(store: SqlStore, tmp_path: Path) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        accepted = await parts.submit()
        await held.begun.wait()
        await parts.turns.cancel_turn("alice", accepted.turn.turn_id)
        stored = await parts.ended(accepted, within=2)
        assert (stored.status, stored.error) == ("cancelled", None)
        assert await parts.answer(stored) == "begin"
        assert held.closed.is_set()
        await parts.turns.cancel_turn("alice", accepted.turn.turn_id)
        assert (await parts.ended(accepted)).status == "cancelled"


async def test_cancelling_a_thread_stops_what_waits_too(store: SqlStore, tmp_path: Path) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        phone = parts.client()
        sent = [await phone.send(str(number), thread_id="t") for number in range(3)]
        await held.begun.wait()
        await parts.turns.cancel_thread("alice", "t")
        for accepted in sent:
            assert (await parts.ended(accepted)).status == "cancelled"
        for _ in sent:
            assert (await phone.until("done"))["status"] == "cancelled"
        assert len(parts.agents["a"].turns) == 1


async def test_a_queued_turn_is_cancelled_alone(store: SqlStore, tmp_path: Path) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        first, second, third = [await parts.submit(str(n), thread_id="t") for n in range(3)]
        await parts.turns.cancel_turn("alice", second.turn.turn_id)
        assert (await parts.ended(second)).status == "cancelled"
        held.go.set()
        assert (await parts.ended(first)).status == (await parts.ended(third)).status == "completed"
        assert len(parts.agents["a"].turns) == 2


class SlowToTell(SqlStore):
    """A store whose `finish` commits, and answers when it is let."""

    committed: asyncio.Event
    answer: asyncio.Event

    async def finish(self, outcome: Outcome) -> StoredTurn | None:
        following = await super().finish(outcome)
        self.committed.set()
        await self.answer.wait()
        return following


async def test_a_cancel_is_not_lost_while_a_queued_turn_becomes_the_running_one(tmp_path: Path) -> None:
    held = Held()
    async with SlowToTell.open(f"sqlite:///{tmp_path}/store.db") as store:
        assert isinstance(store, SlowToTell)
        store.committed, store.answer = asyncio.Event(), asyncio.Event()
        async with engine(store, tmp_path, a=held) as parts:
            first, second = [await parts.submit(str(n), thread_id="t") for n in range(2)]
            held.go.set()
            await store.committed.wait()
            await parts.turns.cancel_turn("alice", second.turn.turn_id)
            held.go.clear()
            store.answer.set()
            assert (await parts.ended(first)).status == "completed"
            assert (await parts.ended(second, within=3)).status == "cancelled"


async def test_a_provider_that_swallows_its_cancellation_is_left_behind(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.runner.stream.CLOSING_SECONDS", 0.2)
    begun, over = asyncio.Event(), asyncio.Event()

    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("a", "x")
        begun.set()
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()
        yield TextDelta("a", "too late")

    async with engine(store, tmp_path, a=stream) as parts:
        accepted = await parts.submit()
        await begun.wait()
        await parts.turns.cancel_turn("alice", accepted.turn.turn_id)
        stored = await parts.ended(accepted, within=2)
        assert stored.status == "cancelled"
        over.set()
        await asyncio.sleep(0.05)
        assert await parts.answer(stored) == "x"


async def test_a_deleted_thread_stops_its_turn_and_everything_of_it_is_gone(store: SqlStore, tmp_path: Path) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        accepted = await parts.submit(thread_id="t")
        await parts.submit(thread_id="t")
        await held.begun.wait()
        await parts.turns.delete_thread("alice", "t")
        assert held.closed.is_set()
        assert await store.turn("alice", accepted.turn.turn_id) is None
        with pytest.raises(NotFound):
            await parts.turns.cancel_thread("alice", "t")
        held.go.set()
        assert (await parts.run(thread_id="t")).status == "completed"


# Deadlines and failures


async def silent(turn: Turn) -> AsyncGenerator[Event]:
    await asyncio.Event().wait()
    yield Completed()


async def falls_silent(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "x")
    await asyncio.Event().wait()


async def never_stops(turn: Turn) -> AsyncGenerator[Event]:
    while True:
        yield TextDelta("a", "x")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("stream", "word"), [(silent, "begin to answer"), (falls_silent, "fell silent"), (never_stops, "longer than")]
)
async def test_every_deadline_ends_the_turn_as_a_timeout(
    store: SqlStore, tmp_path: Path, stream: Any, word: str
) -> None:
    limits = {"first_event_seconds": 0.1, "idle_seconds": 0.1, "total_seconds": 0.3}
    async with engine(store, tmp_path, {"turn": limits}, a=stream) as parts:
        stored = await parts.run(within=3)
        assert stored.status == "failed"
        assert stored.error is not None
        assert stored.error["code"] == "timeout"
        assert stored.error["retryable"] is True
        assert word in stored.error["message"]


async def test_the_idle_deadline_stands_still_while_a_person_is_asked(store: SqlStore, tmp_path: Path) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("a", "May I? ")
        decision = await turn.approve(ApprovalRequest("command", "Run it?"))
        yield TextDelta("a", decision.option)
        yield Completed()

    async with engine(store, tmp_path, FAST, a=stream) as parts:
        phone = parts.client()
        await phone.send()
        request = await phone.until("approval_request")
        await asyncio.sleep(0.5)
        await parts.approvals.decide("alice", request["approval_id"], "approved", None, None)
        assert (await phone.until("done"))["content"] == "May I? approved"


async def test_an_error_of_the_provider_is_told_as_it_says(store: SqlStore, tmp_path: Path) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("a", "half")
        yield ToolCall("c1", "shell")
        raise ProviderError("overloaded", "No capacity.", retryable=True, retry_after=7.0)

    async with engine(store, tmp_path, a=stream) as parts:
        phone = parts.client()
        await phone.send()
        done = await phone.until("done")
        assert done["error"] == {"code": "overloaded", "message": "No capacity.", "retryable": True, "retry_after": 7.0}
        assert (done["status"], done["content"], done["stop_reason"]) == ("failed", "half", None)
        assert phone.kinds[-2:] == ["tool_result", "done"]


async def test_an_end_without_completed_is_incomplete(store: SqlStore, tmp_path: Path) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("a", "half")

    async with engine(store, tmp_path, a=stream) as parts:
        stored = await parts.run()
        assert stored.error is not None
        assert (stored.status, stored.error["code"], stored.error["retryable"]) == ("failed", "incomplete", True)


@pytest.mark.parametrize(
    ("refused", "begun", "calls"), [(True, False, RETRIES + 1), (False, False, 1), (True, True, 1)]
)
async def test_only_a_call_that_was_refused_before_its_first_event_is_repeated(
    store: SqlStore, tmp_path: Path, refused: bool, begun: bool, calls: int
) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        if begun:
            yield TextDelta("a", "x")
        raise ProviderError("overloaded", "No.", retry_after=0.01, refused=refused)

    async with engine(store, tmp_path, a=stream) as parts:
        stored = await parts.run()
        assert stored.status == "failed"
        assert len(parts.agents["a"].turns) == calls


async def test_a_refused_call_that_works_the_second_time_is_a_whole_answer(store: SqlStore, tmp_path: Path) -> None:
    attempts = 0

    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ProviderError("overloaded", "No.", retry_after=0.01, refused=True)
        yield TextDelta("a", "yes")
        yield Completed()

    async with engine(store, tmp_path, a=stream) as parts:
        stored = await parts.run()
        assert (stored.status, await parts.answer(stored)) == ("completed", "yes")


async def test_an_upstream_that_wants_to_wait_too_long_fails_the_turn_at_once(store: SqlStore, tmp_path: Path) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        raise ProviderError("rate_limited", "Later.", retryable=True, retry_after=3600, refused=True)
        yield

    async with engine(store, tmp_path, a=stream) as parts:
        stored = await parts.run(within=2)
        assert stored.error is not None
        assert stored.error["retry_after"] == 3600
        assert len(parts.agents["a"].turns) == 1


async def test_a_failed_turn_can_be_tried_again_and_its_words_are_not_seen_twice(
    store: SqlStore, tmp_path: Path
) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("a", "half")
        if len(parts.agents["a"].turns) > 1:
            yield Completed()

    async with engine(store, tmp_path, a=stream) as parts:
        first = await parts.run("question", thread_id="t")
        again = await parts.turns.retry("alice", first.turn_id)
        assert again.turn.retry_of == first.turn_id
        assert (await parts.ended(again)).status == "completed"
        assert [(m.role, m.content) for m in parts.agents["a"].turns[1].messages] == [("user", "question")]
        with pytest.raises(NotRetryable):
            await parts.turns.retry("alice", again.turn.turn_id)


# The store, the end, the beginning


class Flaky(SqlStore):
    """A store that does not answer while `down`."""

    down = False

    async def finish(self, outcome: Outcome) -> StoredTurn | None:
        if self.down:
            raise StoreUnavailable
        return await super().finish(outcome)

    async def checkpoint(self, batch: Any) -> set[int]:
        if self.down:
            raise StoreUnavailable
        return await super().checkpoint(batch)


async def test_done_waits_for_the_store_and_comes_once(tmp_path: Path) -> None:
    async with Flaky.open(f"sqlite:///{tmp_path}/store.db") as store:
        assert isinstance(store, Flaky)
        held = Held()
        async with engine(store, tmp_path, a=held) as parts:
            phone = parts.client()
            accepted = await phone.send()
            await held.begun.wait()
            store.down = True
            held.go.set()
            with pytest.raises(TimeoutError):
                await phone.until("done", within=0.6)
            assert phone.text == "begin end"
            store.down = False
            done = await phone.until("done", within=3)
            assert done["content"] == "begin end"
            assert (await parts.ended(accepted)).status == "completed"
            positions = [Position.parse(f["cursor"]) for f in phone.frames if "cursor" in f]
            assert positions == sorted(positions)  # type: ignore[type-var]  # none is None


class LosesAnswers(SqlStore):
    """A store whose first `finish` commits, but whose answer never arrives: the connection broke."""

    lost = False

    async def finish(self, outcome: Outcome) -> StoredTurn | None:
        following = await super().finish(outcome)
        if not self.lost:
            self.lost = True
            raise StoreUnavailable
        return following


async def test_an_end_whose_answer_was_lost_is_shown_all_the_same_and_the_next_turn_starts(tmp_path: Path) -> None:
    async with LosesAnswers.open(f"sqlite:///{tmp_path}/store.db") as store:
        async with engine(store, tmp_path, a=says("x")) as parts:
            phone = parts.client()
            first = await phone.send(thread_id="t")
            second = await phone.send(thread_id="t")
            ends = [await phone.until("done", within=5) for _ in range(2)]
            assert [(done["turn_id"], done["status"]) for done in ends] == [
                (first.turn.turn_id, "completed"),
                (second.turn.turn_id, "completed"),
            ]
        thread = await store.thread("alice", "t")
        assert thread is not None
        logged = [e for s in await store.segments(thread.key, 0, 99) for e in decode_events(s)]
        assert [Position.parse(e.cursor or "") for e in logged] == [
            Position(thread.epoch, offset) for offset in range(1, thread.head + 1)
        ]


async def test_nothing_is_accepted_while_draining_and_what_runs_is_interrupted_in_the_end(
    store: SqlStore, tmp_path: Path
) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        accepted = await parts.submit(thread_id="t")
        waiting = await parts.submit(thread_id="t")
        await held.begun.wait()
        await parts.runner.drain(0.05)
        assert held.closed.is_set()
        stored = await parts.ended(accepted)
        assert stored.error is not None
        assert (stored.status, stored.error["code"]) == ("interrupted", "interrupted")
        with pytest.raises(Draining):
            await parts.submit()
        found = await store.turn("alice", waiting.turn.turn_id)
        assert found is not None
        assert found[1].status == "queued"
    async with engine(store, tmp_path, a=says("later")) as parts:  # the next process goes on with what waited
        assert (await parts.ended(waiting)).status == "completed"


async def test_a_turn_cancelled_in_the_queue_right_before_a_crash_gets_its_end_shown_after_it(
    store: SqlStore, tmp_path: Path
) -> None:
    async with engine(store, tmp_path, a=Held()) as parts:
        await parts.submit(thread_id="t")
        waiting = await parts.submit("never mind", thread_id="t")
        await store.cancel_queued(waiting.thread.key, waiting.turn.turn_id, 7_000)  # and the process dies here
    async with engine(store, tmp_path, a=says("x")) as parts:
        phone = parts.client()
        thread = await store.thread_by_key(waiting.thread.key)
        assert thread is not None
        start = next(s for s in await store.segments(thread.key, 0, 10)).first - 1
        await phone.attach("t", Position(thread.epoch, start).cursor)
        ends = [await phone.until("done"), await phone.until("done")]
        assert [(done["turn_id"], done["status"]) for done in ends][1] == (waiting.turn.turn_id, "cancelled")
        assert await store.unshown(waiting.thread.key) == []
        assert await store.with_unshown() == []


async def test_a_turn_that_ends_in_time_is_completed_by_a_drain(store: SqlStore, tmp_path: Path) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        accepted = await parts.submit()
        await held.begun.wait()
        draining = asyncio.create_task(parts.runner.drain(5))
        held.go.set()
        async with asyncio.timeout(2):
            await draining
        assert (await parts.ended(accepted)).status == "completed"


async def test_after_a_crash_a_cursor_that_may_lie_is_refused_and_the_durable_text_is_there(
    store: SqlStore, tmp_path: Path
) -> None:
    """The example of `Position`: 126, 127 and 128 were shown, and only 126 was durable."""
    shown: list[str] = []
    logs = LocalEventLog(store)
    async with engine(store, tmp_path, a=says()) as parts:
        accepted = await accept(parts.store, "1", agent="a")
        log = await logs.hold(accepted.thread.key)  # the process that will die
        ask(log, turn_id="u1")
        for number in range(125):
            shown.append(say(log, f"{number} ").cursor)
        logs.touch(log)
        await logs.checkpoint()
        for number in (126, 127):
            shown.append(say(log, f"lost {number}").cursor)
    assert shown[-1].endswith(":128")

    async with engine(store, tmp_path, a=says("next")) as parts:
        stored = await parts.ended(accepted)
        assert stored.status == "interrupted"
        assert await parts.answer(stored) == "".join(f"{number} " for number in range(125))
        await parts.run(thread_id="t1")  # its events take the offsets 127 and 128 again
        for cursor in shown[-3:]:
            phone = parts.client()
            await phone.attach("t1", cursor)
            attached = await phone.until("attached")
            assert attached["recovered"] is False
            snapshot = await phone.until("snapshot")
            assert [message["status"] for message in snapshot["messages"] if message["role"] == "assistant"] == [
                "interrupted",
                "completed",
            ]


@pytest.mark.parametrize(
    ("content", "title"),
    [("Hi", "Hi"), ("\n \n  First line \nsecond", "First line"), ("x" * 100, "x" * 79 + "…"), ("x" * 80, "x" * 80)],
)
def test_a_thread_is_named_after_the_first_line_of_its_first_message(content: str, title: str) -> None:
    assert title_of(content) == title


async def test_a_message_accepted_while_its_thread_is_being_deleted_does_not_run_on_unseen(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        await parts.submit(thread_id="t")
        await held.begun.wait()
        at_rest = parts.runner.end_of

        async def written_to_meanwhile(thread_key: int) -> None:
            await at_rest(thread_key)
            monkeypatch.setattr(parts.runner, "end_of", at_rest)
            held.begun.clear()
            held.closed.clear()
            await parts.submit("and another thing", thread_id="t")
            await held.begun.wait()

        monkeypatch.setattr(parts.runner, "end_of", written_to_meanwhile)
        await parts.turns.delete_thread("alice", "t")
        assert held.closed.is_set()
        assert len(parts.agents["a"].turns) == 2
        assert await store.thread("alice", "t") is None


async def test_a_thread_that_is_written_to_again_and_again_is_not_deleted_and_whoever_asked_is_told(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        await parts.submit(thread_id="t")
        at_rest = parts.runner.end_of

        async def written_to(thread_key: int) -> None:
            await at_rest(thread_key)
            await parts.submit("and another thing", thread_id="t")

        monkeypatch.setattr(parts.runner, "end_of", written_to)
        with pytest.raises(Busy):
            await parts.turns.delete_thread("alice", "t")
        thread = await store.thread("alice", "t")
        assert thread is not None
        assert [turn.status for turn in await store.open_turns(thread.key)] == ["running"]


@pytest.mark.parametrize("ends", ["completed", "cancelled"])
async def test_a_turn_that_begins_while_the_store_is_away_waits_for_it_and_can_be_stopped(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    asked, back = asyncio.Event(), asyncio.Event()
    messages = store.messages

    async def away(*args: Any, **fields: Any) -> Any:
        asked.set()
        if not back.is_set():
            raise StoreUnavailable("it is away")
        return await messages(*args, **fields)

    monkeypatch.setattr(store, "messages", away)
    async with engine(store, tmp_path, FAST, a=says("Hi")) as parts:
        accepted = await parts.submit()
        async with asyncio.timeout(5):
            await asked.wait()
        if ends == "cancelled":
            await parts.turns.cancel_turn("alice", accepted.turn.turn_id)
        else:
            await asyncio.sleep(0.4)  # longer than a provider may be silent: nobody has asked it yet
            back.set()
        assert (await parts.ended(accepted)).status == ends
        assert len(parts.agents["a"].turns) == (ends == "completed")
