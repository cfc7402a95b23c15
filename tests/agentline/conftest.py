"""A running gateway, and a client of it that does not take long to come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentline import Agentline, Deadlines
from tests.agentline.proxy import Proxy
from tests.e2e.conftest import (  # noqa: F401 - fixtures
    gateway,
    messages_api,
    new_gateway,
    upstream_port,
)
from tests.server import TOKENS, GatewayProcess

QUICK = Deadlines(connect=5, answer=5, heartbeat=5, give_up=20, close=1, first_delay=0.01, longest_delay=0.1)
NewLine = Callable[..., Agentline]


def line_to(url: str, deadlines: Deadlines = QUICK, user: str = "alice") -> Agentline:
    return Agentline(url, TOKENS[user], deadlines=deadlines)


@pytest.fixture
async def line(gateway: GatewayProcess) -> AsyncIterator[Agentline]:  # noqa: F811
    async with line_to(gateway.url) as line:
        yield line


@pytest.fixture
async def proxy(gateway: GatewayProcess) -> AsyncIterator[Proxy]:  # noqa: F811
    async with Proxy(gateway.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def gateway_environment() -> dict[str, Any]:
    """Turns that are left to hang do not keep the gateway from stopping."""
    return {"DRAIN_SECONDS": 0}
