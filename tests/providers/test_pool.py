"""The pool never holds more than it may, loses no one, and closes everyone once."""

from __future__ import annotations

import asyncio

import pytest

from providers import ProviderError
from providers.pool import Pool


class Agent:
    """A resident that counts how many of its kind live."""

    live = 0
    most = 0

    def __init__(self) -> None:
        self.alive = True
        self.closed = asyncio.Event()
        Agent.live += 1
        Agent.most = max(Agent.most, Agent.live)

    async def close(self) -> None:
        assert not self.closed.is_set()
        await asyncio.sleep(0)
        self.alive = False
        self.closed.set()
        Agent.live -= 1


@pytest.fixture(autouse=True)
def _count() -> None:
    Agent.live = Agent.most = 0


async def make() -> Agent:
    await asyncio.sleep(0)
    return Agent()


async def test_a_resident_is_kept_for_its_key_and_the_least_recently_used_gives_way() -> None:
    pool: Pool[Agent] = Pool(2, idle_seconds=60)
    first = await pool.acquire("a", make, seconds=1)
    await pool.release("a", keep=True)
    second = await pool.acquire("b", make, seconds=1)
    await pool.release("b", keep=True)
    assert await pool.acquire("a", make, seconds=1) is first
    await pool.release("a", keep=True)
    await pool.acquire("c", make, seconds=1)
    assert second.closed.is_set()
    assert first.alive
    await pool.release("c", keep=False)
    await pool.close()
    assert (Agent.live, len(pool)) == (0, 0)


async def test_a_dead_resident_is_replaced() -> None:
    pool: Pool[Agent] = Pool(1, idle_seconds=60)
    first = await pool.acquire("a", make, seconds=1)
    await pool.release("a", keep=True)
    first.alive = False
    assert await pool.acquire("a", make, seconds=1) is not first
    assert first.closed.is_set()
    await pool.release("a", keep=True)
    await pool.close()


async def test_whoever_finds_no_place_is_told_in_time_and_whoever_waits_gets_the_next_one() -> None:
    pool: Pool[Agent] = Pool(1, idle_seconds=60)
    await pool.acquire("a", make, seconds=1)
    with pytest.raises(ProviderError) as caught:
        await pool.acquire("b", make, seconds=0.01)
    assert (caught.value.code, caught.value.refused) == ("overloaded", True)
    waiting = asyncio.create_task(pool.acquire("b", make, seconds=5))
    await asyncio.sleep(0)
    await pool.release("a", keep=True)
    assert (await waiting).alive
    await pool.release("b", keep=True)
    await pool.close()
    assert Agent.most == 1


async def test_an_idle_resident_is_closed_after_its_time_and_with_none_at_once() -> None:
    pool: Pool[Agent] = Pool(2, idle_seconds=0.02)
    first = await pool.acquire("a", make, seconds=1)
    await pool.release("a", keep=True)
    assert first.alive
    async with asyncio.timeout(5):
        await first.closed.wait()
    await pool.close()
    none: Pool[Agent] = Pool(2, idle_seconds=0)
    second = await none.acquire("a", make, seconds=1)
    await none.release("a", keep=True)
    assert second.closed.is_set()


async def test_a_start_that_fails_or_is_cancelled_frees_its_place() -> None:
    pool: Pool[Agent] = Pool(1, idle_seconds=60)

    async def fails() -> Agent:
        raise ProviderError("connection_failed", "no")

    async def hangs() -> Agent:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    with pytest.raises(ProviderError):
        await pool.acquire("a", fails, seconds=1)
    task = asyncio.create_task(pool.acquire("a", hangs, seconds=1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(pool) == 0


async def test_under_load_there_are_never_more_than_allowed_and_none_is_left() -> None:
    pool: Pool[Agent] = Pool(3, idle_seconds=60)

    async def turn(number: int) -> None:
        key = number % 7
        await pool.acquire(key, make, seconds=10)
        await asyncio.sleep(0)
        await pool.release(key, keep=number % 3 != 0)

    tasks = [asyncio.create_task(turn(number)) for number in range(300)]
    await asyncio.sleep(0)
    for task in tasks[::5]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    assert Agent.most <= 3
    await pool.close()
    assert Agent.live == len(pool) == 0


async def test_a_closed_pool_takes_nobody_and_closes_those_at_work_when_they_are_done() -> None:
    pool: Pool[Agent] = Pool(2, idle_seconds=60)
    agent = await pool.acquire("a", make, seconds=1)
    await pool.close()
    assert agent.alive
    with pytest.raises(ProviderError):
        await pool.acquire("b", make, seconds=1)
    await pool.release("a", keep=True)
    assert agent.closed.is_set()
