"""Handing a further user message to a turn that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from providers import Message

READY_SECONDS = 1.0
"""How long a provider may take to ask for the next message."""


class Steering(AsyncIterator[Message]):
    """`Turn.steering` as the provider sees it: an iterator that ends with the turn.

    A message is only given to a provider that waits for it at that moment. So what was handed over was taken, and
    what cannot be handed over becomes a turn of its own: there is no queue in which it could be lost.
    """

    def __init__(self) -> None:
        self._taker: asyncio.Future[Message] | None = None
        self._took: asyncio.Future[bool] | None = None
        self._asked = asyncio.Event()

    async def __anext__(self) -> Message:
        self._taker = asyncio.get_running_loop().create_future()
        self._asked.set()
        took = False
        try:
            message = await self._taker
            took = True
            return message
        finally:  # cancelled in the very moment in which it was given a message, it has not taken it
            self._taker = None
            self._asked.clear()
            if self._took is not None and not self._took.done():
                self._took.set_result(took)

    async def wanted(self) -> bool:
        """Whether the provider waits for a message; it gets a moment to begin to."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._asked.wait()
        except TimeoutError:
            return False
        return True

    async def hand_over(self, message: Message) -> bool:
        """Give the message to the provider. False if it does not wait for one any more; one caller at a time."""
        if self._taker is None or self._taker.done():
            return False
        self._took = asyncio.get_running_loop().create_future()
        self._taker.set_result(message)
        self._asked.clear()
        return await self._took
