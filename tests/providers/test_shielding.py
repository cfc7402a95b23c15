"""What must end properly does, whatever becomes of who waits for it."""

from __future__ import annotations

import asyncio

import pytest

from providers.shielding import to_the_end


async def test_work_is_done_to_its_end_however_often_its_caller_is_cancelled() -> None:
    gate = asyncio.Event()
    done: list[str] = []

    async def work() -> None:
        await gate.wait()
        done.append("work")

    hurried: list[str] = []
    task = asyncio.create_task(to_the_end(work(), hurry=lambda: hurried.append("hurry")))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert (hurried, done, task.done()) == (["hurry"] * 3, [], False)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work"]


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await to_the_end(work())
