"""Gateways, and a proxy before them."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.deploy.proxies import PROXIES, Proxy, running
from tests.e2e.conftest import agents_for, messages_api, reserved_port, upstream_port
from tests.server import TOKENS, GatewayProcess

__all__ = ["messages_api", "upstream_port"]  # fixtures, for the tests of this folder

NewProxy = Callable[..., Proxy]
NewGateway = Callable[..., GatewayProcess]
NewClient = Callable[..., Client]

OWNER = "token-of-owner"
TOKENS_HERE = {**TOKENS, "owner": OWNER}


@pytest.fixture(scope="session", autouse=True)
def _linux() -> None:
    if sys.platform != "linux":
        pytest.skip("what is in deploy/ is for Linux")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream_port: int) -> Iterator[GatewayProcess]:
    """One gateway for all tests of the module."""
    settings = {"AUTH__TOKENS": TOKENS_HERE, "DRAIN_SECONDS": "0", "AGENTS": agents_for(upstream_port)}
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), settings)
    process.start()
    try:
        yield process
    finally:
        process.stop_now()


@pytest.fixture(scope="module", params=sorted(PROXIES))
def proxy(
    request: pytest.FixtureRequest, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """Each proxy in turn, as it ships, before the module's gateway."""
    with reserved_port() as port:
        made = PROXIES[request.param](tmp_path_factory.mktemp(request.param), port, [gateway.url])
        with running(made):
            yield made


@pytest.fixture
def new_gateway(tmp_path: Path) -> Iterator[NewGateway]:
    """Starts gateways of the test's own; settings as keyword arguments."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count()

        def make(**environment: Any) -> GatewayProcess:
            settings = {"AUTH__TOKENS": TOKENS_HERE, **environment}
            process = GatewayProcess(tmp_path / f"gateway-{next(numbers)}", settings)
            stack.callback(process.stop_now)
            process.start()
            return process

        yield make


@pytest.fixture
def new_proxy(tmp_path: Path) -> Iterator[NewProxy]:
    """Starts proxies of the test's own: a name, what is behind it, replacements in its files, and its attributes."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count()

        def make(name: str, urls: list[str], changes: dict[str, str] | None = None, **attributes: Any) -> Proxy:
            port = stack.enter_context(reserved_port())
            made = PROXIES[name](tmp_path / f"{name}-{next(numbers)}", port, urls, changes)
            for attribute, value in attributes.items():
                setattr(made, attribute, value)
            return stack.enter_context(running(made))

        yield make


@pytest.fixture
async def new_client() -> AsyncIterator[NewClient]:
    """Makes clients of a proxy, to be connected by the test and closed behind it."""
    made: list[Client] = []

    def make(proxy: Proxy, token: str | None = TOKENS["alice"], **options: Any) -> Client:
        made.append(Client(proxy.url, token=token, **options))
        return made[-1]

    yield make
    async with contextlib.AsyncExitStack() as stack:
        for client in made:
            if client.connected:
                stack.push_async_callback(client.abort)
