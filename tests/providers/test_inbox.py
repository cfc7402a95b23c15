"""The inbox keeps order, bounds what waits, and can be left at any time."""

from __future__ import annotations

import asyncio

import pytest

from providers.inbox import Inbox


async def test_items_come_out_as_they_went_in_and_a_full_inbox_makes_the_sender_wait() -> None:
    inbox: Inbox[int] = Inbox(most=3)

    async def send() -> None:
        for number in range(100):
            assert await inbox.put(number)

    sending = asyncio.create_task(send())
    async with asyncio.timeout(5):
        for number in range(100):
            assert len(inbox) <= 3
            assert await inbox.get() == number
        await sending


async def test_leaving_frees_a_waiting_sender_and_gives_back_what_nobody_read() -> None:
    inbox: Inbox[int] = Inbox(most=1)
    await inbox.put(1)
    waiting = asyncio.create_task(inbox.put(2))
    await asyncio.sleep(0)
    assert inbox.close() == [1]
    async with asyncio.timeout(5):
        assert await waiting is False
    assert await inbox.put(3) is False
    assert len(inbox) == 0


async def test_a_cancelled_reader_loses_nothing() -> None:
    inbox: Inbox[int] = Inbox()
    reading = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await inbox.put(1)
    async with asyncio.timeout(5):
        assert await inbox.get() == 1
