"""The floor: a bare ASGI application that reads the SSE with aiohttp and keeps no state. Nobody could use it."""

from __future__ import annotations

import os
from typing import Any

import aiohttp
import msgspec
import uvicorn

URL = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
HEADERS = {
    "x-api-key": os.environ["ANTHROPIC_API_KEY"],
    "anthropic-version": "2023-06-01",
    "content-type": "application/json",
}
decode, encode = msgspec.json.decode, msgspec.json.encode


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    question = decode((await receive())["text"])["content"]
    body = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 1000,
        "stream": True,
        "messages": [{"role": "user", "content": question}],
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(URL, data=encode(body), headers=HEADERS) as response,
    ):
        async for line in response.content:
            if line.startswith(b"data:"):
                event = decode(line[5:])
                if event["type"] == "content_block_delta":
                    frame = encode({"type": "message", "content": event["delta"]["text"]})
                    await send({"type": "websocket.send", "text": frame.decode()})
    await send({"type": "websocket.send", "text": '{"type":"done"}'})


if __name__ == "__main__":
    uvicorn.run(app, port=0, log_level="info", ws="websockets-sansio", ws_per_message_deflate=False, access_log=False)
