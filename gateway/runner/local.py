"""Turns that run in this process.

    start → provider.stream → Answer → log …… → store.finish → done

One task runs a turn from its start to its end, and then starts the next one that waits in the thread, or has it started
on some node.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Self

import msgspec
import structlog

from gateway.agents import Agents
from gateway.approvals import Approvals
from gateway.attachments import Attachments
from gateway.clock import now
from gateway.deadlines import CLOSING_SECONDS
from gateway.errors import StoreUnavailable
from gateway.eventlog.local import LocalEventLog, log_of
from gateway.eventlog.log import ThreadLog
from gateway.eventlog.position import Position, new_epoch
from gateway.logs import log_failure
from gateway.metrics import Metrics
from gateway.notices import Notices
from gateway.protocol import Event
from gateway.pushing import Pushing
from gateway.runner.running import RunningTurn
from gateway.runner.stream import ProviderStreams
from gateway.runner.verdict import INTERRUPTED, Ending, Failure, verdict
from gateway.store.base import STORE_RETRY_SECONDS, Store, once_it_answers
from gateway.store.records import Accepted, Checkpoint, NewTurn, Outcome, Thread, Turn

_log = structlog.get_logger(__name__)


class LocalRunner:
    """Runs turns that the store holds as running. `async with` it: leaving stops what still runs."""

    def __init__(
        self,
        store: Store,
        logs: LocalEventLog,
        agents: Agents,
        attachments: Attachments,
        approvals: Approvals,
        notices: Notices,
        pushing: Pushing,
        metrics: Metrics,
        frame_bytes: int,
    ) -> None:
        self._store = store
        self._logs = logs
        self._agents = agents
        self._approvals = approvals
        self._notices = notices
        self._pushing = pushing
        self._metrics = metrics
        self._frame_bytes = frame_bytes
        self._streams = ProviderStreams(store, attachments, logs, approvals, metrics)
        self._tasks: set[asyncio.Task[bool]] = set()
        self._by_thread: dict[int, RunningTurn] = {}
        self._by_turn: dict[str, RunningTurn] = {}
        self._stopped_early: set[str] = set()
        """Turns that were cancelled between becoming the running one in the store and starting here."""
        self.draining = False
        """Whether no queued turn is started any more."""
        self.start_following: Callable[[Turn], Awaitable[object]] | None = None
        """Has the turn started that the end of another made running in the store; None: it is started here, at once."""

    @property
    def count(self) -> int:
        """Turns that run."""
        return len(self._by_turn)

    @property
    def stuck(self) -> int:
        """Providers that did not end when they were stopped."""
        return len(self._streams.left_behind)

    def in_thread(self, thread_key: int) -> RunningTurn | None:
        """As in `Runner`."""
        return self._by_thread.get(thread_key)

    async def start(self, turn: Turn, thread: Thread | None = None, unshown: Sequence[Turn] = ()) -> asyncio.Task[bool]:
        """Run a turn that the store holds as running: from here on it must not be given up.

        `thread` is the turn's, as it was when the turn became this node's; `unshown` turns were cancelled while they
        waited, and nobody has logged that yet. The task ends with the turn. Its result: whether its end was stored by
        this task, and is known to everybody who reads the log.
        """
        log = await once_it_answers(lambda: self._logs.hold(turn.thread_key))
        running = RunningTurn(turn, log, self._agents.of(turn.agent), self._frame_bytes)
        before = self._by_thread.get(log.key)
        self._by_thread[log.key] = self._by_turn[turn.turn_id] = running
        if turn.cancel_asked or turn.turn_id in self._stopped_early:
            self._stopped_early.discard(turn.turn_id)
            running.stop("cancelled")
        return self._keep(self._run(running, before, thread, unshown), f"turn {turn.turn_id}")

    def _keep(self, coroutine: Coroutine[Any, Any, bool], name: str) -> asyncio.Task[bool]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(log_failure(_log, "turn_task_failed", task=name))
        return task

    async def _run(
        self, running: RunningTurn, before: RunningTurn | None, thread: Thread | None, unshown: Sequence[Turn]
    ) -> bool:
        log = running.log
        try:
            if before is not None:
                await before.ended.wait()
            async with log.flushing:  # nothing that is made durable before it is shown is on its way
                if not await self._own(running, thread):
                    _log.info("turn_gone", turn_id=running.turn_id)
                    return False
                self._show_cancelled(log, unshown)
                log.running = running
                log.turns_started += 1
                running.log_user_message(running.turn)
                self._logs.touch(log)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._notices.changed(log.user_id, log.thread_id))
                error = await self._streams.run(running)
            stored, following = await self._finish(running, *verdict(running, error))
            if following is not None:
                # While the log is still held, so that nothing must be loaded.
                await (self.start(following) if self.start_following is None else self.start_following(following))
        finally:
            if log.running is running:
                log.running = None
                log.turns_started += 1
            running.ended.set()
            del self._by_turn[running.turn_id]
            if self._by_thread.get(log.key) is running:
                del self._by_thread[log.key]
            known = await self._logs.disown(log, running.turn.attempt)
            self._logs.release(log)
        await self._notices.changed(log.user_id, log.thread_id)
        return stored and known

    async def _own(self, running: RunningTurn, thread: Thread | None) -> bool:
        """False if the turn is not this process' any more."""
        try:
            await once_it_answers(lambda: self._logs.own(running.log, running.turn.attempt, thread))
        except LookupError:
            return False
        return True

    async def _finish(
        self, running: RunningTurn, status: Ending, failure: Failure | None, epoch: int | None = None
    ) -> tuple[bool, Turn | None]:
        """Make the end of the turn durable, then show it. Returns whether it was this that ended it, and the turn that
        runs next."""
        log, answer = running.log, running.answer
        running.finishing = True
        self._approvals.cancel(running)
        answer.fail_open_calls()
        following: Turn | None = None
        unanswered: int | None = None
        for attempt in itertools.count(1):
            async with log.flushing:
                done = running.done(status, failure)
                checkpoint = self._logs.pending(log, [done])
                outcome = Outcome(
                    turn_id=running.turn_id,
                    status=status,
                    content=answer.content,
                    stop_reason=done.stop_reason,
                    usage=done.usage,
                    error=done.error or None,
                    duration_ms=done.duration_ms,
                    at=now(),
                    checkpoint=checkpoint,
                    push=self._pushing.of_turn(
                        turn_id=running.turn_id,
                        thread_id=log.thread_id,
                        message_id=done.message_id,
                        agent=running.agent.name,
                        status=status,
                        content=answer.content,
                        failure=failure,
                    ),
                    attempt=running.turn.attempt,
                    epoch=epoch,
                    start_next=not self.draining or self.start_following is not None,
                )
                try:
                    try:
                        following = await self._store.finish(outcome)
                    except LookupError:
                        # The first try may have been committed, and only the answer lost.
                        if unanswered != log.head or not await self._has_ended(running, status):
                            _log.info("turn_gone", turn_id=running.turn_id)
                            return False, None
                        following = await self._running_now(log.key)
                except StoreUnavailable:
                    unanswered = log.head
                    _log.error("turn_end_not_stored", turn_id=running.turn_id, attempt=attempt)
                else:
                    self._show_end(log, done, checkpoint)
                    break
            await asyncio.sleep(STORE_RETRY_SECONDS)
        self._pushing.wake()
        self._metrics.turn_ended(running.agent.name, status, None if failure is None else failure.code)
        _log.info(
            "turn_done",
            turn_id=running.turn_id,
            agent=running.agent.name,
            status=status,
            code=None if failure is None else failure.code,
            pieces=answer.pieces,
            chars=len(answer.content),
            duration_ms=running.milliseconds,
            **answer.usage,
        )
        return True, following

    def _show_end(self, log: ThreadLog, done: Event, checkpoint: Checkpoint) -> None:
        log.running = None
        log.turns_started += 1
        log.append(done)
        self._logs.settled(log, checkpoint)

    async def _has_ended(self, running: RunningTurn, status: Ending) -> bool:
        """Whether the store has this very end of the turn."""
        found = await self._store.turn(None, running.turn_id)
        if found is None:
            return False
        thread, turn = found
        return (turn.status, turn.attempt, thread.epoch) == (status, running.turn.attempt, running.log.epoch)

    async def _running_now(self, thread_key: int) -> Turn | None:
        turns = await self._store.open_turns(thread_key)
        return turns[0] if turns and turns[0].status == "running" else None

    async def cancel_running(self, thread_key: int, turn_id: str | None) -> None:
        """As in `Runner`."""
        for turn in await self._store.open_turns(thread_key):
            if turn.status == "running" and turn_id in (None, turn.turn_id):
                self.stop(turn.turn_id)

    def stop(self, turn_id: str) -> None:
        """Stop a turn that runs here, or is about to."""
        if (running := self._by_turn.get(turn_id)) is not None:
            running.stop("cancelled")
        else:
            self._stopped_early.add(turn_id)

    def forget(self, turn_id: str) -> None:
        """The turn will not start here any more."""
        self._stopped_early.discard(turn_id)

    async def forget_thread(self, thread_key: int) -> None:
        """As in `Runner`: nothing is kept."""

    async def steer_elsewhere(self, new: NewTurn) -> Accepted | None:
        """As in `Runner`: there is no elsewhere."""
        return None

    async def end_of(self, thread_key: int) -> None:
        """As in `Runner`."""
        if (running := self._by_thread.get(thread_key)) is not None:
            await running.ended.wait()

    async def show_cancelled(self, thread_key: int) -> None:
        """As in `Runner`."""
        async with self._logs.held(thread_key) as log, log.flushing:  # no other turn starts or ends meanwhile
            unshown = await self._store.unshown(thread_key)
            if log.running is None:
                # Nothing would bump the epoch after a crash: these must be durable before they are shown.
                events = self.cancelled_events(log, unshown)
                checkpoint = self._logs.pending(log, events, shown=[turn.turn_id for turn in unshown])
                await self._store.checkpoint([checkpoint])
                log.append_all(events)
                self._logs.settled(log, checkpoint)
                self.count_cancelled(unshown)
            else:
                self._show_cancelled(log, unshown)
        await self._notices.changed(log.user_id, log.thread_id)

    def _show_cancelled(self, log: ThreadLog, unshown: Sequence[Turn]) -> None:
        turns = [turn for turn in unshown if turn.turn_id not in log.shown]
        if turns:
            log.append_all(self.cancelled_events(log, turns))
            log.shown.update(dict.fromkeys(turn.turn_id for turn in turns))
            self._logs.touch(log)
            self.count_cancelled(turns)

    def cancelled_events(self, log: ThreadLog, turns: Sequence[Turn]) -> list[Event]:
        """What tells of turns that were cancelled before they started, as it would be appended now."""
        events: list[Event] = []
        for turn in turns:
            never_run = RunningTurn(turn, log, self._agents.of(turn.agent), self._frame_bytes)
            for event in (never_run.user_message(turn), never_run.done("cancelled", None)):
                cursor = Position(log.epoch, log.head + len(events) + 1).cursor
                events.append(msgspec.structs.replace(event, cursor=cursor))
        return events

    def count_cancelled(self, turns: Sequence[Turn]) -> None:
        """Once it is in the log that these turns were cancelled before they started."""
        for turn in turns:
            self._metrics.turn_ended(turn.agent, "cancelled", None)
            _log.info("turn_done", turn_id=turn.turn_id, agent=turn.agent, status="cancelled", pieces=0)

    async def recover(self) -> None:
        """End what ran when an earlier process died, show what it had cancelled, and go on with what waited."""
        for thread, turn in await self._store.running():
            following = await self.interrupt(thread, turn)
            if following is not None:
                await self.start(following)
        for key in await self._store.with_unshown():
            await self.show_cancelled(key)
        for thread in await self._store.waiting():
            following = await self._store.start_next(thread.key, now())
            if following is not None:
                await self.start(following)

    async def interrupt(self, thread: Thread, turn: Turn) -> Turn | None:
        """End a turn whose process has died, with what is known of its answer; once in the store, under a new epoch.

        Does nothing if it has ended meanwhile. Returns the turn that runs next.
        """
        events = await self._logs.known(thread, turn)
        log = log_of(thread)  # apart from what followers see: it counts only once the store has it
        running = RunningTurn(turn, log, self._agents.of(turn.agent), self._frame_bytes)
        running.answer.restore([event for event in events if event.turn_id == turn.turn_id])
        log.epoch = epoch = max(thread.epoch + 1, new_epoch())
        self._approvals.cancel_recovered(running)
        if turn.cancel_asked:
            _, following = await self._finish(running, "cancelled", None, epoch)
        else:
            _, following = await self._finish(running, "interrupted", INTERRUPTED, epoch)
        return following

    async def drain(self, seconds: float) -> None:
        """Start nothing more; let running turns end within `seconds`, then mark the rest `interrupted`."""
        self.draining = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        for running in list(self._by_turn.values()):
            running.stop("interrupted")
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=2 * CLOSING_SECONDS)

    async def __aenter__(self) -> Self:
        if self.start_following is None:
            await self.recover()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)
        unfinished = self._tasks | self._streams.left_behind
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=CLOSING_SECONDS)
