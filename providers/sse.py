"""Server-sent events, decoded from bytes as they come; no I/O.

Source: the HTML standard, "Interpreting an event stream". `id` and `retry` are left out: no backend here resumes.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["EventTooLarge", "ServerSentEvents"]


class EventTooLarge(ValueError):
    """One event exceeds the limit, or the stream is no event stream at all."""


class ServerSentEvents:
    """Takes chunks cut anywhere and gives whole events as `(name, data)`.

    Costs linear time in the size of the stream, however small the chunks. Events without data are
    dropped, and so is one that the end of the stream cuts off, as the standard wants it.
    """

    def __init__(self, *, limit: int = 16 * 1024 * 1024) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._carriage_return = False

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The events that `chunk` completes. Iterate to the end before the next call.

        Raises:
            EventTooLarge: an event of more than `limit` bytes.
        """
        if b"\r" in chunk or self._carriage_return:
            chunk = self._normalised(chunk)
        buffer = self._buffer
        searched = max(0, len(buffer) - 1)
        buffer += chunk
        while (end := buffer.find(b"\n\n", searched)) >= 0:
            block = bytes(buffer[:end])
            del buffer[: end + 2]
            searched = 0
            event = _parsed(block)
            if event is not None:
                yield event
        if len(buffer) > self._limit:
            raise EventTooLarge(f"an event of more than {self._limit} bytes")

    def _normalised(self, chunk: bytes) -> bytes:
        """Lines end in LF. A CR at the very end waits for the next chunk, where an LF may follow it."""
        if self._carriage_return:
            chunk = b"\r" + chunk
        self._carriage_return = chunk.endswith(b"\r")
        if self._carriage_return:
            chunk = chunk[:-1]
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _parsed(block: bytes) -> tuple[bytes, bytes] | None:
    name = b""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[6:].strip()
    return (name, b"\n".join(data)) if data else None
