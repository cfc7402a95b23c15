"""Work that is done once for all who ask for it while it waits its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class SharedWork:
    """One run at a time. Who asks while one is under way gets the next one, with all who ask until that begins."""

    __slots__ = ("_begun", "_ended", "_last", "_lock", "_pause", "users")

    def __init__(self, pause: float = 0.0) -> None:
        """A run begins at least `pause` seconds after the one before it."""
        self._pause = pause
        self._last = -pause
        self._lock = asyncio.Lock()
        self._begun = 0
        self._ended = 0
        self.users = 0
        """How many are in `done` now."""

    async def done(self, work: Callable[[], Awaitable[None]]) -> None:
        """Return once a run that began after this call has ended: this caller's `work`, or another's.

        Raises what this caller's own `work` raises; if it is cancelled, the next who waits begins anew.
        """
        before = self._begun
        self.users += 1
        try:
            async with self._lock:
                if self._ended <= before:
                    time = asyncio.get_running_loop().time
                    if (rest := self._last + self._pause - time()) > 0:
                        await asyncio.sleep(rest)
                    self._last = time()
                    self._begun += 1
                    try:
                        await work()
                    except Exception:
                        self._ended = self._begun
                        raise
                    self._ended = self._begun
        finally:
            self.users -= 1
