"""The server process: sockets to listen on, uvicorn to serve them, and a stop that begins with a drain.

uvicorn closes its listeners and tells every WebSocket 1012 before the application hears of the shutdown, so the
drain happens here, before uvicorn's own shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import HANDLED_SIGNALS

from gateway.draining import Drain, DrainResult, drain_within
from gateway.logs import log_loop_exception
from gateway.request_deadline import DeadlineH11Protocol
from gateway.settings import Settings

if TYPE_CHECKING:
    from uvicorn._types import ASGIApplication

__all__ = ["GatewayServer", "ListenError", "StartupFailed", "listen"]

BACKLOG = 2048
SEND_BUFFER_BYTES = 64 * 1024
"""A reader that stops shows after some hundred KiB instead of after the 4 MB that the kernel would take."""
USER_TIMEOUT_MS = 25_000
"""How long sent bytes may stay unacknowledged before the kernel drops the connection (`TCP_USER_TIMEOUT`, RFC 5482).
Nothing else ends a connection whose peer stopped reading."""
DRAIN_MARGIN_SECONDS = 5.0
"""How much longer than its own deadline a drain may take."""
GRACEFUL_SECONDS = 5
"""How long connections and requests may take to end after the drain."""
CLEANUP_SECONDS = 15.0
"""How long the application's own shutdown may take after that."""
FORCED_SECONDS = 2.0
"""How long all of this may take once it is forced."""

log = structlog.get_logger(__name__)


class ListenError(Exception):
    """The address cannot be listened on. Its text is one line for the operator."""


class StartupFailed(Exception):
    """The application did not start; the reason is the `__cause__`, if it gave one."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to every address of `host`, all on one port; they accept once the server has started.

    The options set here are inherited by accepted connections.

    Raises:
        ListenError
    """
    where = f"{_bracketed(host)}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ListenError(f"cannot listen on {where}: no such host") from None
    with contextlib.ExitStack() as opened:
        listeners: list[socket.socket] = []
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            except OSError:
                continue  # a family that the kernel does not have
            try:
                _set_options(listener, dual_stack=host == "::")
                listener.bind((address[0], port or _port(listeners), *address[2:]))
            except OSError as error:
                raise ListenError(f"cannot listen on {where}: {error.strerror or type(error).__name__}") from None
            listeners.append(listener)
        if not listeners:
            raise ListenError(f"cannot listen on {where}: no address of this family here")
        opened.pop_all()
        return listeners


def _set_options(listener: socket.socket, *, dual_stack: bool) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
    listener.setblocking(False)


def _port(listeners: Sequence[socket.socket]) -> int:
    return int(listeners[0].getsockname()[1]) if listeners else 0


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class GatewayServer(uvicorn.Server):
    """Serves one application until SIGTERM or SIGINT; a second signal forces.

    `app` must have a lifespan. `drain` is awaited once, while the listeners still accept. `listeners` are those of
    `listen` (made from the settings when left out); the server closes them.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        drain: Drain,
        *,
        listeners: Sequence[socket.socket] | None = None,
        on_listening: Callable[[], None] = lambda: None,
    ) -> None:
        self._lifespan_guard = _LifespanGuard(app, self._stop)
        super().__init__(_config(self._lifespan_guard, settings))
        self.settings = settings
        self.listeners = list(listeners if listeners is not None else listen(settings.host, settings.port))
        self.drain_result: DrainResult | None = None
        """How the drain ended; None before."""
        self._drain = drain
        self._on_listening = on_listening
        self._forced: asyncio.Event | None = None
        self._forced_by: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Timeout | None = None

    @property
    def port(self) -> int:
        """The real one, also when the settings say 0."""
        return _port(self.listeners)

    @property
    def exit_code(self) -> int:
        """0 after a stop that was asked for and went as it should, 128 + signal when forced, else 1."""
        if self._forced_by is not None:
            return 128 + self._forced_by
        return 0 if self.drain_result == "drained" and self._lifespan_guard.failure is None else 1

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until asked to stop, in an event loop of its own.

        Raises:
            StartupFailed: the application did not start.
        """
        super().run(sockets=sockets)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until asked to stop.

        Raises:
            StartupFailed: the application did not start.
        """
        self._loop = asyncio.get_running_loop()
        self._forced = asyncio.Event()
        self._loop.set_exception_handler(log_loop_exception)
        try:
            await super().serve(sockets=sockets if sockets is not None else self.listeners)
        finally:
            gc.unfreeze()
            for listener in self.listeners:
                listener.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        except SystemExit:
            raise StartupFailed("the application did not start") from self._lifespan_guard.failure
        # What start-up made lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        log.info("listening", host=self.settings.host, port=self.port)
        self._on_listening()
        sys.stdout.write(f"listening on http://{_bracketed(self.settings.host)}:{self.port}\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert self._forced is not None, "set in serve()"  # noqa: S101 - states an order of calls for the type checker
        log.info("draining", seconds=self.settings.drain_seconds)
        if self._lifespan_guard.failure is None:
            seconds = self.settings.drain_seconds + DRAIN_MARGIN_SECONDS
            self.drain_result = await drain_within(self._drain, seconds, self._forced)
        else:
            self.drain_result = "failed"  # what would be drained is gone
        log.info("drained", result=self.drain_result)
        try:
            # uvicorn bounds the connections' end (timeout_graceful_shutdown), but not the lifespan's.
            seconds = FORCED_SECONDS if self._forced.is_set() else GRACEFUL_SECONDS + CLEANUP_SECONDS
            async with asyncio.timeout(seconds) as self._stopping:
                await super().shutdown(sockets=sockets)
        except TimeoutError:
            self.drain_result = "timeout"
            log.error("shutdown_timeout")
        finally:
            self._stopping = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signals are not raised again at the end: a stop that was asked for is a clean exit."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None = None) -> None:
        """Ask for the stop; asked again, force it: the drain, and every wait for connections, end at once."""
        if not self.should_exit:
            self.should_exit = True
            return
        self.force_exit = True
        self._forced_by = sig
        if not self.started:  # nothing listens for `force_exit` yet
            raise KeyboardInterrupt
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._force)

    def _stop(self) -> None:
        self.should_exit = True

    def _force(self) -> None:
        if self._forced is not None:
            self._forced.set()
        if self._stopping is not None and self._loop is not None:
            self._stopping.reschedule(self._loop.time() + FORCED_SECONDS)


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        _as_uvicorn(app),
        http=DeadlineH11Protocol,  # h11: httptools accepts heads of 64 MiB
        ws="websockets-sansio",
        loop="auto",
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,  # believed from loopback, or from whom FORWARDED_ALLOW_IPS names
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        ws_max_size=settings.limits.client_frame_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.heartbeat_seconds,
        ws_ping_timeout=settings.heartbeat_seconds,
    )


def _as_uvicorn(app: ASGIApp) -> ASGIApplication:
    return app  # type: ignore[return-value]  # the same protocol, with scopes as dicts here and TypedDicts there


class _LifespanGuard:
    """Sees how the application's lifespan ends, which uvicorn keeps to itself.

    Starlette hands uvicorn a formatted traceback to log; that stays out of the log. What ends the lifespan after the
    start, be it in the middle of serving, is logged here, and `on_failure` is called.
    """

    def __init__(self, app: ASGIApp, on_failure: Callable[[], None]) -> None:
        self._app = app
        self._on_failure = on_failure
        self.failure: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_without_text(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "lifespan.startup.complete"
            if message["type"].endswith(".failed"):
                message = {"type": message["type"], "message": ""}
            await send(message)

        try:
            await self._app(scope, receive, send_without_text)
        except BaseException as error:
            self.failure = error
            if started and not isinstance(error, asyncio.CancelledError):  # that is a stop that was forced
                log.error("application_failed", exc_info=error)
                self._on_failure()
            raise
