"""How long to wait: for one push after a failed attempt, and for a whole channel that seems to be down."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Breaker", "backoff"]


def backoff(attempt: int, rng: random.Random, *, first: float = 1.0, most: float = 300.0) -> float:
    """Seconds before attempt number `attempt` (the second attempt is 1): doubling, spread over the upper half."""
    ceiling = min(most, first * 2.0 ** min(attempt - 1, 30))
    return ceiling * (0.5 + rng.random() / 2)


@dataclass(slots=True)
class Breaker:
    """Of one channel. Opens after some failures in a row; then one attempt at a time probes it.

    What fails together counts once: a connection that breaks with 250 pushes on it is one failure, not 250.
    Times are of one monotonic clock, in seconds.
    """

    rng: random.Random
    threshold: int = 3
    most: float = 60.0
    failures: int = 0
    """In a row."""
    opened: int = 0
    """Times it opened since the last success."""
    open_until: float = 0.0
    failed_at: float = float("-inf")
    """When the last failure that counts was heard of."""
    probing: bool = False

    def admit(self, now: float) -> float:
        """0 if an attempt may begin at `now`, else how many seconds to wait before asking again.

        An admitted attempt must end with `succeeded`, `failed` or `released`.
        """
        if now < self.open_until:
            return self.open_until - now
        if self.opened and self.probing:
            return 1.0
        if self.opened:
            self.probing = True
        return 0.0

    def succeeded(self) -> None:
        self.failures = self.opened = 0
        self.open_until = 0.0
        self.probing = False

    def released(self) -> None:
        """The attempt ended without telling anything about the channel."""
        self.probing = False

    def failed(self, now: float, began: float, retry_after: float | None = None) -> None:
        """An attempt that began at `began` failed. One that began before the last failure says nothing new."""
        if began <= self.failed_at:
            return
        self.failed_at = now
        self.failures += 1
        if self.opened or self.failures >= self.threshold:
            self.opened += 1
            self.open_until = now + max(backoff(self.opened, self.rng, most=self.most), retry_after or 0.0)
            self.probing = False

    def pause(self, now: float, seconds: float) -> None:
        """Nothing may begin for so long, whatever the failures."""
        self.opened = max(self.opened, 1)
        self.failed_at = now
        self.open_until = max(self.open_until, now + seconds)
        self.probing = False
