"""The requests on one HTTP/2 connection: which wait, which have a stream, what came back of each. No I/O.

What is to be sent stays with `h2` until the connection writes it. `send` and `receive` raise `H2Error` when the
stream ids are used up, or when the server broke the windows' rules: a new connection is needed then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import H2Error

from notifications.errors import NotSent, Unanswered

__all__ = ["Headers", "Request", "Response", "Streams"]

Headers: TypeAlias = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, eq=False)
class Request:
    headers: Headers
    body: memoryview
    """What is still to be sent."""
    future: asyncio.Future[Response]
    stream: int = 0
    """0 until it has one."""
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytearray = field(default_factory=bytearray)
    complete: bool = False
    """The whole body was handed to `h2`."""

    def succeed(self) -> None:
        if not self.future.done():
            self.future.set_result(Response(self.status, self.answer_headers, bytes(self.answer)))

    def fail(self, kind: type[NotSent | Unanswered], reason: str) -> None:
        if not self.future.done():
            self.future.set_exception(kind(reason))


class Streams:
    """`add` a request, `send` what there is room for, hand in every `receive`d event.

    Args:
        most: streams open at once, if the server allows more.
        response_bytes: of an answer's body; the rest is dropped.
    """

    def __init__(self, h2: H2Connection, *, most: int, response_bytes: int) -> None:
        self._h2 = h2
        self._most = most
        self._response_bytes = response_bytes
        self._queue: deque[Request] = deque()
        self._open: dict[int, Request] = {}
        self._stuck: deque[Request] = deque()
        """Opened, but a window was too small for the rest of the body."""

    @property
    def pending(self) -> int:
        """Requests that wait for a stream or an answer."""
        return len(self._queue) + len(self._open)

    @property
    def unsent(self) -> bool:
        """Whether something waits for room."""
        return bool(self._queue or self._stuck)

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""
        return not self._open

    def add(self, request: Request) -> None:
        self._queue.append(request)

    def forget(self, request: Request) -> bool:
        """Nobody waits for it any more: reset its stream. Returns whether it had one."""
        if self._open.get(request.stream) is request:
            del self._open[request.stream]
            with contextlib.suppress(H2Error):
                self._h2.reset_stream(request.stream, ErrorCodes.CANCEL)
            return True
        if not request.stream and request in self._queue:
            self._queue.remove(request)
        return False

    # Outgoing.

    def send(self, *, open_more: bool) -> None:
        """Go on with the bodies that got stuck; then, if `open_more`, open streams while there is room."""
        for _ in range(len(self._stuck)):
            request = self._stuck.popleft()
            if request.stream in self._open and not self._send_body(request):
                self._stuck.append(request)
        while open_more and self._queue and self._room():
            request = self._queue.popleft()
            request.stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(request.stream, request.headers)
            self._open[request.stream] = request
            if not self._send_body(request):
                self._stuck.append(request)

    def _room(self) -> bool:
        """A stream may be opened, and the connection's window has something left for its body."""
        allowed = min(self._most, self._h2.remote_settings.max_concurrent_streams)
        return len(self._open) < allowed and self._h2.outbound_flow_control_window > 0

    def _send_body(self, request: Request) -> bool:
        """Send as much as the windows allow; whether it was all."""
        while True:
            left = len(request.body)
            size = min(left, self._h2.max_outbound_frame_size)
            if left:
                size = min(size, self._h2.local_flow_control_window(request.stream))
                if size <= 0:
                    return False
            last = size == left
            self._h2.send_data(request.stream, request.body[:size], end_stream=last)
            request.body = request.body[size:]
            if last:
                request.complete = True
                return True

    # Incoming.

    def receive(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                request = self._open.get(event.stream_id)
                if request is not None:
                    # header_encoding is set, so these are strings
                    headers = cast("list[tuple[str, str]]", event.headers)
                    request.answer_headers = {name: value for name, value in headers if not name.startswith(":")}
                    request.status = next((int(value) for name, value in headers if name == ":status"), 0)
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                request = self._open.get(event.stream_id)
                if request is not None:
                    request.answer += event.data[: self._response_bytes - len(request.answer)]
            case StreamEnded():
                request = self._open.pop(event.stream_id, None)
                if request is not None:
                    if not request.complete:
                        self._h2.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)
                    request.succeed()
            case StreamReset():
                request = self._open.pop(event.stream_id, None)
                if request is not None:
                    if event.error_code == ErrorCodes.REFUSED_STREAM or not request.complete:
                        request.fail(NotSent, "refused_stream")
                    else:
                        request.fail(Unanswered, "stream_reset")
            case _:
                pass

    # Endings.

    def go_away(self, last: int) -> None:
        """RFC 9113 section 6.8: streams above the last id were not processed; the others may still be answered."""
        self._fail_queue("goaway")
        for stream in [stream for stream in self._open if stream > last]:
            self._open.pop(stream).fail(NotSent, "goaway")

    def fail(self, reason: str) -> None:
        """Nothing further comes of any request."""
        self._fail_queue(reason)
        failed, self._open = self._open, {}
        for request in failed.values():
            request.fail(Unanswered if request.complete else NotSent, reason)

    def _fail_queue(self, reason: str) -> None:
        queue, self._queue = self._queue, deque()
        for request in queue:
            request.fail(NotSent, reason)
