"""A whole thread as one file, streamed page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.clock import rfc3339
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.operations import Binary, Text, operation
from gateway.endpoints.threads import shown_thread, summary_of
from gateway.errors import NotFound
from gateway.protocol import ShownMessage
from gateway.resume import shown_message
from gateway.services import Services
from gateway.store.base import Store
from gateway.store.records import Message, ThreadSummary

PAGE = 100
FORMAT = Text("format", "What the file is.", choices=("json", "markdown"))
FILE = Binary(
    ("application/json", "text/markdown; charset=utf-8"),
    "`{thread, messages}`, or the conversation as Markdown; the running turn's answer is not in it.",
)


@operation("threads", query=(FORMAT,), answers={200: FILE}, errors=(NotFound,))
async def export_thread(request: Request) -> Response:
    """`GET /api/threads/{thread_id}/export`: the whole thread as a file."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    kind = FORMAT.of(request)
    summary = await summary_of(services, identity.user_id, request.path_params["thread_id"])
    pages = _pages(services.store, summary)
    ending, media_type, file = (
        ("json", FILE.media_types[0], _json(summary, pages))
        if kind == "json"
        else ("md", FILE.media_types[1], _markdown(summary, pages))
    )
    headers = {
        "Content-Disposition": f'attachment; filename="{summary.thread.thread_id}.{ending}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(file, media_type=media_type, headers=headers)


async def _pages(store: Store, summary: ThreadSummary) -> AsyncGenerator[list[Message]]:
    """The messages up to the one that was the last when the export began, oldest first."""
    end = summary.last_message.position if summary.last_message is not None else -1
    after = -1
    while after < end:
        page = await store.messages(summary.thread.key, after=after, limit=PAGE)
        page = [message for message in page if message.position <= end]
        if not page:  # deleted meanwhile
            return
        after = page[-1].position
        yield page


async def _json(summary: ThreadSummary, pages: AsyncGenerator[list[Message]]) -> AsyncGenerator[bytes]:
    yield b'{"thread":' + msgspec.json.encode(shown_thread(summary)) + b',"messages":['
    separator = b"\n"
    async for page in pages:
        for message in page:
            yield separator + msgspec.json.encode(shown_message(message))
            separator = b",\n"
    yield b"\n]}\n"


async def _markdown(summary: ThreadSummary, pages: AsyncGenerator[list[Message]]) -> AsyncGenerator[str]:
    thread = summary.thread
    yield f"# {thread.title}\n\n{thread.agent}, begun {rfc3339(thread.created_at)}\n"
    async for page in pages:
        for message in page:
            yield _section(thread.agent, shown_message(message))


def _section(agent: str, message: ShownMessage) -> str:
    who = "User" if message.role == "user" else agent
    how = f" ({message.status})" if message.role == "assistant" and message.status != "completed" else ""
    attached: Any = message.attachments or ()
    files = "".join(f"\n\n*Attached: {one.name} ({one.content_type}, {one.size} bytes)*" for one in attached)
    return f"\n## {who}, {message.created_at}{how}\n\n{message.content}{files}\n"
