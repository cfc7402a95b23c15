"""Work that is shared: never twice at once, and never older than the call that waits for it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from gateway.sharedwork import SharedWork


class Work:
    """Counts its runs; each waits until it is let go."""

    def __init__(self) -> None:
        self.runs = 0
        self.at_once = 0
        self.most_at_once = 0
        self.go = asyncio.Semaphore(0)

    async def __call__(self) -> None:
        self.runs += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go.acquire()
        finally:
            self.at_once -= 1


async def turns() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_who_asks_while_a_run_is_under_way_gets_the_next_one_with_all_others() -> None:
    shared, work = SharedWork(), Work()
    first = asyncio.create_task(shared.done(work))
    await turns()
    late = [asyncio.create_task(shared.done(work)) for _ in range(10)]
    await turns()
    assert (work.runs, shared.users) == (1, 11)
    work.go.release()
    await turns()
    assert first.done()
    assert not any(one.done() for one in late), "that run had begun before they asked"
    work.go.release()
    async with asyncio.timeout(5):
        await asyncio.gather(first, *late)
    assert (work.runs, work.most_at_once, shared.users) == (2, 1, 0)


async def test_one_who_is_cancelled_in_his_run_leaves_it_to_the_next() -> None:
    shared, work = SharedWork(), Work()
    first = asyncio.create_task(shared.done(work))
    await turns()
    others = [asyncio.create_task(shared.done(work)) for _ in range(3)]
    await turns()
    work.go.release()
    await turns()
    assert (first.done(), work.runs) == (True, 2)
    others[0].cancel()  # it is in its run
    await turns()
    assert (others[0].cancelled(), work.runs, others[1].done()) == (True, 3, False)
    work.go.release()
    async with asyncio.timeout(5):
        await asyncio.gather(*others[1:])
    assert work.runs == 3


async def test_a_run_that_fails_is_over_and_only_he_who_ran_it_hears_of_it() -> None:
    shared = SharedWork()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError

    ended = await asyncio.gather(*(shared.done(fails) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in ended if one is not None] == [ValueError] * 2, (
        "the first, and one for all who came later"
    )
    with pytest.raises(ValueError):  # noqa: PT011 - the test's own
        await shared.done(fails)


async def test_runs_begin_with_a_pause_between_them() -> None:
    shared, began = SharedWork(pause=0.05), []
    time = asyncio.get_running_loop().time

    async def work() -> None:
        began.append(time())

    for _ in range(4):
        await asyncio.gather(*(shared.done(work) for _ in range(5)))
    assert 4 <= len(began) <= 8
    assert all(later - earlier > 0.045 for earlier, later in itertools.pairwise(began))
