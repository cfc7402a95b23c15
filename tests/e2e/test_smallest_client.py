"""The client that the README shows: one frame out, append `content` of each `message`."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from tests.fakes.messages_api import MessagesApi
from tests.server import TOKENS, GatewayProcess


@pytest.mark.parametrize("agent", ["demo", "claude"])
async def test_the_smallest_client_shows_the_whole_answer(
    gateway: GatewayProcess, messages_api: MessagesApi, agent: str
) -> None:
    shown = ""
    url = f"{gateway.url.replace('http', 'ws')}/api/{agent}/ws"
    token = {"Authorization": f"Bearer {TOKENS['alice']}"}
    async with asyncio.timeout(10), connect(url, additional_headers=token, proxy=None) as socket:
        await socket.send('{"type":"message","content":"Hi"}')
        async for text in socket:
            frame = json.loads(text)
            if frame["type"] == "message":
                shown += frame["content"]
            if frame["type"] == "done":
                break
    assert frame["status"] == "completed"
    assert shown == frame["content"]
    assert shown == "Hello there" if agent == "claude" else "You wrote: *Hi*" in shown
