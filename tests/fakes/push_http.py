"""An HTTP/1.1 server for the fakes of FCM, Web Push and ntfy: real sockets, TLS if asked for, faults on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import h11

from tests.fakes.push_tls import Authority


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer, ever."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection closes without an answer."""


@dataclass(frozen=True, slots=True)
class TcpReset:
    """The connection is reset without an answer."""


@dataclass(frozen=True, slots=True)
class Endless:
    """An answer of 200 whose body never ends."""


Action: TypeAlias = Reply | Hang | Drop | TcpReset | Endless
Handler: TypeAlias = Callable[[Request], Awaitable[Action]]


@asynccontextmanager
async def serve(handler: Handler, authority: Authority | None) -> AsyncIterator[str]:
    """Yields the server's URL. Connections still open at the end are closed."""
    tasks: set[asyncio.Task[None]] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _converse(handler, reader, writer)
        except (ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass  # a task of the server's own: nobody awaits it
        finally:
            tasks.discard(task)
            writer.close()
            with suppress(Exception):
                await writer.wait_closed()

    context = authority.context() if authority is not None else None
    server = await asyncio.start_server(client, "127.0.0.1", 0, ssl=context)
    try:
        scheme = "https" if authority is not None else "http"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _converse(handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    while True:
        request = await _receive(connection, reader)
        if request is None:
            return
        action = await handler(request)
        match action:
            case Reply():
                headers = {"content-length": str(len(action.body))} | action.headers
                writer.write(
                    connection.send(h11.Response(status_code=action.status, headers=list(headers.items()))) or b""
                )
                writer.write(connection.send(h11.Data(data=action.body)) or b"")
                writer.write(connection.send(h11.EndOfMessage()) or b"")
                await writer.drain()
            case Hang():
                await asyncio.Event().wait()
            case Drop():
                return
            case TcpReset():
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            case Endless():
                writer.write(connection.send(h11.Response(status_code=200, headers=[])) or b"")
                while True:
                    writer.write(connection.send(h11.Data(data=b"x" * 65_536)) or b"")
                    await writer.drain()
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode("ascii"): value.decode("ascii") for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), headers, bytes(body))
        else:
            return None
