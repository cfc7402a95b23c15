"""The way from an agent's process to the turn that reads it: in order, bounded, and safe to leave."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """What arrives for one turn. While it is full, whoever reads the agent's output waits."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._items: deque[T] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: T) -> bool:
        """Add `item` at the end; returns False if the turn is over and nobody will see it."""
        while len(self._items) >= self._most and not self._closed:
            self._emptied.clear()
            await self._emptied.wait()
        if self._closed:
            return False
        self._items.append(item)
        self._filled.set()
        return True

    async def get(self) -> T:
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        self._emptied.set()
        return self._items.popleft()

    def close(self) -> list[T]:
        """Take nothing more; returns what nobody read."""
        self._closed = True
        self._emptied.set()
        left = list(self._items)
        self._items.clear()
        return left
