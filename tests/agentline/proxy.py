"""A TCP proxy that understands WebSocket frames as far as it takes to cut, hold or lose them at a chosen one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

__all__ = ["Act", "Proxy", "Seen"]


class Act(Enum):
    PASS = auto()
    CUT_BEFORE = auto()
    """Reset both connections instead of handing the frame on."""
    CUT_AFTER = auto()
    """Hand the frame on, then reset both connections."""
    HOLE = auto()
    """From this frame on nothing goes either way, and no one is told."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A text frame on its way."""

    connection: int
    """Counted from 0."""
    to_client: bool
    index: int
    """Among the text frames of this direction of this connection, from 0."""
    frame: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.frame.get("type"))


Policy: TypeAlias = Callable[[Seen], "Act | asyncio.Event"]
"""What to do about a frame; an event holds it until that is set."""


@dataclass(slots=True)
class _Pipe:
    """One connection through the proxy."""

    number: int
    client: asyncio.StreamWriter
    gateway: asyncio.StreamWriter
    hole: bool = False
    counts: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})

    def cut(self) -> None:
        """RST to both: a linger of 0 throws away what is not sent, too."""
        for writer in (self.client, self.gateway):
            raw = writer.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Between a client and the gateway at `url`.

    `seen` is every text frame that came by; with `refuse` set, it takes no connection.
    """

    def __init__(self, url: str, policy: Policy | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self.policy: Policy = policy or (lambda seen: Act.PASS)
        self.seen: list[Seen] = []
        self.connections = 0
        self.refuse = False
        self._pipes: dict[asyncio.Task[None], _Pipe | None] = {}
        self._server: asyncio.Server | None = None
        self.url = ""

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return sum(pipe is not None for pipe in self._pipes.values())

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._pipes):
            task.cancel()
        if self._pipes:
            await asyncio.wait(list(self._pipes))
        await self._server.wait_closed()

    async def until_all_closed(self, within: float = 5.0) -> None:
        async with asyncio.timeout(within):
            while self._pipes:
                await asyncio.wait(list(self._pipes), return_when=asyncio.FIRST_COMPLETED)

    async def _serve(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes[task] = None
        try:
            if self.refuse:
                client.transport.abort()
                return
            from_gateway, gateway = await asyncio.open_connection(*self._target)
            pipe = self._pipes[task] = _Pipe(self.connections, client, gateway)
            self.connections += 1
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, _Cut):
                    await self._both(pipe, from_client, from_gateway)
            finally:
                pipe.cut()
        except asyncio.CancelledError:
            client.transport.abort()
        finally:
            del self._pipes[task]

    async def _both(self, pipe: _Pipe, from_client: asyncio.StreamReader, from_gateway: asyncio.StreamReader) -> None:
        ways = [
            asyncio.create_task(self._one(pipe, from_client, pipe.gateway, False)),
            asyncio.create_task(self._one(pipe, from_gateway, pipe.client, True)),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            for way in ways:
                _ = way.cancelled() or way.exception()

    async def _one(self, pipe: _Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: bool) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        upgrade = b"101" in head.split(b"\r\n", 1)[0] if down else b"websocket" in head.lower()
        while data := await (_ws_frame(reader) if upgrade else reader.read(65536)):
            act: Act | asyncio.Event = Act.PASS
            if upgrade and (text := _text(data)) is not None:
                seen = Seen(pipe.number, down, pipe.counts[down], json.loads(text))
                pipe.counts[down] += 1
                self.seen.append(seen)
                act = self.policy(seen)
            if isinstance(act, asyncio.Event):
                await act.wait()
            elif act is Act.CUT_BEFORE:
                raise _Cut
            elif act is Act.HOLE:
                pipe.hole = True
            if pipe.hole:
                continue
            writer.write(data)
            await writer.drain()
            if act is Act.CUT_AFTER:
                await _flushed(writer)
                raise _Cut


class _Cut(Exception):
    """End both connections."""


async def _ws_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(2)
    length, extra = head[1] & 0x7F, b""
    if length >= 126:
        extra = await reader.readexactly(2 if length == 126 else 8)
        length = int.from_bytes(extra, "big")
    mask = await reader.readexactly(4) if head[1] & 0x80 else b""
    return head + extra + mask + await reader.readexactly(length)


def _text(data: bytes) -> bytes | None:
    """What a text frame says; None for any other frame."""
    if data[0] & 0x0F != 1:
        return None
    start = {126: 4, 127: 10}.get(data[1] & 0x7F, 2)
    if not data[1] & 0x80:
        return data[start:]
    mask, body = data[start : start + 4], data[start + 4 :]
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """The peer's system has all that was written: a reset throws nothing of it away on our side."""
    raw = writer.get_extra_info("socket")
    async with asyncio.timeout(5):
        while raw is not None and struct.unpack("i", _outq(raw))[0]:  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(0)


def _outq(raw: Any) -> bytes:
    import fcntl
    import termios

    return fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
