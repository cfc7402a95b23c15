"""A connection as the event loop sees it: opened, read, written, kept alive, ended.

No task and no lock: bytes come in through an `asyncio.Protocol`, and `_pump` empties the requests' queue as far as
stream limit, flow control windows and the socket's buffer allow.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RemoteSettingsChanged
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from notifications.errors import ConnectionFailed, NotSent, Unanswered
from notifications.http2.frames import Frames, goaway_last_stream
from notifications.http2.liveness import Liveness
from notifications.http2.streams import Headers, Request, Response, Streams

__all__ = ["Connection", "Limits"]

# At DEBUG it writes every header, the tokens too, whatever level the application asks for.
logging.getLogger("hpack").setLevel(logging.WARNING)


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


class Connection(asyncio.Protocol):
    """Use `Connection.open`; then `request`, any number at once; `close` or `abort` at the end."""

    def __init__(self, limits: Limits) -> None:
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
        self._streams = Streams(self._h2, most=limits.streams, response_bytes=limits.response_bytes)
        self._frames = Frames(self._h2.max_inbound_frame_size)
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._writable = True
        self._pump_due = False
        self._ending: str | None = None
        """Why no new request is taken."""
        self._liveness = Liveness(
            probe_after=limits.probe_after,
            probe_wait=limits.probe_wait,
            keepalive=limits.keepalive,
            due=lambda: self._streams.pending > 0,
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

    async def request(self, headers: Headers, body: bytes, *, within: float) -> Response:
        """Send one request; `headers` in lower case, without line breaks, the pseudo-headers first.

        A request given up (after `within` seconds, or cancelled) resets its stream and disturbs no other.

        Raises:
            NotSent, Unanswered: see the package.
        """
        if self._ending is not None:
            raise NotSent(self._ending)
        request = Request(headers, memoryview(body), self._loop.create_future())
        if not self._streams.pending:
            self._liveness.expect()
        self._streams.add(request)
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
                    self._go_away(last)
                    continue
                for event in self._h2.receive_data(frame):
                    if isinstance(event, RemoteSettingsChanged):
                        self._is_ready()
                    else:
                        self._streams.receive(event)
        except H2Error:
            self._flush()
            self._fail("protocol_error")
            return
        self._flush()
        if self._streams.unsent:
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
            self._streams.send(open_more=self._ending is None and self._writable)
        except H2Error:
            self._flush()
            self._fail("protocol_error")
            return
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _forget(self, request: Request) -> None:
        """Nobody waits for this request any more."""
        if self._streams.forget(request):
            self._flush()
            self._pump_soon()
            self._finish_if_drained()

    # Endings.

    def _ping(self) -> None:
        try:
            self._h2.ping(b"agntline")
        except H2Error:
            self._fail("protocol_error")
        else:
            self._flush()

    def _go_away(self, last: int) -> None:
        self._ending = "goaway"
        self._streams.go_away(last)
        self._not_ready("goaway")

    def _finish_if_drained(self) -> None:
        """After GOAWAY the last answer ends the connection."""
        if self._ending == "goaway" and self._streams.idle and self._transport is not None:
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
        self._streams.fail(reason)

    def _is_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _not_ready(self, reason: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(ConnectionFailed(reason))
            self._ready.exception()  # nobody may be waiting any more
