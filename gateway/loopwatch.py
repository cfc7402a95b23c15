"""Noticing that the event loop is blocked, and by what.

A provider that makes a synchronous call stops every turn and every socket of the process. Nothing inside the loop can
see that while it lasts, so a thread watches it from outside.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections import deque
from types import TracebackType
from typing import NamedTuple, Self

import structlog

BEAT_SECONDS = 0.1
BLOCKED_SECONDS = 1.0
"""A loop that does not come round for this long is blocked. Our own longest callbacks take a few milliseconds."""
REMEMBERED_SECONDS = 600.0
"""How long a block is told of in health."""
FRAMES = 8

_log = structlog.get_logger(__name__)


class Block(NamedTuple):
    """One time that the loop was blocked."""

    at: float
    """`time.monotonic()` when it was noticed."""
    task: str
    """The task that ran: of a provider, it names the agent and the turn."""
    where: str
    """The innermost frame, as `file:line in function`."""


class LoopWatch:
    """`async with` it on the loop to be watched."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._stopping = threading.Event()
        self._blocks: deque[Block] = deque(maxlen=16)

    def recent(self) -> list[Block]:
        """The blocks of the last ten minutes, oldest first."""
        oldest = time.monotonic() - REMEMBERED_SECONDS
        return [block for block in self._blocks if block.at >= oldest]

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="loop watch", daemon=True
        )
        self._beats = self._loop.create_task(self._keep_beating(), name="loop beat")
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._beats.cancel()
        await asyncio.gather(self._beats, return_exceptions=True)
        self._thread.join(2 * BEAT_SECONDS)

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    def _watch(self, loop_thread: int) -> None:
        noticed, woke = 0.0, time.monotonic()
        while not self._stopping.wait(BEAT_SECONDS):
            beat, slept, woke = self._beat, woke, time.monotonic()
            if woke - slept > BLOCKED_SECONDS / 2:
                continue  # this thread did not run either: the machine was busy or asleep
            if woke - beat > BLOCKED_SECONDS and beat != noticed:
                noticed = beat
                self._notice(loop_thread, woke - beat)

    def _notice(self, loop_thread: int, blocked: float) -> None:
        frame = sys._current_frames().get(loop_thread)
        stack = traceback.extract_stack(frame)[-FRAMES:] if frame is not None else []
        frames = [f"{entry.filename}:{entry.lineno} in {entry.name}" for entry in stack]
        task = asyncio.current_task(self._loop)
        block = Block(
            time.monotonic(), "no task" if task is None else task.get_name(), frames[-1] if frames else "unknown"
        )
        self._blocks.append(block)
        _log.error("loop_blocked", task=block.task, seconds=round(blocked, 2), frames=frames)
