"""What a gateway sees of a request: its server process, before an application that says so."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.settings import Settings


def create_app(settings: Settings) -> Starlette:
    async def seen(request: Request) -> JSONResponse:
        client = request.client.host if request.client else None
        headers = [[name, value] for name, value in request.headers.items()]
        return JSONResponse({"client": client, "scheme": request.url.scheme, "headers": headers})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield

    async def drain() -> None:
        return None

    app = Starlette(routes=[Route("/{path:path}", seen, methods=["GET", "POST"])], lifespan=lifespan)
    app.state.drain = drain
    return app


if __name__ == "__main__":
    stand_in = types.ModuleType("gateway.app")
    stand_in.create_app = create_app  # type: ignore[attr-defined]  # a module made by hand
    sys.modules["gateway.app"] = stand_in
    from gateway.cli import main

    sys.exit(main())
