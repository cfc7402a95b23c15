"""Many phones in one process: sockets that ask, and note when each piece came.

The sockets are driven by hand: a full client library would take more CPU than the servers that are measured.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import msgspec

TEXT, PING, PONG = 0x81, 0x89, 0x8A
"""First bytes of whole frames."""


class Frame(msgspec.Struct):
    type: str
    content: str = ""
    status: str = ""
    thread_id: str = ""


@dataclass(slots=True)
class Tally:
    """What came in all sockets together."""

    pieces: int = 0
    frames: int = 0
    latencies: list[float] = field(default_factory=list)
    """Seconds from the upstream's sending to the arrival here, of every piece."""
    done: int = 0


class Socket(asyncio.Protocol):
    """One WebSocket. `opened` is called when it may write, `frame` for each frame that has come."""

    def __init__(self, host: str, path: str, headers: dict[str, str]) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._handshake = "\r\n".join([*lines, "", ""]).encode()
        self._data = bytearray()
        self._open = False
        self._decode = msgspec.json.Decoder(Frame).decode
        self._news = asyncio.Event()

    def opened(self) -> None:
        """The handshake is done."""

    def frame(self, frame: Frame, now: int) -> None:
        """It came at `now`, in nanoseconds of the monotonic clock."""

    def say(self, **frame: object) -> None:
        self._transport.write(_masked(msgspec.json.encode(frame)))

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.write(self._handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        self._news.set()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._data += data
        if not self._open:
            head, separator, rest = bytes(self._data).partition(b"\r\n\r\n")
            if not separator:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._open, self._data = True, bytearray(rest)
            self.opened()
        start, size = 0, len(self._data)
        while size - start >= 2:
            length, offset = self._data[start + 1], start + 2
            if length == 126:
                length, offset = int.from_bytes(self._data[start + 2 : start + 4], "big"), start + 4
            elif length == 127:
                length, offset = int.from_bytes(self._data[start + 2 : start + 10], "big"), start + 10
            if size < offset + length:
                break
            if self._data[start] == TEXT:
                self.frame(self._decode(self._data[offset : offset + length]), now)
            elif self._data[start] == PING:
                self._transport.write(_masked(bytes(self._data[offset : offset + length]), PONG))
            start = offset + length
        del self._data[:start]
        self._news.set()

    async def until(self, holds: Callable[[], bool], within: float = 60.0) -> None:
        """Wait until what has come makes it true."""
        async with asyncio.timeout(within):
            while not holds():
                assert not self._transport.is_closing(), "the server has closed the socket"
                self._news.clear()
                await self._news.wait()


class Phone(Socket):
    """Asks one question. `finished` is set at `done`."""

    def __init__(self, host: str, path: str, headers: dict[str, str], question: str, tally: Tally) -> None:
        super().__init__(host, path, headers)
        self._question = question
        self._tally = tally
        self.finished = asyncio.get_running_loop().create_future()

    def opened(self) -> None:
        self.say(type="message", content=self._question)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_exception(exc or ConnectionError("closed before done"))

    def frame(self, frame: Frame, now: int) -> None:
        tally = self._tally
        if frame.type == "message":
            stamps = frame.content.split()
            tally.frames += 1
            tally.pieces += len(stamps)
            tally.latencies += [(now - int(stamp)) / 1e9 for stamp in stamps]
        elif frame.type == "done":
            assert frame.status in ("", "completed"), frame
            tally.done += 1
            self.finished.set_result(None)
            self.close()


class Talker(Socket):
    """Has turns, one after the other, in one thread, until `stop`; then `finished` is set."""

    def __init__(self, host: str, path: str, headers: dict[str, str], question: str) -> None:
        super().__init__(host, path, headers)
        self._question = question
        self._stopping = False
        self._asked = 0
        self.thread_id = f"talk-{os.urandom(6).hex()}"
        self.accepted: list[float] = []
        """Seconds from a message to `accepted`, of every turn."""
        self.first: list[float] = []
        """To the first piece."""
        self.done: list[float] = []
        self.finished = asyncio.get_running_loop().create_future()

    def opened(self) -> None:
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic_ns()
        self.say(type="message", content=self._question, thread_id=self.thread_id)

    def stop(self) -> None:
        """Have no further turn."""
        self._stopping = True

    def frame(self, frame: Frame, now: int) -> None:
        passed = (now - self._asked) / 1e9
        if frame.type == "accepted":
            self.accepted.append(passed)
        elif frame.type == "message" and len(self.first) < len(self.accepted):
            self.first.append(passed)
        elif frame.type == "done":
            assert frame.status == "completed", frame
            self.done.append(passed)
            if self._stopping:
                self.finished.set_result(None)
                self.close()
            else:
                self._ask()


class Reader(Socket):
    """Follows threads, and waits for what is asked of it."""

    def __init__(self, host: str, path: str, headers: dict[str, str]) -> None:
        super().__init__(host, path, headers)
        self.ready = asyncio.get_running_loop().create_future()
        self.attached = 0
        self.pieces = 0
        self.latencies: list[float] = []
        self.endings: dict[str, tuple[str, int]] = {}
        """By thread: how its last turn ended, and when that came."""

    def frame(self, frame: Frame, now: int) -> None:
        if frame.type == "ready":
            self.ready.set_result(None)
        elif frame.type == "attached":
            self.attached += 1
        elif frame.type == "message":
            stamps = frame.content.split()
            self.pieces += len(stamps)
            self.latencies += [(now - int(stamp)) / 1e9 for stamp in stamps]
        elif frame.type in ("done", "snapshot"):
            self.endings[frame.thread_id] = (frame.status or frame.type, now)
        assert frame.type != "error", frame


def _masked(payload: bytes, kind: int = TEXT) -> bytes:
    if len(payload) < 126:
        return bytes([kind, 0x80 | len(payload), 0, 0, 0, 0]) + payload
    return bytes([kind, 0xFE]) + len(payload).to_bytes(2, "big") + bytes(4) + payload
