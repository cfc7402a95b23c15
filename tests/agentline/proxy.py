"""A TCP proxy that understands WebSocket frames as far as it takes to cut, hold or lose them at a chosen one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from tests.wire import Over, Wire

__all__ = ["Act", "Proxy", "Seen"]


class Act(Enum):
    PASS = auto()
    CUT_BEFORE = auto()
    """Reset both connections instead of handing the frame on."""
    CUT_AFTER = auto()
    """Hand the frame on, and reset both connections once it was read."""
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


class Proxy(Wire):
    """Between a client and the gateway at `url`. `seen` is every text frame that came by."""

    def __init__(self, url: str, policy: Policy | None = None) -> None:
        port = urlsplit(url).port
        assert port is not None
        super().__init__(port)
        self.policy: Policy = policy or (lambda seen: Act.PASS)
        self.seen: list[Seen] = []
        self._holes: set[int] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _pump(self, number: int, down: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        upgrade = b"101" in head.split(b"\r\n", 1)[0] if down else b"websocket" in head.lower()
        index = 0
        while data := await (_ws_frame(reader) if upgrade else reader.read(65536)):
            act: Act | asyncio.Event = Act.PASS
            if upgrade and (text := _text(data)) is not None:
                self.seen.append(Seen(number, down, index, json.loads(text)))
                index += 1
                act = self.policy(self.seen[-1])
            if isinstance(act, asyncio.Event):
                await act.wait()
            elif act is Act.CUT_BEFORE:
                raise Over
            elif act is Act.HOLE:
                self._holes.add(number)
            if number in self._holes:
                continue
            writer.write(data)
            await writer.drain()
            if act is Act.CUT_AFTER:
                await _read(writer)
                raise Over


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


async def _read(writer: asyncio.StreamWriter) -> None:
    """The peer has read all that was written: a reset overtakes nothing of it, neither on our side nor on the other."""
    raw = writer.get_extra_info("socket")
    async with asyncio.timeout(5):
        while raw is not None and _unread(raw):  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(0.0005)


def _unread(raw: Any) -> bool:
    """Whether bytes of this connection within the machine wait at either of its ends."""
    here, there = (f"0100007F:{port:04X}" for _, port in (raw.getsockname(), raw.getpeername()))
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines():
        _, local, remote, _, queues, *_ = line.split()
        sent, received = queues.partition(":")[::2]
        if ((local, remote) == (here, there) and int(sent, 16)) or (
            (local, remote) == (there, here) and int(received, 16)
        ):
            return True
    return False
