"""A strict reader of server-sent events (the HTML standard's event stream format), for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.server import GatewayProcess

DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Event:
    data: str
    id: str | None

    @property
    def frame(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.data)
        return frame


class EventSource:
    """The events of one answer. `comments` are those that came between them; `raw` is every byte read so far."""

    def __init__(self, answer: httpx2.Response) -> None:
        assert answer.status_code == 200, answer.status_code
        self.headers = answer.headers
        self._chunks = answer.aiter_bytes()
        self._buffer = b""
        self.raw = b""
        self.comments: list[str] = []
        self.events: list[Event] = []

    async def next(self, within: float = DEADLINE) -> Event | None:
        """The next event; None at the end of the answer."""
        async with asyncio.timeout(within):
            while (block := await self._block()) is not None:
                if (event := self._parsed(block)) is not None:
                    self.events.append(event)
                    return event
        return None

    async def comment(self, within: float = DEADLINE) -> str:
        """The next block, which must be a comment."""
        async with asyncio.timeout(within):
            block = await self._block()
        assert block is not None
        assert self._parsed(block) is None, block
        return self.comments[-1]

    async def until(self, kind: str, within: float = DEADLINE) -> dict[str, Any]:
        """The frame of the next event of that type."""
        async with asyncio.timeout(within):
            while (event := await self.next(within)) is not None:
                if event.frame["type"] == kind:
                    return event.frame
        raise AssertionError(f"the stream ended without {kind}: {self.raw[-500:]!r}")

    async def rest(self, within: float = DEADLINE) -> list[Event]:
        """All events up to the end of the answer."""
        before = len(self.events)
        async with asyncio.timeout(within):
            while await self.next(within) is not None:
                pass
        return self.events[before:]

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [event.frame for event in self.events]

    async def _block(self) -> str | None:
        while b"\n\n" not in self._buffer:
            chunk = await anext(self._chunks, b"")
            if not chunk:
                assert not self._buffer, f"the answer ended within an event: {self._buffer!r}"
                return None
            self._buffer += chunk
            self.raw += chunk
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        return block.decode()

    def _parsed(self, block: str) -> Event | None:
        data, id = [], None
        for line in block.split("\n"):
            if line.startswith(":"):
                self.comments.append(line[1:].strip())
                continue
            name, separator, value = line.partition(": ")
            assert separator, line
            assert name in ("data", "id"), line
            if name == "id":
                id = value
            else:
                data.append(value)
        assert len(data) <= 1, block
        return Event(data[0], id) if data else None


@contextlib.asynccontextmanager
async def events(
    gateway: GatewayProcess,
    path: str,
    body: Any = None,
    *,
    user: str | None = "alice",
    last: str | None = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[EventSource]:
    """The event stream of `path`, asked for with POST if there is a body. Leaving the block hangs up."""
    sent = {"Accept": "text/event-stream", **(headers or {})}
    if last is not None:
        sent["Last-Event-ID"] = last
    async with gateway.http(user) as http:
        method = "GET" if body is None else "POST"
        async with http.stream(method, path, json=body, headers=sent) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise AssertionError((answer.status_code, answer.text))
            source = EventSource(answer)
            yield source
