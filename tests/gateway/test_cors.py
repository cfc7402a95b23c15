"""Pages of other origins: what the middleware lets through, and that sockets do not pass it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.app import create_app
from gateway.endpoints.cors import cross_origin
from gateway.origins import origin_listed
from gateway.settings import Settings

PAGE = "https://chat.example"


def test_without_allowed_origins_there_is_no_middleware(tmp_path: Path) -> None:
    assert cross_origin(Settings(state_dir=tmp_path)) == []
    assert len(cross_origin(Settings(state_dir=tmp_path, allowed_origins=(PAGE,)))) == 1


@pytest.mark.parametrize(
    ("origin", "listed"),
    [
        ("https://chat.example", True),
        ("https://CHAT.example", True),
        ("https://chat.example:443", True),
        ("http://chat.example", False),
        ("https://chat.example:8443", False),
        ("https://a.chat.example", False),
        ("http://localhost:3000", True),
        ("http://localhost:3001", False),
        ("chat.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_only_what_the_entries_name_is_listed(origin: str, listed: bool) -> None:
    assert origin_listed(origin, (PAGE, "localhost:3000")) is listed


async def test_a_socket_passes_no_middleware(tmp_path: Path) -> None:
    app = create_app(Settings(state_dir=tmp_path, allowed_origins=(PAGE,)))
    reached: list[str] = []

    async def router(scope: Any, receive: Any, send: Any) -> None:
        reached.append("router")

    async def stack(scope: Any, receive: Any, send: Any) -> None:
        reached.append("middleware")

    async def nothing(*_: Any) -> None:
        pass

    app.router = router  # type: ignore[assignment]  # stands in for it, to see who is called
    app.middleware_stack = stack
    await app({"type": "websocket", "path": "/api/demo/ws"}, nothing, nothing)
    await app({"type": "http", "path": "/api/agents"}, nothing, nothing)
    assert reached == ["router", "middleware"]
