"""A gateway over a real socket that does what a test says: for what the real one does too seldom to wait for.

It is strict about the client: the token, the order of frames, and that each is one the protocol knows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeAlias

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from gateway import protocol
from gateway.errors import BadFrame

__all__ = ["FakeGateway", "Peer"]

TOKEN = "token-of-alice"
NOW = "2026-11-20T07:40:00.123Z"


class Peer:
    """One connection of the client, in a test's script."""

    def __init__(self, socket: ServerConnection, number: int) -> None:
        self.socket = socket
        self.number = number
        """From 0."""

    async def send(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, "timestamp": NOW, **fields}))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            text = await self.socket.recv()
        assert isinstance(text, str)
        protocol.decode(text)  # raises where the gateway would refuse
        frame: dict[str, Any] = json.loads(text)
        return frame

    async def ready(self) -> None:
        await self.send("ready", protocol=1, agent="a", user_id="alice", connection_id="c", heartbeat_seconds=20)

    async def accept(self, cursor: str = "1:0", **fields: Any) -> dict[str, Any]:
        """`ready`, the message, `accepted`; returns the message."""
        await self.ready()
        message = await self.receive()
        assert message["type"] == "message"
        await self.send(
            "accepted",
            id=message["id"],
            thread_id="t",
            turn_id="u",
            message_id="m",
            cursor=cursor,
            duplicate=False,
            queued=0,
            **fields,
        )
        return message

    async def log(self, type: str, cursor: str, **fields: Any) -> None:
        await self.send(type, thread_id="t", turn_id="u", cursor=cursor, **fields)

    async def done(self, cursor: str, content: str, **fields: Any) -> None:
        await self.log("done", cursor, status="completed", message_id="a", content=content, **fields)


Script: TypeAlias = Callable[[Peer], Awaitable[None]]


class FakeGateway:
    """`script` runs for each connection; `refusals` answer the upgrades before it; `turn` is what HTTP knows of `u`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._server: Server | None = None
        self.refusals: list[tuple[int, bytes, dict[str, str]]] = []
        self.turn: dict[str, Any] = {}
        self.connections = 0
        self.errors: list[BaseException] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await serve(self._serve, "127.0.0.1", 0, process_request=self._request, compression=None)
        self.url = f"http://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        if error is None and self.errors:
            raise self.errors[0]

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return connection.respond(HTTPStatus.UNAUTHORIZED, "")
        if request.path == "/api/turns/u":
            response = connection.respond(HTTPStatus.OK, json.dumps(self.turn))
            response.headers["Connection"] = "close"
            return response
        if self.refusals:
            status, body, headers = self.refusals.pop(0)
            response = connection.respond(HTTPStatus(status), body.decode())
            for name, value in headers.items():
                response.headers[name] = value
            return response
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        peer = Peer(socket, self.connections)
        self.connections += 1
        try:
            await self._script(peer)
        except (AssertionError, BadFrame) as error:
            self.errors.append(error)
