"""What a process holds that a client could forget: threads, event loops, sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Held", "held"]


@dataclass(frozen=True, slots=True)
class Held:
    threads: frozenset[int | None]
    loops: int
    sockets: frozenset[str]


def held() -> Held:
    """What is held now. Threads of loops' default executors are not counted: they are the test's."""
    gc.collect()
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    loops = [found for found in gc.get_objects() if isinstance(found, asyncio.AbstractEventLoop)]
    sockets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:"):
            sockets.append(target)
    return Held(
        frozenset(thread.ident for thread in threads),
        sum(not loop.is_closed() for loop in loops),
        frozenset(sockets),
    )
