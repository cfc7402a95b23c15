"""A real Redis, and nodes on it, all in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.nodes.control import RedisControl
from gateway.nodes.link import RedisLink
from gateway.store.sql import SqlStore
from tests.redis_server import RedisServer


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


class Node:
    """A link and a control, and what the control has heard of the kind `word`."""

    def __init__(self, link: RedisLink, control: RedisControl) -> None:
        self.link = link
        self.control = control
        self.heard: list[Any] = []
        self.running: asyncio.Task[None] | None = None
        control.on("word", self._hear)

    async def _hear(self, payload: dict[str, Any]) -> None:
        self.heard.append(payload["word"])

    async def say(self, *words: Any) -> None:
        for word in words:
            await self.control.tell("word", word=word)

    async def start(self) -> None:
        """Run, and return once it hears."""
        self.running = asyncio.create_task(self.control.run())
        await eventually(lambda: self.control.position is not None)

    async def stop(self) -> None:
        if self.running is not None:
            self.running.cancel()
            ended = await asyncio.gather(self.running, return_exceptions=True)
            assert isinstance(ended[0], asyncio.CancelledError), ended
            self.running = None


@contextlib.asynccontextmanager
async def node(redis: RedisServer, *, start: bool = True) -> AsyncIterator[Node]:
    """A node that runs until the block ends."""
    async with RedisLink(redis.url) as link:
        made = Node(link, RedisControl(link))
        try:
            if start:
                await made.start()
            yield made
        finally:
            await made.stop()


async def eventually(holds: Callable[[], object], within: float = 10.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - of anything
            await asyncio.sleep(0.005)
