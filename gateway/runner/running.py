"""One turn that runs: everything that belongs to it while it does."""

from __future__ import annotations

import asyncio
import time
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET

from gateway import protocol
from gateway.agents import Agent
from gateway.answer import Answer
from gateway.clock import timestamp
from gateway.deadlines import Deadlines
from gateway.eventlog.log import ThreadLog
from gateway.runner.steering import Steering
from gateway.runner.verdict import Ending, Failure
from gateway.store.records import Turn
from gateway.view import TurnView

StopReason: TypeAlias = Literal["cancelled", "interrupted", "timeout"]


class RunningTurn:
    """Owned by the runner's task that runs it; others read it, and may `stop` it."""

    __slots__ = (
        "_frame_bytes",
        "_task",
        "agent",
        "answer",
        "deadlines",
        "ended",
        "finishing",
        "log",
        "spoken",
        "started",
        "steering",
        "stopped",
        "stopped_by",
        "turn",
    )

    def __init__(self, turn: Turn, log: ThreadLog, agent: Agent, frame_bytes: int) -> None:
        self.turn = turn
        self.log = log
        self.agent = agent
        self.answer = Answer(log, turn.turn_id, frame_bytes)
        self.deadlines = Deadlines(agent.limits, time.monotonic)
        self.started = time.monotonic()
        self.spoken = False
        """Whether its first text was logged."""
        self.steering = Steering()
        self.stopped_by: StopReason | None = None
        """Why it was told to stop; from then on nothing of the provider is logged."""
        self.stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once `stopped_by` is set, for whoever waits for the provider."""
        self.finishing = False
        """Its `done` is on its way: nothing may be logged any more."""
        self.ended = asyncio.Event()
        """Set when the turn's `done` is in the log, or never will be."""
        self._frame_bytes = frame_bytes
        self._task: asyncio.Task[None] | None = None

    @property
    def turn_id(self) -> str:
        return self.turn.turn_id

    @property
    def start(self) -> int:
        return self.turn.start or 0

    @property
    def view(self) -> TurnView:
        return self.answer.view

    @property
    def milliseconds(self) -> int:
        """Since its start."""
        return round((time.monotonic() - self.started) * 1000)

    def streams_in(self, task: asyncio.Task[None]) -> None:
        """`task` is the one that owns the provider's generator."""
        self._task = task
        if self.stopped_by is not None:
            task.cancel()

    def stop(self, reason: StopReason) -> None:
        """End the turn by cancelling the task that owns the provider's generator. The first reason counts."""
        if self.stopped_by is None:
            self.stopped_by = reason
            self.stopped.set_result(None)
            if self._task is not None:
                self._task.cancel()

    def log_user_message(self, turn: Turn) -> None:
        """Show the message of `turn`: this turn's own, or as it stands in a message handed to it."""
        self.log.append(self.user_message(turn))

    def user_message(self, turn: Turn) -> protocol.UserMessage:
        """The event that shows the message of `turn`, as it would be appended now."""
        message = protocol.UserMessage(
            timestamp=timestamp(),
            thread_id=self.log.thread_id,
            turn_id=self.turn_id,
            cursor=self.log.next_cursor(),
            message_id=turn.message_id,
            id=turn.client_id,
            content=turn.content,
            attachments=protocol.shown_attachments(turn.attachments),
        )
        return protocol.fitted(message, self._frame_bytes)

    def done(self, status: Ending, failure: Failure | None) -> protocol.Done:
        """The turn's last event, as it would be appended now."""
        answer, completed = self.answer, self.answer.completed
        done = protocol.Done(
            timestamp=timestamp(),
            thread_id=self.log.thread_id,
            turn_id=self.turn_id,
            cursor=self.log.next_cursor(),
            status=status,
            message_id=self.turn.answer_id,
            content=answer.content,
            stop_reason=completed.stop_reason if completed is not None and status == "completed" else None,
            usage=answer.usage,
            duration_ms=self.milliseconds,
            error=UNSET if failure is None else msgspec.to_builtins(failure),
        )
        return protocol.fitted(done, self._frame_bytes)
