"""HTTP/2 frames as they lie in the byte stream, so that GOAWAY can be taken out before `h2` sees it.

`h2` takes a GOAWAY for the end (its state machine refuses all frames after it), though RFC 9113 section 6.8
lets the streams up to the last id finish: a server that says goodbye gracefully would cost every answer
under way.
"""

from __future__ import annotations

from collections.abc import Iterator

from h2.exceptions import FrameTooLargeError

__all__ = ["Frames", "goaway_last_stream"]

GOAWAY = 0x7
_HEADER = 9


class Frames:
    """Collects bytes, gives whole frames."""

    def __init__(self, max_frame_size: int) -> None:
        self._max = max_frame_size
        self._input = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete now, header included.

        Raises:
            FrameTooLargeError: the next one is over the limit. (`h2` says so only when the whole of it is there.)
        """
        self._input += data
        while len(self._input) >= _HEADER:
            length = int.from_bytes(self._input[:3])
            if length > self._max:
                raise FrameTooLargeError
            if len(self._input) < _HEADER + length:
                return
            frame = bytes(self._input[: _HEADER + length])
            del self._input[: _HEADER + length]
            yield frame


def goaway_last_stream(frame: bytes) -> int | None:
    """The last stream that the sender of a GOAWAY has looked at or will; None if `frame` is no (whole) GOAWAY."""
    if frame[3] != GOAWAY or len(frame) < _HEADER + 8:
        return None
    return int.from_bytes(frame[_HEADER : _HEADER + 4]) & 0x7FFF_FFFF
