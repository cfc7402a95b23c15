"""One turn that runs: everything that belongs to it while it does."""

from __future__ import annotations

import asyncio
import time
from typing import Literal, TypeAlias

from gateway.agents import Agent
from gateway.answer import Answer
from gateway.deadlines import Deadlines
from gateway.eventlog.log import ThreadLog
from gateway.store.records import Turn
from gateway.view import TurnView

StopReason: TypeAlias = Literal["cancelled", "interrupted", "timeout"]


class RunningTurn:
    """Owned by the engine's task that runs it; others read it, and may `stop` it."""

    __slots__ = (
        "_task",
        "agent",
        "answer",
        "deadlines",
        "ended",
        "finishing",
        "log",
        "spoken",
        "started",
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
        self.stopped_by: StopReason | None = None
        """Why it was told to stop; from then on nothing of the provider is logged."""
        self.stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once `stopped_by` is set, for whoever waits for the provider."""
        self.finishing = False
        """Whether its end is being made durable: nothing more is asked of people."""
        self.ended = asyncio.Event()
        """Set when the turn's `done` is in the log, or never will be."""
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
