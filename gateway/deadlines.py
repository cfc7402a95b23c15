"""The gateway's own deadlines for one turn. It trusts no backend to give up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

Phase: TypeAlias = Literal["first_event", "idle", "closing", "total"]

CLOSING_SECONDS = 5.0
"""How long a provider may take to end after its last event, or after it was cancelled."""


class Limits(Protocol):
    """All in seconds."""

    @property
    def first_event_seconds(self) -> float: ...

    @property
    def idle_seconds(self) -> float: ...

    @property
    def total_seconds(self) -> float: ...


class Deadlines:
    """When a turn has waited too long, and for what.

    Touched once per event, which only notes the time: no timer is set on the way of a piece of text. The one
    who waits asks `left()` for the length of its next wait.
    """

    __slots__ = ("_clock", "_limits", "_paused", "_shortest", "_started", "_touched", "phase")

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._started = self._touched = clock()
        self._paused = 0
        self._shortest = min(limits.first_event_seconds, limits.idle_seconds, CLOSING_SECONDS)
        self.phase: Phase = "first_event"

    def touch(self) -> None:
        """The provider has shown life."""
        self._touched = self._clock()
        if self.phase == "first_event":
            self.phase = "idle"

    def closing(self) -> None:
        """The provider has said its last word."""
        self.phase = "closing"
        self._touched = self._clock()

    def pause(self) -> None:
        """The provider need not speak now, a person is asked for instance: until `resume`, only the limit of the whole
        turn counts."""
        self._paused += 1

    def resume(self) -> None:
        self._paused -= 1
        self._touched = self._clock()

    def left(self) -> float:
        """Seconds until something expires if nothing happens, or a shorter deadline may have begun: never more than
        the shortest of them. 0 or less: one has expired."""
        return min(self._left_total(), self._left_phase(), self._shortest)

    def expired(self) -> Phase | None:
        """Which deadline has passed."""
        if self._left_phase() <= 0:
            return self.phase
        return "total" if self._left_total() <= 0 else None

    def _left_total(self) -> float:
        return self._started + self._limits.total_seconds - self._clock()

    def _left_phase(self) -> float:
        limit = {
            "first_event": self._limits.first_event_seconds,
            "idle": self._limits.idle_seconds,
        }.get(self.phase, CLOSING_SECONDS)
        if self._paused:
            return limit  # counts from `resume` on, which is not before now
        return self._touched + limit - self._clock()
