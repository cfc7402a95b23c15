"""A running gateway, and the upstream that it calls."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.fakes.messages_api import MessagesApi
from tests.fakes.responses_api import ResponsesApi
from tests.server import MODULE, TOKENS, GatewayProcess

NewClient = Callable[..., Client]
NewGateway = Callable[..., GatewayProcess]


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port that stays ours: nothing listens on it but what is told to."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


@pytest.fixture(scope="module")
def upstream_port() -> Iterator[int]:
    """A port that stays this module's: the gateway is told of it once, each test's `messages_api` listens on it."""
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def responses_port() -> Iterator[int]:
    """The like, for `responses_api`."""
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def dead_port() -> Iterator[int]:
    """Nothing ever listens on it."""
    with reserved_port() as port:
        yield port


@pytest.fixture
async def responses_api(responses_port: int) -> AsyncIterator[ResponsesApi]:
    """The model of Codex and of the agents that speak the Responses API, for one test."""
    async with ResponsesApi(port=responses_port) as api:
        yield api


@pytest.fixture
async def messages_api(upstream_port: int) -> AsyncIterator[MessagesApi]:
    """What the agent `claude` calls, for one test."""
    async with MessagesApi(port=upstream_port) as api:
        yield api
        assert not api.refusals


def agents_for(upstream_port: int, **more: Any) -> dict[str, Any]:
    """The agents `demo`, which does not wait between pieces, and `claude`, which calls `messages_api`."""
    claude = {"provider": "claude", "base_url": f"http://127.0.0.1:{upstream_port}", "api_key": "sk-ant-test"}
    return {"codex": None, "demo": {"pace": 0}, "claude": claude, **more}


@pytest.fixture(scope="module")
def gateway_environment() -> dict[str, Any]:
    """Settings of a module's gateway beyond the usual; modules override it."""
    return {}


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream_port: int, gateway_environment: dict[str, Any]
) -> Iterator[GatewayProcess]:
    """One gateway for all tests of the module, which use threads of their own."""
    environment = {"AGENTS": agents_for(upstream_port), "DRAIN_SECONDS": "0", **gateway_environment}
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), environment)
    process.start()
    try:
        yield process
    finally:
        process.stop_now()


@pytest.fixture
def new_gateway(tmp_path: Path, upstream_port: int) -> Iterator[NewGateway]:
    """Makes gateways of the test's own, started by the test; settings as keyword arguments."""
    made: list[GatewayProcess] = []

    def make(command: Any = MODULE, **environment: Any) -> GatewayProcess:
        environment = {"AGENTS": agents_for(upstream_port), **environment}
        made.append(GatewayProcess(tmp_path / f"gateway-{len(made)}", environment, command))
        return made[-1]

    yield make
    for process in made:
        process.stop_now()


@pytest.fixture
async def new_client() -> AsyncIterator[NewClient]:
    """Makes clients of a gateway, to be connected by the test and closed behind it."""
    made: list[Client] = []

    def make(process: GatewayProcess, user: str = "alice", **options: Any) -> Client:
        made.append(Client(lambda: process.url, token=TOKENS[user], **options))
        return made[-1]

    yield make
    async with contextlib.AsyncExitStack() as stack:
        for client in made:
            if client.connected:
                stack.push_async_callback(client.abort)
