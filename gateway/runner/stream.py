"""One provider stream, from its opening to its end: the deadlines, the retries, and the one task that owns it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

import structlog

from gateway.approvals import Approvals
from gateway.attachments import Attachments
from gateway.deadlines import CLOSING_SECONDS
from gateway.eventlog.local import LocalEventLog
from gateway.metrics import Metrics
from gateway.runner.running import RunningTurn
from gateway.store.base import Store, once_it_answers
from providers import ApprovalRequest, Decision, Message, Provider, ProviderError
from providers import Turn as ProviderTurn

RETRIES = 2
"""Repeated calls of one turn, and only of a call that the upstream refused before the first byte."""
RETRY_BUDGET_SECONDS = 30.0
"""All waiting between the calls of one turn. An upstream that asks for more fails the turn, with its retry_after."""
BREATH = 32
"""Events of one provider after which others get a turn on the loop, even if it never waits."""
HISTORY_MESSAGES = 1000
"""The newest messages of a thread that a provider gets."""

_log = structlog.get_logger(__name__)


class ProviderStreams:
    """Runs the providers' generators, each in a task of its own.

    So a generator that swallows its cancellation can be left behind without its turn waiting for it.
    """

    def __init__(
        self, store: Store, attachments: Attachments, logs: LocalEventLog, approvals: Approvals, metrics: Metrics
    ) -> None:
        self._store = store
        self._attachments = attachments
        self._logs = logs
        self._approvals = approvals
        self._metrics = metrics
        self.left_behind: set[asyncio.Task[None]] = set()
        """Tasks of turns that have ended, which do not end."""

    async def run(self, running: RunningTurn) -> BaseException | None:
        """Log what the provider yields until it ends, is stopped, or a deadline passes. Returns what it raised."""
        task = asyncio.get_running_loop().create_task(self._consume(running), name=_task_name(running))
        running.streams_in(task)
        try:
            while not task.done() and running.stopped_by is None:
                left = running.deadlines.left()
                if left <= 0:
                    running.stop("timeout")
                else:
                    await asyncio.wait({task, running.stopped}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=CLOSING_SECONDS)
        finally:
            if not task.done():
                self._leave_behind(running, task)
        return task.exception() if task.done() and not task.cancelled() else None

    def _leave_behind(self, running: RunningTurn, task: asyncio.Task[None]) -> None:
        running.stop("timeout")
        task.cancel()
        self.left_behind.add(task)
        task.add_done_callback(self.left_behind.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        _log.error("provider_stuck", turn_id=running.turn_id, agent=running.agent.name)

    async def _consume(self, running: RunningTurn) -> None:
        provider, turn = running.agent.ready(), await self._asked(running)
        waited = 0.0
        for attempt in range(RETRIES + 1):
            try:
                _log.info("provider_opened", turn_id=running.turn_id, agent=running.agent.name, attempt=attempt + 1)
                await self._iterate(running, provider, turn)
                return
            except (SystemExit, KeyboardInterrupt):  # asyncio would end the whole server with it
                raise ProviderError("provider_fault", "The agent's provider tried to end the server.") from None
            except ProviderError as error:
                backoff = 0.5 * 2**attempt * random.uniform(1, 1.5)  # noqa: S311 - jitter guards nothing
                pause = backoff if error.retry_after is None else max(error.retry_after, 0.0)
                waited += pause
                if not error.refused or running.answer.begun or attempt == RETRIES or waited > RETRY_BUDGET_SECONDS:
                    raise
                self._metrics.provider_failed(running.agent.name, error.code)
                _log.info("provider_refused", turn_id=running.turn_id, code=error.code, retry_in_seconds=pause)
            running.deadlines.pause()  # the upstream was not asked to speak
            try:
                await asyncio.sleep(pause)
            finally:
                running.deadlines.resume()

    async def _iterate(self, running: RunningTurn, provider: Provider, turn: ProviderTurn) -> None:
        answer, deadlines = running.answer, running.deadlines
        touch_log, log = self._logs.touch, running.log
        pace = self._metrics.pace(running.agent.name, running.started)
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
                pace.logged(answer.pieces)
                count += 1
                if answer.pieces and not running.spoken:
                    running.spoken = True
                    _log.info(
                        "first_token",
                        turn_id=running.turn_id,
                        agent=running.agent.name,
                        after_ms=running.milliseconds,
                    )
                if answer.completed is not None:
                    deadlines.closing()
                elif count % BREATH == 0:
                    await asyncio.sleep(0)
        if answer.completed is None and running.stopped_by is None:
            raise ProviderError("incomplete", "The agent's answer ended before it was complete.", retryable=True)

    async def _asked(self, running: RunningTurn) -> ProviderTurn:
        """What the provider is given, once the store can tell: till then nobody was asked anything."""
        running.deadlines.pause()
        try:
            return await once_it_answers(lambda: self._turn(running))
        finally:
            running.deadlines.resume()

    async def _turn(self, running: RunningTurn) -> ProviderTurn:
        log, turn = running.log, running.turn
        thread = await self._store.thread_by_key(log.key)
        stored = await self._store.messages(log.key, limit=HISTORY_MESSAGES)
        takes_files = "attachments" in running.agent.capabilities

        def told(role: Literal["user", "assistant"], content: str, attached: Sequence[Any]) -> Message:
            files = self._attachments.for_provider(log.user_id, attached) if takes_files else ()
            return Message(role, content, files)

        history = [
            told(m.role, m.content, m.attachments) for m in stored if m.turn_id != turn.turn_id and not m.retried
        ]

        async def approve(request: ApprovalRequest) -> Decision:
            return await self._approvals.ask(running, request)

        return ProviderTurn(
            thread_id=log.thread_id,
            turn_id=turn.turn_id,
            user_id=log.user_id,
            messages=[*history, told("user", turn.content, turn.attachments)],
            session=log.session if log.session is not None else thread.session if thread is not None else None,
            options=running.agent.options,
            connect_seconds=running.agent.limits.connect_seconds,
            approve=approve,
            steering=running.steering,
        )


def _task_name(running: RunningTurn) -> str:
    return f"provider of agent {running.agent.name}, turn {running.turn_id}"
