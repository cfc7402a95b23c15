"""Many phones in one process: each opens a socket, asks one question, and notes when each piece came.

The sockets are driven by hand: a full client library would take more CPU than the servers that are measured.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from dataclasses import dataclass, field
from typing import cast

import msgspec


class Frame(msgspec.Struct):
    type: str
    content: str = ""
    status: str = ""


@dataclass(slots=True)
class Tally:
    """What came in all sockets together."""

    pieces: int = 0
    frames: int = 0
    latencies: list[float] = field(default_factory=list)
    """Seconds from the upstream's sending to the arrival here, of every piece."""
    done: int = 0


class Phone(asyncio.Protocol):
    """One socket. `finished` is set at `done`."""

    def __init__(self, host: str, path: str, headers: dict[str, str], question: str, tally: Tally) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._handshake = "\r\n".join([*lines, "", ""]).encode()
        self._question = _masked(msgspec.json.encode({"type": "message", "content": question}))
        self._tally = tally
        self._data = bytearray()
        self._open = False
        self._decode = msgspec.json.Decoder(Frame).decode
        self.finished = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.write(self._handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_exception(exc or ConnectionError("closed before done"))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._data += data
        if not self._open:
            head, separator, rest = bytes(self._data).partition(b"\r\n\r\n")
            if not separator:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._open, self._data = True, bytearray(rest)
            self._transport.write(self._question)
        start, size = 0, len(self._data)
        while size - start >= 2:
            length, offset = self._data[start + 1], start + 2
            if length == 126:
                length, offset = int.from_bytes(self._data[start + 2 : start + 4], "big"), start + 4
            elif length == 127:
                length, offset = int.from_bytes(self._data[start + 2 : start + 10], "big"), start + 10
            if size < offset + length:
                break
            if self._data[start] == 0x81:
                self._frame(self._decode(self._data[offset : offset + length]), now)
            start = offset + length
        del self._data[:start]

    def _frame(self, frame: Frame, now: int) -> None:
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
            self._transport.close()


def _masked(payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload
