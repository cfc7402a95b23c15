"""Playing turns: what the rules look at."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from providers.base import DECLINED, ApprovalRequest, Decision, Message, Provider, Turn
from providers.events import Event, TextDelta
from providers.testing.report import Broken, Unanswered, described

__all__ = ["Examination", "Limits", "Recording", "Silence"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The kit's own patience, in seconds."""

    answer: float = 10.0
    """For a whole answer."""
    stop: float = 2.0
    """For a provider to stop when it is closed or cancelled."""
    blocking: float = 0.1
    """The most CPU time between two turns of the event loop. A provider that sleeps without using any shows in the
    clock alone, and is blamed after five times as long."""


@dataclass(slots=True)
class Recording:
    """One turn as it was played."""

    events: list[Any] = field(default_factory=list)
    failure: Exception | None = None
    """What the provider raised."""
    problem: str | None = None
    """Why there is no answer to look at."""
    asked: list[ApprovalRequest] = field(default_factory=list)
    """All of them were declined."""
    steered: bool = False
    """Whether the provider asked for further messages."""
    blocked: float = 0.0
    """The longest time that nothing else could run, in seconds."""
    first_text: float | None = None
    """Seconds from the start to the first piece of text."""
    seconds: float = 0.0

    @property
    def last(self) -> str:
        return type(self.events[-1]).__name__ if self.events else "none at all"

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


class Examination:
    """One provider under examination. It is running already."""

    def __init__(
        self,
        provider: Provider,
        turn: Turn,
        *,
        limits: Limits,
        repeatable: bool,
        watch: Callable[[Event], None] | None = None,
    ) -> None:
        self.provider = provider
        self.turn = turn
        self.limits = limits
        self.repeatable = repeatable
        """Whether the same turn is answered with the same text every time."""
        self.turns = 0
        """Turns played so far."""
        self._watch = watch
        self._recording: Recording | None = None
        self._left_behind: set[asyncio.Task[None]] = set()

    async def recording(self) -> Recording:
        """The turn, played once for all rules, whatever became of it."""
        if self._recording is None:
            self._recording = await self.play(self.turn, self._watch)
        return self._recording

    async def answer(self) -> Recording:
        """The recording of a turn that was answered.

        Raises:
            Unanswered: it was not.
        """
        recording = await self.recording()
        if recording.problem is not None:
            raise Unanswered(recording.problem)
        return recording

    def stream(self, turn: Turn) -> AsyncGenerator[Event]:
        """A generator that is going to be iterated."""
        self.turns += 1
        return self.provider.stream(turn)

    async def play(self, turn: Turn, watch: Callable[[Event], None] | None = None) -> Recording:
        """Play a turn to its end; approvals are declined. What goes wrong is in the recording."""
        recording = Recording()
        steering = Silence()

        async def declines(request: ApprovalRequest) -> Decision:
            recording.asked.append(request)
            return Decision(DECLINED.id)

        turn = replace(turn, approve=declines, steering=steering)
        begun = time.monotonic()

        async def consume() -> None:
            generator = self.stream(turn)
            try:
                async for event in generator:
                    if recording.first_text is None and isinstance(event, TextDelta) and event.text:
                        recording.first_text = time.monotonic() - begun
                    recording.events.append(event)
                    if watch is not None:
                        watch(event)
            finally:
                await generator.aclose()

        async with self._watched(recording):
            task = asyncio.create_task(consume(), name="turn of the conformance kit")
            try:
                await asyncio.wait({task}, timeout=self.limits.answer)
                late = not task.done()
                if late:
                    await self.stop(task)
            except asyncio.CancelledError:
                await self.stop(task)
                raise
        recording.seconds = time.monotonic() - begun
        recording.steered = steering.asked
        if late:
            recording.problem = f"there was no end within {self.limits.answer:g} s; the last event: {recording.last}"
        elif task.cancelled():
            recording.problem = "it cancelled the task that it was iterated in"
        elif isinstance(failure := task.exception(), Exception):
            recording.failure = failure
            recording.problem = f"the turn failed with {described(failure)}"
        return recording

    async def stop(self, task: asyncio.Task[None]) -> bool:
        """Cancel the task. False: it goes on regardless, and is left behind."""
        task.cancel()
        await asyncio.wait({task}, timeout=self.limits.stop)
        if task.done():
            return True
        task.cancel()
        self._left_behind.add(task)
        task.add_done_callback(self._left_behind.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return False

    async def close(self, generator: AsyncGenerator[Event]) -> None:
        """Close it as the gateway does.

        Raises:
            Broken: it does not close.
        """
        try:
            async with asyncio.timeout(self.limits.stop):
                await generator.aclose()
        except TimeoutError:
            raise Broken(f"aclose() took longer than {self.limits.stop:g} s") from None
        except RuntimeError as failure:
            raise Broken(f"aclose() failed: {failure}; the generator goes on after it was closed") from None

    @contextlib.asynccontextmanager
    async def _watched(self, recording: Recording) -> AsyncGenerator[None]:
        """Measure, while the body runs, how long nothing else could."""

        async def beat() -> None:
            while True:
                wall, used, starved = time.perf_counter(), time.thread_time(), _starved()
                await asyncio.sleep(0.001)
                used = time.thread_time() - used
                elapsed = time.perf_counter() - wall - (_starved() - starved)
                recording.blocked = max(recording.blocked, elapsed if elapsed > 5 * self.limits.blocking else used)

        watcher = asyncio.create_task(beat(), name="watch of the conformance kit")
        try:
            await asyncio.sleep(0)
            yield
            await asyncio.sleep(0.002)  # a block at the very end shows in the next beat
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


class Silence(AsyncIterator[Message]):
    """`Turn.steering` of a turn in which nobody says anything more: it waits until the turn ends."""

    def __init__(self) -> None:
        self.asked = False

    async def __anext__(self) -> Message:
        self.asked = True
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def _starved() -> float:
    """Seconds that this thread has waited for a processor so far (Linux, proc_pid_schedstat); else 0.

    A busy machine must not be blamed on the provider.
    """
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as stat:
            return int(stat.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
