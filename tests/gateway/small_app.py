"""The command `agentline` around a small application instead of the gateway's, for tests of the process it runs in.

`SMALL_APP_START` makes the start fail; `SMALL_APP_DRAIN=forever` makes a drain that never ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import types
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.settings import Settings
from gateway.store.base import StoreUnavailable

SECRET = "hunter2-do-not-show"


def create_app(settings: Settings, *, hang_at_the_end: bool = False) -> Starlette:
    draining, finish, ending = asyncio.Event(), asyncio.Event(), asyncio.Event()
    fault = asyncio.Event()
    sockets: set[WebSocket] = set()

    async def drain() -> None:
        draining.set()
        for socket in list(sockets):
            await socket.send_text("goodbye")
        await finish.wait()

    async def websocket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("draining" if draining.is_set() else "ready")
        sockets.add(socket)
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.send_text(await socket.receive_text())
        sockets.discard(socket)

    async def end(request: Request) -> PlainTextResponse:
        if os.environ.get("SMALL_APP_DRAIN") != "forever":
            finish.set()
        return PlainTextResponse("ok")

    async def endless(request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "first"
            await asyncio.Event().wait()

        return StreamingResponse(pieces())

    async def fail(request: Request) -> PlainTextResponse:
        raise ValueError(SECRET)

    async def orphan(request: Request) -> PlainTextResponse:
        async def fails() -> None:
            raise ValueError(SECRET)

        await asyncio.wait([asyncio.create_task(fails())])  # and no one looks at what it raised
        return PlainTextResponse("ok")

    async def environment(request: Request) -> PlainTextResponse:
        return PlainTextResponse("\n".join(f"{name}={value}" for name, value in os.environ.items()))

    async def fails_when_asked() -> None:
        await fault.wait()
        raise ValueError(SECRET)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        match os.environ.get("SMALL_APP_START"):
            case "store":
                raise StoreUnavailable("the database does not answer")
            case "fault":
                raise ValueError(SECRET)
        async with asyncio.TaskGroup() as tasks:
            engine = tasks.create_task(fails_when_asked())
            yield
            engine.cancel()
        ending.set()
        if hang_at_the_end:
            await asyncio.Event().wait()

    app = Starlette(
        routes=[
            WebSocketRoute("/ws", websocket),
            Route("/finish", end),
            Route("/endless", endless),
            Route("/fail", fail),
            Route("/orphan", orphan),
            Route("/environment", environment),
        ],
        lifespan=lifespan,
    )
    app.state.drain = drain
    app.state.ending = ending
    app.state.fault = fault
    return app


if __name__ == "__main__":
    stand_in = types.ModuleType("gateway.app")
    stand_in.create_app = create_app  # type: ignore[attr-defined]  # a module made by hand
    sys.modules["gateway.app"] = stand_in
    from gateway.cli import main

    sys.exit(main())
