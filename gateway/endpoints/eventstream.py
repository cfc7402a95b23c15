"""A connection's frames as server-sent events: the answer to one HTTP request, for as long as it lasts.

connection.next_frame → Rendering.show → send        one event after another, at the reader's pace
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.connection import Connection, StreamConnection
from gateway.devicetokens import TokenRevoked
from gateway.endpoints.sending import BURST, catch_up
from gateway.errors import StoreUnavailable
from gateway.ids import new_id
from gateway.request_deadline import DROP
from gateway.senddeadline import SendDeadline
from gateway.services import Services
from gateway.store.base import STORE_RETRY_SECONDS

HEARTBEAT = b": heartbeat\n\n"
"""A comment: clients pass over it, and proxies see that the connection lives."""
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""No cache keeps it, and no proxy collects it first."""
CLOSE_SECONDS = 1.0
"""For the last bytes to a client that reads nothing."""
LAST = frozenset(("detached", "goodbye"))
"""No frame of the thread comes behind these."""

_log = structlog.get_logger(__name__)


class Shown(msgspec.Struct, frozen=True, gc=False):
    """What streams look at in a frame."""

    type: str
    turn_id: str = ""
    cursor: str = ""
    content: str = ""
    status: str = ""
    error: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(Shown)


class Rendering(Protocol):
    """How frames look in one kind of stream."""

    def show(self, frame: str, shown: Shown) -> str:
        """The text of the stream that shows `frame`; empty if nothing does."""
        ...


def open_connection(services: Services, user_id: str, agent: str) -> StreamConnection:
    """A connection that shows one thread of the user."""
    return StreamConnection(
        connection_id=new_id("c"),
        user_id=user_id,
        agent=agent,
        device_id=None,
        logs=services.logs,
        frame_bytes=services.settings.limits.server_frame_bytes,
        on_joined=services.metrics.frames_joined,
    )


def drop_of(scope: Scope) -> Callable[[], None]:
    """What drops the request's connection at once; nothing where the server does not offer it."""
    offered: dict[str, Callable[[], None]] = scope.get("extensions", {}).get(DROP, {})
    return offered.get("drop", lambda: None)


@contextlib.contextmanager
def closed_on_failure(connection: Connection) -> Iterator[None]:
    """Let go of what the connection follows if the request is refused after all."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


class EventStream(Response):
    """Sends what the connection has, until the thread is left, the server says goodbye, the client goes away or stops
    reading; with `turn_id`, until that turn is done. The end of a stream never touches a turn.

    Takes the connection over and closes it. `token_id` is the device token that the request showed, if it was one: the
    stream ends when that is revoked.
    """

    def __init__(
        self,
        connection: Connection,
        services: Services,
        rendering: Rendering,
        *,
        turn_id: str | None = None,
        token_id: str | None = None,
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._connection = connection
        self._services = services
        self._rendering = rendering
        self._turn_id = turn_id
        self._token_id = token_id
        self._doubtful = turn_id is not None
        """Whether the turn may be over without a `done` that is still to come."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection, services = self._connection, self._services
        services.hub.add(connection)
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self._token_id is not None:
                    await stack.enter_async_context(services.device_tokens.watch(self._token_id))
                await self._serve(receive, send, drop_of(scope))
        except TokenRevoked:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await send({"type": "http.response.body", "body": b""})
        finally:
            services.hub.remove(connection)
            connection.close()

    async def _serve(self, receive: Receive, send: Send, drop: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(_until_gone(receive))
                try:
                    await self._send_all(send)
                finally:
                    listening.cancel()
        except* _Gone:
            pass
        except* TimeoutError:
            _log.info("stream_dropped", connection_id=self._connection.connection_id, reason="the client does not read")
            drop()
            await asyncio.sleep(0)  # then uvicorn knows that nobody misses the rest

    async def _send_all(self, send: Send) -> None:
        connection, services = self._connection, self._services
        burst = 0
        async with services.send_deadlines.watch() as deadline:
            writer = _Writer(send, deadline)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with _Heartbeat(connection, services.settings.heartbeat_seconds) as heartbeat:
                while True:
                    frame = connection.next_frame()
                    if frame is not None:
                        shown = _decoder.decode(frame)
                        if text := self._rendering.show(frame, shown):
                            await writer.write(text.encode())
                        if self._ends_with(shown):
                            break
                        burst += 1
                        if burst % BURST == 0:
                            await asyncio.sleep(0)
                        continue
                    burst = 0
                    if (follow := connection.behind) is not None:
                        await catch_up(connection, follow, services)
                    elif heartbeat.due:
                        heartbeat.due = False
                        await writer.write(HEARTBEAT)
                    elif self._doubtful and await self._over():
                        break
                    else:
                        await connection.news()
            await writer.end()

    def _ends_with(self, shown: Shown) -> bool:
        if shown.type == "snapshot":
            self._doubtful = self._turn_id is not None
        return shown.type in LAST or (shown.type == "done" and shown.turn_id == self._turn_id)

    async def _over(self) -> bool:
        """Whether the turn has ended, and its `done` lies behind the place where this client stands."""
        assert self._turn_id is not None  # noqa: S101 - only then in doubt
        try:
            found = await self._services.store.turn(self._connection.user_id, self._turn_id)
            if found is not None and found[1].finished_at is None:
                self._doubtful = False
                return False
            if found is not None:
                async with self._services.logs.held(found[0].key) as log:
                    await self._services.logs.catch_up(log, found[0])
        except LookupError:
            pass  # the thread is being deleted
        except StoreUnavailable:
            await asyncio.sleep(STORE_RETRY_SECONDS)
            return False
        return self._connection.caught_up


class _Gone(Exception):
    """The client has closed the connection."""


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _Gone


class _Writer:
    """Sends the parts of one answer, each within the send deadline."""

    def __init__(self, send: Send, deadline: SendDeadline) -> None:
        self._send = send
        self._deadline = deadline
        self._time = asyncio.get_running_loop().time

    async def write(self, body: bytes, *, more: bool = True) -> None:
        self._deadline.since = self._time()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self._deadline.since = None

    async def end(self) -> None:
        await self.write(b"", more=False)


class _Heartbeat:
    """Becomes `due` every so many seconds, and wakes the connection's sender then. One timer, not one per frame."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.due = False

    def _beat(self) -> None:
        self.due = True
        self._connection.wake()
        self._timer = self._loop.call_later(self._seconds, self._beat)

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._seconds, self._beat)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
