"""Whether a peer is still there: a black hole swallows everything and never says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Liveness"]


class Liveness:
    """One timer that asks a silent peer for a sign of life.

    While an answer is due, silence of `probe_after` seconds makes it call `ping`; while none is, `keepalive`
    seconds do. No byte within `probe_wait` seconds after that, and it calls `dead`, once and last.
    `due` says whether an answer is due; it is asked when the timer runs, so call `expect` when that begins.
    """

    def __init__(
        self,
        *,
        probe_after: float,
        probe_wait: float,
        keepalive: float,
        due: Callable[[], bool],
        ping: Callable[[], None],
        dead: Callable[[], None],
    ) -> None:
        self._probe_after = probe_after
        self._probe_wait = probe_wait
        self._keepalive = keepalive
        self._due = due
        self._ping = ping
        self._dead = dead
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._pinged: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._close = False
        """Whether the timer runs at the pace of an answer that is due."""
        self._stopped = False

    def heard(self) -> None:
        """The peer sent something."""
        self._heard = self._loop.time()
        self._pinged = None

    def expect(self) -> None:
        """The first answer after a time without any is due: its silence counts from now."""
        self._heard = self._loop.time()
        if not self._close and not self._stopped:
            self._close = True
            self._in(self._probe_after)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.01, seconds), self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if self._pinged is not None and now - self._pinged >= self._probe_wait:
            self.stop()
            self._dead()
            return
        self._close = self._due()
        quiet = self._probe_after if self._close else self._keepalive
        if self._pinged is None and now - self._heard >= quiet:
            self._pinged = now
            self._ping()
        if not self._stopped:
            self._in(self._pinged + self._probe_wait - now if self._pinged is not None else self._heard + quiet - now)
