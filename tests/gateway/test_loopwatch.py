from __future__ import annotations

import asyncio
import time

from gateway.loopwatch import BLOCKED_SECONDS, LoopWatch


async def test_a_synchronous_call_is_noticed_with_the_task_that_made_it() -> None:
    async def blocks() -> None:
        time.sleep(BLOCKED_SECONDS * 3)  # noqa: ASYNC251 - the very thing that is looked for

    async with LoopWatch() as watch:
        await asyncio.create_task(blocks(), name="provider of agent slow, turn u-1")
        (block,) = watch.recent()
    assert block.task == "provider of agent slow, turn u-1"
    assert block.where.endswith("in blocks")


async def test_a_loop_that_only_waits_is_not_blocked() -> None:
    async with LoopWatch() as watch:
        await asyncio.sleep(BLOCKED_SECONDS * 2)
        assert watch.recent() == []
