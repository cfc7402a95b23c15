"""A stream over asyncio: connects, reconnects, and hands out what the session makes of the frames."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from agentline import calls
from agentline.address import Address
from agentline.deadlines import Backoff, Deadlines
from agentline.endings import Lost, closed, refused_upgrade
from agentline.errors import AgentlineError, ContractBroken, TimedOut
from agentline.events import ApprovalRequest, ApprovalResolved, Event
from agentline.http import AsyncHttp
from agentline.session import Session, moved
from agentline.sockets import SERVER_FRAME_BYTES, SILENT
from agentline.turn_session import TurnSession

__all__ = ["Decide", "Follow", "Stream", "TurnStream"]

AHEAD = 16
"""Frames read ahead of the caller. Behind them the socket is not read: the gateway then joins what it has to say."""

Answer: TypeAlias = "str | tuple[str, str] | None"
"""An option's id; with it the person's words; None: leave it to somebody else."""
Decide: TypeAlias = Callable[[ApprovalRequest], "Answer | Awaitable[Answer]"]

AnySession = TypeVar("AnySession", bound=Session)


class _Connect(connect):
    """Follows no redirect: it would carry the token, or lose it on the way."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Stream(Generic[AnySession]):
    """An asynchronous iterator of events; made by `Agentline`. For one task at a time.

    A call of `anext` may be cancelled at any time, and the next one goes on where it was. Leaving the loop early frees
    the connection as soon as the stream is dropped, or at once with `aclose` or `async with`. The turn goes on.

    Raises:
        Refused, Disconnected, TimedOut, ContractBroken: from `anext`; the stream is closed then.
    """

    def __init__(
        self,
        address: Address,
        deadlines: Deadlines,
        http: AsyncHttp,
        agent: str | Callable[[], Coroutine[Any, Any, str]],
        session: AnySession,
        *,
        on_approval: Decide | None = None,
        within: float | None = None,
    ) -> None:
        self._address = address
        self._deadlines = deadlines
        self._http = http
        self._agent = agent
        self._session = session
        self._on_approval = on_approval
        self._within = within
        self._backoff = Backoff(deadlines)
        self._loop = asyncio.get_running_loop()
        self._ends_at = None if within is None else self._loop.time() + within
        self._connect_at = 0.0
        self._answer_by = 0.0
        self._events: deque[Event] = deque()
        self._socket: ClientConnection | None = None
        self._deciding: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            async with asyncio.timeout_at(self._ends_at) as deadline:
                while not self._events:
                    if self._closed or self._session.over:
                        await self.aclose()
                        raise StopAsyncIteration
                    await self._advance()
        except (StopAsyncIteration, asyncio.CancelledError):
            raise
        except TimeoutError:
            await self.aclose()
            if deadline.expired() and self._within is not None:
                raise TimedOut(self._within) from None
            raise
        except BaseException:
            await self.aclose()
            raise
        return self._events.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connection; the turn goes on. After it the stream has no more events."""
        self._closed = True
        deciding, self._deciding = self._deciding, {}
        for task in deciding.values():
            task.cancel()
        socket, self._socket = self._socket, None
        try:
            if deciding:
                await asyncio.wait(deciding.values())
                for task in deciding.values():
                    _ = task.cancelled() or task.exception()  # the stream ended first: nobody is left to hear of it
        finally:
            if socket is not None:
                await self._release(socket)

    async def _release(self, socket: ClientConnection) -> None:
        """Close in order when all is said, so that our last frame is read; else at once."""
        try:
            if self._session.over:
                await socket.close()
        finally:
            socket.transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadlines.close):
                await socket.wait_closed()

    def __del__(self) -> None:
        socket = getattr(self, "_socket", None)
        if socket is None or self._loop.is_closed():
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed in this very moment
            self._loop.call_soon_threadsafe(socket.transport.abort)

    async def _advance(self) -> None:
        """One step: connect, look the turn up, or take one frame."""
        session = self._session
        try:
            if self._socket is None:
                await self._connect()
            if session.needs_turn and session.turn_id is not None:
                turn = await self._http.perform(calls.turn(session.turn_id))
                self._take(session.looked_up(turn))
            else:
                self._take(session.receive(await self._receive()))
            await self._flush()
        except ConnectionClosed as error:
            await self._after(closed(error.rcvd.code if error.rcvd else _own_code(error), by_gateway=bool(error.rcvd)))
        except Lost as lost:
            await self._after(lost)

    async def _connect(self) -> None:
        delay = self._connect_at - self._loop.time()
        if delay > 0:
            await asyncio.sleep(delay)
        if not isinstance(self._agent, str):
            self._agent = await self._agent()
        address, deadlines = self._address, self._deadlines
        tls: dict[str, Any] = {"ssl": address.tls} if address.tls is not None else {}
        try:
            self._socket = await _Connect(
                address.socket(self._agent),
                additional_headers=address.bearer(),
                compression=None,
                proxy=None,
                open_timeout=deadlines.connect,
                ping_interval=deadlines.heartbeat,
                ping_timeout=deadlines.heartbeat,
                close_timeout=deadlines.close,
                max_size=SERVER_FRAME_BYTES,
                max_queue=AHEAD,
                logger=SILENT,
                **tls,
            )
        except InvalidStatus as error:
            response = error.response
            ending = refused_upgrade(response.status_code, response.headers, response.body or b"")
            raise ending from None
        except InvalidMessage as error:  # among others: the connection was cut in the middle of the handshake
            raise Lost(f"the upgrade failed: {error}") from None
        except InvalidHandshake as error:
            raise ContractBroken(f"this is no gateway: {error}") from None
        except ssl.SSLCertVerificationError as error:
            raise ContractBroken(f"the gateway's certificate: {error.verify_message}") from None
        except (OSError, TimeoutError) as error:
            raise Lost(str(error) or type(error).__name__) from None
        self._backoff.connected()
        self._answer_by = self._loop.time() + deadlines.answer
        self._session.connected()

    async def _receive(self) -> str:
        """The next frame.

        Raises:
            Lost: no answer came in time.
            ConnectionClosed
        """
        socket = self._socket
        if socket is None:  # closed by another task
            raise Lost("the stream was closed")
        try:
            async with asyncio.timeout_at(None if self._session.answered else self._answer_by):
                text = await (self._receive_beside(socket) if self._deciding else socket.recv())
        except TimeoutError:
            raise Lost("the gateway did not answer in time") from None
        if not isinstance(text, str):
            raise ContractBroken("a binary frame")
        return text

    async def _receive_beside(self, socket: ClientConnection) -> str | bytes:
        """`recv`, while decisions are on their way; what one of them raises is raised here."""
        receiving = asyncio.ensure_future(socket.recv())
        try:
            while not receiving.done():
                await asyncio.wait((receiving, *self._deciding.values()), return_when=asyncio.FIRST_COMPLETED)
                for approval_id, task in list(self._deciding.items()):
                    if task.done():
                        del self._deciding[approval_id]
                        task.result()
            return receiving.result()
        finally:
            receiving.cancel()  # which loses nothing
            if not receiving.done():
                await asyncio.wait((receiving,))

    def _take(self, events: list[Event]) -> None:
        if moved(events):
            self._backoff.progressed()
        for event in events:
            self._events.append(event)
            if isinstance(event, ApprovalRequest) and self._on_approval is not None:
                deciding = _decide(self._http, self._on_approval, event)
                self._deciding[event.approval_id] = self._loop.create_task(deciding, name="agentline approval")
            elif isinstance(event, ApprovalResolved) and event.approval_id in self._deciding:
                self._deciding[event.approval_id].cancel("decided elsewhere")

    async def _flush(self) -> None:
        session, socket = self._session, self._socket
        while session.outgoing and socket is not None:
            try:
                async with asyncio.timeout(self._deadlines.answer):
                    await socket.send(session.outgoing[0])
            except TimeoutError:
                raise Lost("the gateway reads nothing") from None
            session.outgoing.pop(0)

    async def _after(self, ending: AgentlineError | Lost) -> None:
        """The connection has ended: raise, or come back later."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.transport.abort()
        session = self._session
        session.outgoing.clear()
        if session.over:  # all is said; only our last word may be lost
            return
        if not isinstance(ending, Lost):
            raise ending
        delay = self._backoff.lost(ending.reason, max(session.pause, ending.at_least))
        self._connect_at = self._loop.time() + delay


class TurnStream(Stream[TurnSession]):
    """The events of one turn: `Accepted` first, `Done` last."""

    @property
    def thread_id(self) -> str | None:
        """None until the gateway, which chooses it, has accepted the message."""
        return self._session.thread_id

    @property
    def turn_id(self) -> str | None:
        """None until the message was accepted."""
        return self._session.turn_id

    @property
    def text(self) -> str:
        """The answer so far, resets applied."""
        return self._session.text

    async def cancel(self) -> None:
        """Stop the turn; its `Done` with status `cancelled` still comes.

        Raises:
            RuntimeError: the message was not accepted yet.
            Refused, Disconnected
        """
        if self.turn_id is None:
            raise RuntimeError("there is no turn yet: wait for Accepted")
        await self._http.perform(calls.cancel(self.turn_id))


class Follow(Stream[Any]):
    """The events of a thread, without end."""


async def _decide(http: AsyncHttp, decide: Decide, request: ApprovalRequest) -> None:
    """Ask the caller, and tell the gateway. Cancelled when somebody else was faster."""
    try:
        answer = decide(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None:
            return
        decision, text = (answer, None) if isinstance(answer, str) else answer
        await http.perform(calls.decide(request.approval_id, decision, text))
    except asyncio.CancelledError as cancelled:
        if cancelled.args != ("decided elsewhere",):
            raise


def _own_code(error: ConnectionClosed) -> int | None:
    return error.sent.code if error.sent is not None else None
