"""The time of day, as records keep it and as frames show it."""

from __future__ import annotations

import time

_second = -1
_prefix = ""


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def rfc3339(milliseconds: int) -> str:
    """`2026-11-20T07:40:00.123Z`.

    The text up to the second is kept between calls: 0.3 µs, where `datetime.isoformat` takes 1.1 µs,
    which is several times what encoding a frame costs.
    """
    global _second, _prefix  # a cache of one value; every use sees a consistent pair
    second, millisecond = divmod(milliseconds, 1000)
    if second != _second:
        _second, _prefix = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
    return f"{_prefix}{millisecond:03d}Z"


def timestamp() -> str:
    """The present moment as frames show it."""
    return rfc3339(time.time_ns() // 1_000_000)
