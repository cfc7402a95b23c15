"""What people write in ten lines: the usual relay, as its authors would run it."""

import uvicorn
from anthropic import AsyncAnthropic
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

client = AsyncAnthropic()


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    question = (await websocket.receive_json())["content"]
    messages = [{"role": "user", "content": question}]
    async with client.messages.stream(model="claude-sonnet-5-5", max_tokens=1000, messages=messages) as stream:
        async for text in stream.text_stream:
            await websocket.send_json({"type": "message", "content": text})
    await websocket.send_json({"type": "done"})


if __name__ == "__main__":
    uvicorn.run(Starlette(routes=[WebSocketRoute("/", chat)]), port=0, log_level="info", access_log=False)
