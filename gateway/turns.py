"""The turn engine: from a user's message to the one terminal state of its turn.

    submit → store.accept → run: provider.stream → Answer → log …… → store.finish → done

One task runs a turn from its start to its end. It owns a second one that owns the provider's generator, so that a
generator that swallows its cancellation can be left behind without the turn waiting for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
import structlog
from msgspec import UNSET

from gateway import protocol
from gateway.agents import Agents
from gateway.approvals import Approvals
from gateway.clock import now, timestamp
from gateway.deadlines import CLOSING_SECONDS
from gateway.errors import Draining, GatewayError, NotFound, NotRetryable, StoreUnavailable
from gateway.eventlog.local import LocalEventLog, decode_events
from gateway.ids import new_id
from gateway.notices import Notices
from gateway.protocol import MessageBody
from gateway.running import RunningTurn
from gateway.settings import Settings
from gateway.store.base import Store
from gateway.store.records import Accepted, NewTurn, Outcome, Thread, Turn
from providers import Decision, Message, Provider, ProviderError
from providers import Turn as ProviderTurn

RETRIES = 2
"""Repeated calls of one turn, and only of a call that the upstream refused before the first byte."""
RETRY_BUDGET_SECONDS = 30.0
"""All waiting between the calls of one turn. An upstream that asks for more fails the turn, with its retry_after."""
BREATH = 32
"""Events of one provider after which others get a turn on the loop, even if it never waits."""
HISTORY_MESSAGES = 1000
"""The newest messages of a thread that a provider gets."""
TITLE_CHARS = 80
EXPIRED = {
    "first_event": "The agent did not begin to answer in time.",
    "idle": "The agent fell silent in the middle of its answer.",
    "total": "The answer took longer than a turn may take.",
}

Result = TypeVar("Result")
Ending: TypeAlias = Literal["completed", "cancelled", "failed", "interrupted"]

_log = structlog.get_logger(__name__)


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a turn did not complete, as `done.error` shows it."""

    code: str
    message: str
    retryable: bool
    retry_after: float | None = None


INTERRUPTED = Failure(
    "interrupted", "The server stopped while the agent was answering. What it had said is kept.", True
)


class TurnEngine:
    """Runs turns in this process. `async with` it: leaving waits for nothing and stops what still runs."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        logs: LocalEventLog,
        agents: Agents,
        approvals: Approvals,
        notices: Notices,
    ) -> None:
        self._settings = settings
        self._store = store
        self._logs = logs
        self._agents = agents
        self._approvals = approvals
        self._notices = notices
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_thread: dict[int, RunningTurn] = {}
        self._by_turn: dict[str, RunningTurn] = {}
        self._changes: set[asyncio.Task[Any]] = set()
        self._stopped_early: set[str] = set()
        """Turns that were cancelled between becoming the running one in the store and starting here."""
        self._left_behind: set[asyncio.Task[None]] = set()
        self.draining = False

    @property
    def count(self) -> int:
        """Turns that run."""
        return len(self._by_turn)

    def running(self, turn_id: str) -> RunningTurn | None:
        """The turn, if it runs here."""
        return self._by_turn.get(turn_id)

    # --- what clients ask for ---

    async def submit(
        self,
        user_id: str,
        agent_name: str,
        message: MessageBody,
        *,
        retry_of: str | None = None,
    ) -> Accepted:
        """Commit the message, and start its turn or queue it. A repeated `id` starts nothing.

        Raises:
            GatewayError: nothing was stored.
        """
        agent = self._agents.get(agent_name)
        agent.ready()
        if self.draining:
            raise Draining("this server is about to stop: send the message again to another one", retry_after=1.0)
        at = now()
        return await self._uninterrupted(
            self._accept(
                NewTurn(
                    user_id=user_id,
                    agent=agent_name,
                    thread_id=message.thread_id or new_id("t"),
                    thread_chosen_by_client=message.thread_id is not None,
                    client_id=message.id,
                    turn_id=new_id("u"),
                    message_id=new_id("m"),
                    answer_id=new_id("m"),
                    content=message.content,
                    attachments=tuple(message.attachments),
                    retry_of=retry_of,
                    epoch=at,
                    title=title_of(message.content),
                    queue_limit=0 if message.when_busy == "reject" else self._settings.limits.queue,
                    at=at,
                )
            )
        )

    async def _accept(self, new: NewTurn) -> Accepted:
        accepted = await self._store.accept(new)
        if not accepted.duplicate:
            turn = accepted.turn
            _log.info(
                "turn_accepted",
                turn_id=turn.turn_id,
                thread_id=accepted.thread.thread_id,
                user_id=new.user_id,
                agent=new.agent,
                queued=accepted.queued,
                chars=len(turn.content),
            )
            if turn.status == "running":
                await self._start(turn)
        return accepted

    async def retry(self, user_id: str, turn_id: str) -> Accepted:
        """Start a new turn with the message of one that did not complete.

        Raises:
            NotRetryable: it has not ended, or it completed.
        """
        thread, turn = await self._find(user_id, turn_id)
        if turn.status not in ("failed", "interrupted", "cancelled"):
            raise NotRetryable(f"the turn is {turn.status}: only one that failed or was stopped can be tried again")
        body = MessageBody(content=turn.content, thread_id=thread.thread_id)
        return await self.submit(user_id, thread.agent, body, retry_of=turn_id)

    async def cancel_turn(self, user_id: str, turn_id: str) -> None:
        """Stop a turn, running or queued. One that has ended stays as it is. Raises `NotFound`."""
        thread, _ = await self._find(user_id, turn_id)
        await self._uninterrupted(self._cancel_queued(thread.key, turn_id))
        await self._stop_running(thread.key, turn_id)

    async def cancel_thread(self, user_id: str, thread_id: str) -> None:
        """Stop the running turn of a thread and every queued one. Raises `NotFound`."""
        thread = await self._store.thread(user_id, thread_id)
        if thread is None:
            raise NotFound("there is no such thread", field="thread_id")
        await self._uninterrupted(self._cancel_queued(thread.key, None))
        await self._stop_running(thread.key, None)

    async def _stop_running(self, thread_key: int, turn_id: str | None) -> None:
        """Stop the thread's running turn (if it is that one), also when it runs in the store but not yet here."""
        for turn in await self._store.open_turns(thread_key):
            if turn.status == "running" and turn_id in (None, turn.turn_id):
                if (running := self._by_turn.get(turn.turn_id)) is not None:
                    running.stop("cancelled")
                else:
                    self._stopped_early.add(turn.turn_id)

    async def delete_thread(self, user_id: str, thread_id: str) -> None:
        """Stop whatever runs in a thread, and delete it with all that belongs to it. Raises `NotFound`."""
        await self.cancel_thread(user_id, thread_id)
        thread = await self._store.thread(user_id, thread_id)
        if thread is not None and (running := self._by_thread.get(thread.key)) is not None:
            await running.ended.wait()
        if not await self._store.delete(user_id, thread_id):
            raise NotFound("there is no such thread", field="thread_id")
        if thread is not None:
            self._notices.deleted(thread)

    async def _uninterrupted(self, change: Coroutine[Any, Any, Result]) -> Result:
        """Await a change that must not stop half-way when the client that asked for it goes away."""
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _find(self, user_id: str, turn_id: str) -> tuple[Thread, Turn]:
        found = await self._store.turn(user_id, turn_id)
        if found is None:
            raise NotFound("there is no such turn", field="turn_id")
        return found

    async def _cancel_queued(self, thread_key: int, turn_id: str | None) -> None:
        cancelled = await self._store.cancel_queued(thread_key, turn_id, now())
        if not cancelled:
            return
        async with self._logs.held(thread_key) as log:
            for turn in cancelled:
                stopped = RunningTurn(turn, log, self._agents.of(turn.agent), self._settings.limits.server_frame_bytes)
                self._log_user_message(stopped)
                log.append(self._done(stopped, "cancelled", None, 0))
                _log.info("turn_done", turn_id=turn.turn_id, status="cancelled", pieces=0)
            self._logs.touch(log)
        await self._notices.changed(log.user_id, log.thread_id)

    # --- the life of a turn ---

    async def _start(self, turn: Turn) -> None:
        log = await self._logs.hold(turn.thread_key)
        running = RunningTurn(turn, log, self._agents.of(turn.agent), self._settings.limits.server_frame_bytes)
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
            log.running = running
            log.turns_started += 1
            self._log_user_message(running)
            error = await self._stream(running)
            following = await self._finish(running, *self._verdict(running, error))
            if following is not None:
                await self._start(following)  # while the log is still held, so that nothing must be loaded
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

    async def _stream(self, running: RunningTurn) -> BaseException | None:
        """Run the provider until it ends, is stopped, or a deadline passes. Returns what it raised."""
        task = asyncio.get_running_loop().create_task(self._consume(running), name=f"provider {running.turn_id}")
        running.streams_in(task)
        try:
            await self._notices.changed(running.log.user_id, running.log.thread_id)
            while not task.done():
                left = running.deadlines.left()
                if left <= 0 and running.stopped_by is None:
                    running.stop("timeout")
                if running.stopped_by is not None:
                    await asyncio.wait({task}, timeout=CLOSING_SECONDS)
                    break
                await asyncio.wait({task, running.stopped}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                self._leave_behind(running, task)
        return task.exception() if task.done() and not task.cancelled() else None

    def _leave_behind(self, running: RunningTurn, task: asyncio.Task[None]) -> None:
        running.stop("timeout")
        task.cancel()
        self._left_behind.add(task)
        task.add_done_callback(self._left_behind.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        _log.error("provider_stuck", turn_id=running.turn_id, agent=running.agent.name)

    async def _consume(self, running: RunningTurn) -> None:
        provider, turn = running.agent.ready(), await self._provider_turn(running)
        waited = 0.0
        for attempt in range(RETRIES + 1):
            try:
                _log.info("provider_opened", turn_id=running.turn_id, agent=running.agent.name, attempt=attempt + 1)
                await self._iterate(running, provider, turn)
                return
            except SystemExit:  # asyncio would end the whole server with it
                raise ProviderError("provider_fault", "The agent's provider tried to end the server.") from None
            except ProviderError as error:
                backoff = 0.5 * 2**attempt * random.uniform(1, 1.5)  # noqa: S311 - jitter guards nothing
                pause = backoff if error.retry_after is None else error.retry_after
                waited += pause
                if not error.refused or running.answer.begun or attempt == RETRIES or waited > RETRY_BUDGET_SECONDS:
                    raise
                _log.info("provider_refused", turn_id=running.turn_id, code=error.code, retry_in_seconds=pause)
            await asyncio.sleep(pause)

    async def _iterate(self, running: RunningTurn, provider: Provider, turn: ProviderTurn) -> None:
        answer, deadlines = running.answer, running.deadlines
        touch_log, log = self._logs.touch, running.log
        count = 0
        stream: object = provider.stream(turn)  # a plug-in may give anything
        if not isinstance(stream, AsyncGenerator):
            if inspect.iscoroutine(stream):
                stream.close()
            raise ProviderError("provider_fault", "The agent's provider gave no async generator.")
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                if running.stopped_by is not None:
                    break
                deadlines.touch()
                answer.apply(event)
                touch_log(log)
                count += 1
                if answer.pieces and not running.spoken:
                    self._first_token(running)
                if answer.completed is not None:
                    deadlines.closing()
                elif count % BREATH == 0:
                    await asyncio.sleep(0)
        if answer.completed is None and running.stopped_by is None:
            raise ProviderError("incomplete", "The agent's answer ended before it was complete.", retryable=True)

    async def _provider_turn(self, running: RunningTurn) -> ProviderTurn:
        log, turn = running.log, running.turn
        thread = await self._store.thread_by_key(log.key)
        stored = await self._store.messages(log.key, limit=HISTORY_MESSAGES)
        history = [Message(m.role, m.content) for m in stored if m.turn_id != turn.turn_id and not m.retried]

        async def approve(request: Any) -> Decision:
            return await self._approvals.ask(running, request)

        return ProviderTurn(
            thread_id=log.thread_id,
            turn_id=turn.turn_id,
            user_id=log.user_id,
            messages=[*history, Message("user", turn.content)],
            session=log.session or (thread.session if thread is not None else None),
            options=running.agent.options,
            connect_seconds=running.agent.limits.connect_seconds,
            approve=approve,
        )

    def _first_token(self, running: RunningTurn) -> None:
        running.spoken = True
        milliseconds = round((time.monotonic() - running.started) * 1000)
        _log.info("first_token", turn_id=running.turn_id, agent=running.agent.name, after_ms=milliseconds)

    def _verdict(self, running: RunningTurn, error: BaseException | None) -> tuple[Ending, Failure | None]:
        """The terminal state, and the error that goes with it."""
        if running.answer.completed is not None and error is None and running.stopped_by != "timeout":
            return "completed", None
        if running.stopped_by == "timeout":
            phase = running.deadlines.expired()
            message = EXPIRED.get(phase or "", "The agent did not end its answer properly.")
            code = "timeout" if phase in EXPIRED else "provider_fault"
            return "failed", Failure(code, message, True)
        if running.stopped_by == "interrupted":
            return "interrupted", INTERRUPTED
        if running.stopped_by == "cancelled":
            return "cancelled", None
        if isinstance(error, ProviderError):
            return "failed", Failure(error.code, error.message, error.retryable, error.retry_after)
        if isinstance(error, GatewayError):
            return "failed", Failure(error.code, error.message, error.retryable)
        if error is not None:
            _log.error("provider_raised", turn_id=running.turn_id, agent=running.agent.name, exc_info=error)
        return "failed", Failure("provider_fault", "The agent's provider failed unexpectedly.", True)

    async def _finish(
        self, running: RunningTurn, status: Ending, error: Failure | None, epoch: int | None = None
    ) -> Turn | None:
        """Make the end of the turn durable, then show it. Returns the turn that runs next."""
        log, answer = running.log, running.answer
        running.finishing = True
        self._approvals.cancel(running)
        answer.fail_open_calls()
        duration = round((time.monotonic() - running.started) * 1000)
        shown_error = msgspec.to_builtins(error) if error is not None else None
        following: Turn | None = None
        for attempt in range(1_000_000):
            async with log.flushing:
                done = self._done(running, status, shown_error, duration)
                checkpoint = self._logs.pending(log, done)
                try:
                    following = await self._store.finish(
                        Outcome(
                            turn_id=running.turn_id,
                            status=status,
                            content=answer.content,
                            stop_reason=done.stop_reason,
                            usage=answer.usage,
                            error=shown_error,
                            duration_ms=duration,
                            at=now(),
                            checkpoint=checkpoint,
                            epoch=epoch,
                            start_next=not self.draining,
                        )
                    )
                except StoreUnavailable:
                    _log.error("turn_end_not_stored", turn_id=running.turn_id, attempt=attempt + 1)
                except LookupError:
                    _log.info("turn_gone", turn_id=running.turn_id)
                    return None
                else:
                    log.running = None
                    log.turns_started += 1
                    log.append(done)
                    self._logs.settled(log, checkpoint)
                    break
            await asyncio.sleep(min(0.1 * 2 ** min(attempt, 6), 5.0))
        _log.info(
            "turn_done",
            turn_id=running.turn_id,
            agent=running.agent.name,
            status=status,
            code=None if error is None else error.code,
            pieces=answer.pieces,
            chars=len(answer.content),
            duration_ms=duration,
            **answer.usage,
        )
        return following

    def _log_user_message(self, running: RunningTurn) -> None:
        turn = running.turn
        running.answer.log(
            protocol.UserMessage,
            message_id=turn.message_id,
            id=turn.client_id,
            content=turn.content,
            attachments=tuple(turn.attachments),
        )
        self._logs.touch(running.log)

    def _done(self, running: RunningTurn, status: Ending, error: dict[str, Any] | None, duration: int) -> protocol.Done:
        answer, log = running.answer, running.log
        completed = answer.completed
        done = protocol.Done(
            timestamp=timestamp(),
            thread_id=log.thread_id,
            turn_id=running.turn_id,
            cursor=log.next_cursor(),
            status=status,
            message_id=running.turn.answer_id,
            content=answer.content,
            stop_reason=completed.stop_reason if completed is not None and status == "completed" else None,
            usage=answer.usage,
            duration_ms=duration,
            error=error if error is not None else UNSET,
        )
        return protocol.fitted(done, self._settings.limits.server_frame_bytes)

    # --- start and end of the process ---

    async def recover(self) -> None:
        """End what ran when an earlier process died, and go on with what waited."""
        for thread, turn in await self._store.running():
            await self._interrupt(thread, turn)
        for thread in await self._store.waiting():
            following = await self._store.start_next(thread.key, now())
            if following is not None:
                await self._start(following)

    async def _interrupt(self, thread: Thread, turn: Turn) -> None:
        async with self._logs.held(thread.key) as log:
            running = RunningTurn(turn, log, self._agents.of(turn.agent), self._settings.limits.server_frame_bytes)
            after = turn.start or 0
            while segments := await self._store.segments(thread.key, after, 32):
                running.answer.restore([e for s in segments for e in decode_events(s) if e.turn_id == turn.turn_id])
                after = segments[-1].last
            log.epoch = epoch = max(thread.epoch + 1, now())
            self._approvals.cancel_recovered(running)
            following = await self._finish(running, "interrupted", INTERRUPTED, epoch)
        if following is not None:
            await self._start(following)

    async def drain(self, seconds: float) -> None:
        """Start nothing more; let running turns end within `seconds`, then mark the rest `interrupted`."""
        self.draining = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        for running in list(self._by_turn.values()):
            running.stop("interrupted")
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=2 * CLOSING_SECONDS)

    async def __aenter__(self) -> TurnEngine:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)
        unfinished = self._tasks | self._changes | self._left_behind
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=CLOSING_SECONDS)


def title_of(content: str) -> str:
    """The title of a thread that begins with this message: its first line, shortened."""
    line = next((line.strip() for line in content.splitlines() if line.strip()), "")
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"
