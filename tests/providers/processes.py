"""Counting processes, for tests that say none is left behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

__all__ = ["gone", "running", "there_are", "with_environment"]


def running(pid: int) -> bool:
    """Whether the process is there and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def with_environment(mark: str) -> set[int]:
    """The processes (but this one) whose environment or command line holds `mark`."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            held = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in held and running(int(entry.name)):
            found.add(int(entry.name))
    return found


async def gone(mark: str, *, seconds: float = 10.0) -> None:
    """Returns when no process with `mark` is left; the kernel tells nobody about processes that are not their own."""
    async with asyncio.timeout(seconds):
        while with_environment(mark):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)


async def there_are(number: int, mark: str, *, seconds: float = 5.0) -> None:
    """Returns when exactly `number` processes have `mark`; in the middle of its exec a process shows no environment."""
    async with asyncio.timeout(seconds):
        while len(with_environment(mark)) != number:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)
