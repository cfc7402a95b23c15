"""One HTTP/2 client connection with many streams, for requests with small bodies. Knows nothing of APNs.

A request ends with a `Response`; with `NotSent` when the peer surely did not process it (never opened,
refused, above GOAWAY's last id, body not complete); or with `Unanswered` when it may have.

No task and no lock: bytes come in through an `asyncio.Protocol`, requests wait in one queue that `_pump`
empties as far as stream limit, flow control windows and the socket's buffer allow.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from notifications.errors import ConnectionFailed, NotSent, Unanswered
from notifications.frames import Frames, goaway_last_stream
from notifications.liveness import Liveness

__all__ = ["Connection", "Limits", "Response"]

# At DEBUG it writes every header, the tokens too, whatever level the application asks for.
logging.getLogger("hpack").setLevel(logging.WARNING)

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, streams and bytes."""

    connect: float = 5.0
    """For TCP, TLS and the server's first SETTINGS together."""
    streams: int = 250
    """Streams open at once, if the server allows more. `h2` looks at every open stream for each new one."""
    probe_after: float = 3.0
    """Silence while answers are due, after which a PING asks whether the peer is there."""
    probe_wait: float = 3.0
    """How long its answer may take before the connection counts as dead."""
    keepalive: float = 300.0
    """Seconds between PINGs while nothing is under way."""
    response_bytes: int = 16_384


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, eq=False)
class _Request:
    headers: Headers
    body: memoryview
    future: asyncio.Future[Response]
    stream: int = 0
    """0 until it has one."""
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytearray = field(default_factory=bytearray)
    complete: bool = False
    """The whole body was handed to the socket."""


class Connection(asyncio.Protocol):
    """Use `Connection.open`; then `request`, any number at once; `close` or `abort` at the end."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        # What goes out is ours and right by construction; checking it again costs more than sending it.
        config = H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = H2Connection(config)
        self._h2.local_settings = Settings(client=True, initial_values={SettingCodes.ENABLE_PUSH: 0})
        self._frames = Frames(self._h2.max_inbound_frame_size)
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._queue: deque[_Request] = deque()
        self._stuck: deque[_Request] = deque()
        """Opened, but a window was too small for the rest of the body."""
        self._streams: dict[int, _Request] = {}
        self._writable = True
        self._pump_due = False
        self._ending: str | None = None
        """Why no new request is taken."""
        self._liveness = Liveness(
            probe_after=limits.probe_after,
            probe_wait=limits.probe_wait,
            keepalive=limits.keepalive,
            due=lambda: self.pending > 0,
            ping=self._ping,
            dead=lambda: self._fail("no_sign_of_life"),
        )

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext, limits: Limits | None = None) -> Connection:
        """Connect and wait for the server's first SETTINGS: only then is its stream limit known.

        Raises:
            ConnectionFailed: within `limits.connect` seconds. Nothing stays open, on cancellation neither.
        """
        limits = limits or Limits()
        loop = asyncio.get_running_loop()
        connection: Connection | None = None
        try:
            async with asyncio.timeout(limits.connect):
                _, connection = await loop.create_connection(
                    lambda: cls(limits),
                    host,
                    port,
                    ssl=context,
                    ssl_handshake_timeout=limits.connect,
                    ssl_shutdown_timeout=1.0,
                )
                await connection._ready
        except TimeoutError:
            if connection is not None:
                connection.abort()
            raise ConnectionFailed("connect_timeout") from None
        except ssl.SSLError:
            raise ConnectionFailed("tls_failed") from None
        except OSError:
            raise ConnectionFailed("connect_failed") from None
        except BaseException:
            if connection is not None:
                connection.abort()
            raise
        if connection._ending is not None:
            raise ConnectionFailed(connection._ending)
        return connection

    @property
    def available(self) -> bool:
        """Whether `request` would take another one."""
        return self._ending is None

    @property
    def pending(self) -> int:
        """Requests that wait for a stream or an answer."""
        return len(self._queue) + len(self._streams)

    async def request(self, headers: Headers, body: bytes, *, within: float) -> Response:
        """Send one request; `headers` in lower case, without line breaks, the pseudo-headers first.

        A request given up (after `within` seconds, or cancelled) resets its stream and disturbs no other.

        Raises:
            NotSent, Unanswered: see above.
        """
        if self._ending is not None:
            raise NotSent(self._ending)
        request = _Request(headers, memoryview(body), self._loop.create_future())
        if not self.pending:
            self._liveness.expect()
        self._queue.append(request)
        self._pump_soon()
        try:
            async with asyncio.timeout(within):
                return await request.future
        except TimeoutError:
            raise (Unanswered("timeout") if request.complete else NotSent("timeout")) from None
        finally:
            self._forget(request)

    async def close(self) -> None:
        """Close in good order; what is still under way ends as if the connection had failed."""
        self._lost("closed")
        if self._transport is not None:
            self._transport.close()
            try:
                async with asyncio.timeout(2):
                    await asyncio.shield(self._closed)
            except TimeoutError:
                self._transport.abort()

    def abort(self) -> None:
        """Close at once."""
        self._lost("closed")
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        chosen = transport.get_extra_info("ssl_object")
        if chosen is not None and chosen.selected_alpn_protocol() != "h2":
            self._fail("no_http2")
            return
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._liveness.heard()
        try:
            for frame in self._frames.feed(data):
                last = goaway_last_stream(frame)
                if last is not None:
                    self._on_goaway(last)
                    continue
                for event in self._h2.receive_data(frame):
                    self._on_event(event)
        except H2Error:
            self._flush()
            self._fail("protocol_error")
            return
        self._flush()
        if self._queue or self._stuck:
            self._pump()
        self._finish_if_drained()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost("connection_lost")
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._pump()

    # Incoming.

    def _on_event(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                request = self._streams.get(event.stream_id)
                if request is not None:
                    # header_encoding is set, so these are strings
                    headers = cast("list[tuple[str, str]]", event.headers)
                    request.answer_headers = {name: value for name, value in headers if not name.startswith(":")}
                    request.status = next((int(value) for name, value in headers if name == ":status"), 0)
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                request = self._streams.get(event.stream_id)
                if request is not None:
                    request.answer += event.data[: self._limits.response_bytes - len(request.answer)]
            case StreamEnded():
                request = self._streams.pop(event.stream_id, None)
                if request is not None and not request.complete:
                    self._h2.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)
                if request is not None and not request.future.done():
                    request.future.set_result(
                        Response(request.status, request.answer_headers, bytes(request.answer)),
                    )
            case StreamReset():
                request = self._streams.pop(event.stream_id, None)
                if request is not None:
                    unprocessed = event.error_code == ErrorCodes.REFUSED_STREAM or not request.complete
                    _fail(request, NotSent("refused_stream") if unprocessed else Unanswered("stream_reset"))
            case RemoteSettingsChanged():
                if not self._ready.done():
                    self._ready.set_result(None)
            case _:
                pass

    def _on_goaway(self, last: int) -> None:
        """RFC 9113 section 6.8: streams above the last id were not processed; the others may still be answered."""
        self._ending = "goaway"
        self._fail_queue(NotSent("goaway"))
        for stream in [stream for stream in self._streams if stream > last]:
            _fail(self._streams.pop(stream), NotSent("goaway"))
        self._not_ready("goaway")

    # Outgoing.

    def _pump_soon(self) -> None:
        """Once per turn of the loop: requests made together leave in one write."""
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        if self._transport is None or self._transport.is_closing():
            return
        try:
            for _ in range(len(self._stuck)):
                request = self._stuck.popleft()
                if request.stream in self._streams and not self._send_body(request):
                    self._stuck.append(request)
            while self._queue and self._ending is None and self._writable and self._room():
                request = self._queue.popleft()
                request.stream = self._h2.get_next_available_stream_id()
                self._h2.send_headers(request.stream, request.headers)
                self._streams[request.stream] = request
                if not self._send_body(request):
                    self._stuck.append(request)
        except H2Error:
            # Out of stream ids, or a server that broke the windows' rules: a new connection is needed.
            self._flush()
            self._fail("protocol_error")
            return
        self._flush()

    def _room(self) -> bool:
        """A stream may be opened, and the connection's window has something left for its body."""
        allowed = min(self._limits.streams, self._h2.remote_settings.max_concurrent_streams)
        return len(self._streams) < allowed and self._h2.outbound_flow_control_window > 0

    def _send_body(self, request: _Request) -> bool:
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

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _forget(self, request: _Request) -> None:
        """Nobody waits for this request any more."""
        if request.stream in self._streams and self._streams[request.stream] is request:
            del self._streams[request.stream]
            try:
                self._h2.reset_stream(request.stream, ErrorCodes.CANCEL)
            except H2Error:
                pass
            else:
                self._flush()
            self._pump_soon()
            self._finish_if_drained()
        elif not request.stream and request in self._queue:
            self._queue.remove(request)

    # Endings.

    def _ping(self) -> None:
        try:
            self._h2.ping(b"agntline")
        except H2Error:
            self._fail("protocol_error")
        else:
            self._flush()

    def _finish_if_drained(self) -> None:
        """After GOAWAY the last answer ends the connection."""
        if self._ending == "goaway" and not self._streams and self._transport is not None:
            self._transport.close()

    def _fail(self, reason: str) -> None:
        self._lost(reason)
        if self._transport is not None:
            self._transport.abort()

    def _lost(self, reason: str) -> None:
        if self._ending is None or self._ending == "goaway":
            self._ending = reason
        self._liveness.stop()
        self._not_ready(reason)
        self._fail_queue(NotSent(reason))
        streams, self._streams = self._streams, {}
        for request in streams.values():
            _fail(request, Unanswered(reason) if request.complete else NotSent(reason))

    def _not_ready(self, reason: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(ConnectionFailed(reason))
            self._ready.exception()  # nobody may be waiting any more

    def _fail_queue(self, error: NotSent) -> None:
        queue, self._queue = self._queue, deque()
        for request in queue:
            _fail(request, error)


def _fail(request: _Request, error: NotSent | Unanswered) -> None:
    if not request.future.done():
        # A fresh one each: an exception that is raised twice grows its traceback
        request.future.set_exception(type(error)(error.reason))
