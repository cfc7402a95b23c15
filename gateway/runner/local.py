"""Turns that run in this process.

    start → provider.stream → Answer → log …… → store.finish → done

One task runs a turn from its start to its end, and then starts the next one that waits in the thread.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import msgspec
import structlog

from gateway.agents import Agents
from gateway.approvals import Approvals
from gateway.attachments import Attachments
from gateway.clock import now
from gateway.deadlines import CLOSING_SECONDS
from gateway.errors import StoreUnavailable
from gateway.eventlog.local import LocalEventLog, decode_events
from gateway.eventlog.position import Position, new_epoch
from gateway.metrics import Metrics
from gateway.notices import Notices
from gateway.protocol import Event
from gateway.pushing import Pushing
from gateway.runner.running import RunningTurn
from gateway.runner.stream import ProviderStreams
from gateway.runner.verdict import INTERRUPTED, Ending, Failure, verdict
from gateway.store.base import Store
from gateway.store.records import Outcome, Thread, Turn

STORE_RETRY_SECONDS = 0.5
"""Between two tries to store what must be stored."""
RECOVERY_SEGMENTS = 32

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
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_thread: dict[int, RunningTurn] = {}
        self._by_turn: dict[str, RunningTurn] = {}
        self._stopped_early: set[str] = set()
        """Turns that were cancelled between becoming the running one in the store and starting here."""
        self.draining = False
        """Whether no queued turn is started any more."""

    @property
    def count(self) -> int:
        """Turns that run."""
        return len(self._by_turn)

    @property
    def stuck(self) -> int:
        """Providers that did not end when they were stopped."""
        return len(self._streams.left_behind)

    def turn(self, turn_id: str) -> RunningTurn | None:
        """The turn, if it runs here."""
        return self._by_turn.get(turn_id)

    def in_thread(self, thread_key: int) -> RunningTurn | None:
        """The turn that runs in the thread."""
        return self._by_thread.get(thread_key)

    async def start(self, turn: Turn) -> None:
        """Run a turn that the store holds as running: from here on it must not be given up."""
        while True:
            try:
                log = await self._logs.hold(turn.thread_key)
                break
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_SECONDS)
        running = RunningTurn(turn, log, self._agents.of(turn.agent), self._frame_bytes)
        before = self._by_thread.get(log.key)
        self._by_thread[log.key] = self._by_turn[turn.turn_id] = running
        if turn.turn_id in self._stopped_early:
            self._stopped_early.discard(turn.turn_id)
            running.stop("cancelled")
        self._keep(self._run(running, before), f"turn {turn.turn_id}")

    def _keep(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("turn_task_failed", task=task.get_name(), exc_info=error)

    async def _run(self, running: RunningTurn, before: RunningTurn | None) -> None:
        log = running.log
        try:
            if before is not None:
                await before.ended.wait()
            async with log.flushing:  # nothing that is made durable before it is shown is on its way
                log.running = running
                log.turns_started += 1
                running.log_user_message(running.turn)
                self._logs.touch(log)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._notices.changed(log.user_id, log.thread_id))
                error = await self._streams.run(running)
            following = await self._finish(running, *verdict(running, error))
            if following is not None:
                await self.start(following)  # while the log is still held, so that nothing must be loaded
        finally:
            if log.running is running:
                log.running = None
                log.turns_started += 1
            running.ended.set()
            del self._by_turn[running.turn_id]
            if self._by_thread.get(log.key) is running:
                del self._by_thread[log.key]
            self._logs.release(log)
        await self._notices.changed(log.user_id, log.thread_id)

    async def _finish(
        self, running: RunningTurn, status: Ending, failure: Failure | None, epoch: int | None = None
    ) -> Turn | None:
        """Make the end of the turn durable, then show it. Returns the turn that runs next."""
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
                    start_next=not self.draining,
                )
                try:
                    try:
                        following = await self._store.finish(outcome)
                    except LookupError:
                        # The first try may have been committed, and only the answer lost.
                        if unanswered != log.head or not await self._has_ended(running, status):
                            _log.info("turn_gone", turn_id=running.turn_id)
                            return None
                        following = await self._running_now(log.key)
                except StoreUnavailable:
                    unanswered = log.head
                    _log.error("turn_end_not_stored", turn_id=running.turn_id, attempt=attempt)
                else:
                    log.running = None
                    log.turns_started += 1
                    log.append(done)
                    self._logs.settled(log, checkpoint)
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
        return following

    async def _has_ended(self, running: RunningTurn, status: Ending) -> bool:
        found = await self._store.turn(running.log.user_id, running.turn_id)
        return found is not None and found[1].status == status

    async def _running_now(self, thread_key: int) -> Turn | None:
        turns = await self._store.open_turns(thread_key)
        return turns[0] if turns and turns[0].status == "running" else None

    async def cancel_running(self, thread_key: int, turn_id: str | None) -> None:
        """Stop the thread's running turn (if it is that one), also when it runs in the store but not yet here."""
        for turn in await self._store.open_turns(thread_key):
            if turn.status == "running" and turn_id in (None, turn.turn_id):
                if (running := self._by_turn.get(turn.turn_id)) is not None:
                    running.stop("cancelled")
                else:
                    self._stopped_early.add(turn.turn_id)

    async def show_cancelled(self, thread_key: int, turns: list[Turn]) -> None:
        """Log the message and the end of turns that were cancelled before they started."""
        async with self._logs.held(thread_key) as log, log.flushing:  # no other turn starts or ends meanwhile
            events: list[Event] = []
            for turn in turns:
                never_run = RunningTurn(turn, log, self._agents.of(turn.agent), self._frame_bytes)
                for event in (never_run.user_message(turn), never_run.done("cancelled", None)):
                    cursor = Position(log.epoch, log.head + len(events) + 1).cursor
                    events.append(msgspec.structs.replace(event, cursor=cursor))
                self._metrics.turn_ended(turn.agent, "cancelled", None)
                _log.info("turn_done", turn_id=turn.turn_id, agent=turn.agent, status="cancelled", pieces=0)
            shown = [turn.turn_id for turn in turns]
            if log.running is None:
                # Nothing would bump the epoch after a crash: these must be durable before they are shown.
                checkpoint = self._logs.pending(log, events, shown)
                await self._store.checkpoint([checkpoint])
                log.append_all(events)
                self._logs.settled(log, checkpoint)
            else:
                log.append_all(events)
                log.shown += shown
                self._logs.touch(log)
        await self._notices.changed(log.user_id, log.thread_id)

    async def recover(self) -> None:
        """End what ran when an earlier process died, show what it had cancelled, and go on with what waited."""
        for thread, turn in await self._store.running():
            await self._interrupt(thread, turn)
        for key in await self._store.with_unshown():
            await self.show_cancelled(key, await self._store.unshown(key))
        for thread in await self._store.waiting():
            following = await self._store.start_next(thread.key, now())
            if following is not None:
                await self.start(following)

    async def _interrupt(self, thread: Thread, turn: Turn) -> None:
        async with self._logs.held(thread.key) as log:
            running = RunningTurn(turn, log, self._agents.of(turn.agent), self._frame_bytes)
            after = turn.start or 0
            while segments := await self._store.segments(thread.key, after, RECOVERY_SEGMENTS):
                running.answer.restore([e for s in segments for e in decode_events(s) if e.turn_id == turn.turn_id])
                after = segments[-1].last
            log.epoch = epoch = max(thread.epoch + 1, new_epoch())
            self._approvals.cancel_recovered(running)
            following = await self._finish(running, "interrupted", INTERRUPTED, epoch)
        if following is not None:
            await self.start(following)

    async def drain(self, seconds: float) -> None:
        """Start nothing more; let running turns end within `seconds`, then mark the rest `interrupted`."""
        self.draining = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        for running in list(self._by_turn.values()):
            running.stop("interrupted")
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=2 * CLOSING_SECONDS)

    async def __aenter__(self) -> LocalRunner:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)
        unfinished = self._tasks | self._streams.left_behind
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=CLOSING_SECONDS)
