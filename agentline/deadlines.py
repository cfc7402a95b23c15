"""How long the client waits for what, and when it comes back after a lost connection."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from agentline.errors import Disconnected

__all__ = ["Backoff", "Deadlines"]

STEADY_SECONDS = 5.0
"""A connection that held so long was a good one, even if nothing was said on it."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """All in seconds."""

    connect: float = 10.0
    """For TCP, TLS and the upgrade together. Resolving the name is up to the system's resolver."""
    answer: float = 10.0
    """For the gateway's answer to a frame or an HTTP request."""
    heartbeat: float = 15.0
    """A connection silent for so long is pinged, and given up when that stays unanswered for as long again."""
    give_up: float = 120.0
    """How long to try to get back to the gateway before `Disconnected` is raised."""
    close: float = 1.0
    """For the gateway's part of an orderly close."""
    first_delay: float = 0.25
    """The longest wait before the first reconnect; it doubles with each attempt. The wait is random below it, so that
    the clients of a gateway that restarts do not all come back at once."""
    longest_delay: float = 15.0


class Backoff:
    """When to try again. One per stream; any progress starts it over."""

    def __init__(self, deadlines: Deadlines, clock: Callable[[], float] = time.monotonic) -> None:
        self._deadlines = deadlines
        self._clock = clock
        self._attempt = 0
        self._lost_at: float | None = None
        self._connected_at: float | None = None

    def connected(self) -> None:
        """A connection stands. That alone is no progress: it may be closed at once."""
        self._connected_at = self._clock()

    def progressed(self) -> None:
        """The connection brought something new."""
        self._attempt = 0
        self._lost_at = None

    def lost(self, reason: str, at_least: float = 0.0) -> float:
        """The connection, or an attempt at one, failed. Returns the seconds to wait before the next.

        Raises:
            Disconnected: this has gone on for `give_up` seconds.
        """
        now = self._clock()
        if self._connected_at is not None and now - self._connected_at >= STEADY_SECONDS:
            self.progressed()
        self._connected_at = None
        if self._lost_at is None:
            self._lost_at = now
        gone = now - self._lost_at
        left = self._deadlines.give_up - gone
        if left <= 0:
            raise Disconnected(gone, reason)
        most = min(self._deadlines.first_delay * 2 ** min(self._attempt, 30), self._deadlines.longest_delay)
        self._attempt += 1
        delay = at_least + random.uniform(0, most)  # noqa: S311 - jitter guards nothing
        return min(delay, left)
