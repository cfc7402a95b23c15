"""The gateway on a real socket, but in this process, so that a test can look inside and bring providers of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from gateway.app import create_app
from gateway.server import GatewayServer, listen
from gateway.services import Services
from gateway.settings import Settings
from providers.registry import create
from tests.client import Client
from tests.server import TOKENS

START_SECONDS = 20.0


class GatewayHere:
    """A gateway that runs in this loop."""

    def __init__(self, app: Starlette, server: GatewayServer) -> None:
        self._app = app
        self.url = f"http://127.0.0.1:{server.port}"

    @property
    def services(self) -> Services:
        services: Services = self._app.state.services
        return services

    def client(self, user: str = "alice", **options: Any) -> Client:
        return Client(self.url, token=TOKENS[user], **options)


@contextlib.asynccontextmanager
async def gateway_here(
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    providers: Mapping[str, Any] | None = None,
    agents: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[GatewayHere]:
    """Serve until the block ends. `providers` are agents of their own, beside those that `agents` configures."""
    given = dict(providers or {})

    def create_or_give(name: str, options: Mapping[str, Any]) -> Any:
        return given[name] if name in given else create(name, options)

    monkeypatch.setattr("gateway.agents.create", create_or_give)
    configured = {"codex": None, "claude": None, "demo": {"pace": 0}, **{name: {} for name in given}, **(agents or {})}
    made = Settings(
        state_dir=state_dir, port=0, agents=configured, auth={"tokens": TOKENS}, drain_seconds=0, **settings
    )
    app = create_app(made)
    server = GatewayServer(app, made, app.state.drain, listeners=listen("127.0.0.1", 0))
    monkeypatch.setattr(server, "capture_signals", contextlib.nullcontext)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(START_SECONDS):
            while not server.started:
                if serving.done():
                    serving.result()
                await asyncio.sleep(0.01)
        yield GatewayHere(app, server)
    finally:
        server.should_exit = True
        async with asyncio.timeout(START_SECONDS):
            await serving
        asyncio.get_running_loop().set_exception_handler(None)
