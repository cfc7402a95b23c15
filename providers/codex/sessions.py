"""Sessions of this Codex home: those begun in a terminal can be listed, read and gone on with from a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from providers.base import Message, Session
from providers.codex.client import Client, Disconnected, RpcError
from providers.codex.errors import disconnected
from providers.codex.options import Options
from providers.codex.process import CLIENT_NAME
from providers.codex.threads import SESSION_KEY
from providers.errors import ProviderError

__all__ = ["list_sessions", "read_messages"]

JSON: TypeAlias = dict[str, Any]

SOURCES = ("cli", "vscode", "exec", "appServer")
PAGE = 100
MOST_SESSIONS = 200
"""How many of the newest sessions are looked at."""
MOST_ITEMS = 5_000
TITLE_CHARACTERS = 80


def _visible(thread: JSON, options: Options, user_id: str) -> bool:
    """Whether the user may see it. Codex knows nothing of our users: a session that this gateway began for one
    of them is told by its directory, and where users have none of their own, it is shown to nobody."""
    if options.session_users is not None and user_id not in options.session_users:
        return False
    if thread.get("ephemeral") or thread.get("parentThreadId"):
        return False
    root = options.user_root(user_id)
    if root is not None and Path(thread["cwd"]).is_relative_to(root):
        return True
    return thread.get("originator") != CLIENT_NAME


def _session(thread: JSON) -> Session:
    title = " ".join(str(thread.get("name") or thread.get("preview") or "").split())
    return Session(
        id=thread["id"],
        title=title if len(title) <= TITLE_CHARACTERS else f"{title[: TITLE_CHARACTERS - 1]}…",
        cwd=str(thread["cwd"]),
        created_at=int(thread["createdAt"] * 1000),
        updated_at=int(thread["updatedAt"] * 1000),
        session={SESSION_KEY: thread["id"]},
    )


async def list_sessions(client: Client, options: Options, user_id: str) -> list[Session]:
    """Newest first.

    Raises:
        ProviderError
    """
    found: list[Session] = []
    cursor: str | None = None
    for _ in range(MOST_SESSIONS // PAGE):
        page = await _ask(
            client,
            "thread/list",
            {
                "cursor": cursor,
                "limit": PAGE,
                "sortKey": "updated_at",
                "sourceKinds": list(SOURCES),
                "modelProviders": [],
            },
        )
        found += [_session(thread) for thread in page["data"] if _visible(thread, options, user_id)]
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    return found


async def read_messages(client: Client, options: Options, user_id: str, session_id: str) -> list[Message]:
    """The conversation, oldest first, without opening it: it may go on in a terminal meanwhile.

    Raises:
        ProviderError: `not_found` also for a session that the user may not see.
    """
    try:
        thread = (await _ask(client, "thread/read", {"threadId": session_id}, raw=True))["thread"]
    except RpcError:
        thread = None
    if thread is None or not _visible(thread, options, user_id):
        raise ProviderError("not_found", "There is no such Codex session.")
    try:
        items = await _items(client, session_id)
    except RpcError:  # a session that an older Codex wrote
        whole = await _ask(client, "thread/read", {"threadId": session_id, "includeTurns": True})
        items = [(turn["id"], item) for turn in whole["thread"]["turns"] for item in turn["items"]]
    return _messages(items)


async def _items(client: Client, session_id: str) -> list[tuple[str, JSON]]:
    items: list[tuple[str, JSON]] = []
    cursor: str | None = None
    while len(items) < MOST_ITEMS:
        params = {"threadId": session_id, "cursor": cursor, "limit": PAGE, "sortDirection": "asc"}
        page = await _ask(client, "thread/items/list", params, raw=True)
        items += [(entry["turnId"], entry["item"]) for entry in page["data"]]
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    return items


def _messages(items: list[tuple[str, JSON]]) -> list[Message]:
    """Texts only; the texts of one turn's answer make one message."""
    messages: list[Message] = []
    answered: str | None = None
    for turn_id, item in items:
        if item["type"] == "userMessage":
            text = "\n\n".join(part["text"] for part in item["content"] if part.get("type") == "text")
            messages.append(Message("user", text))
            answered = None
        elif item["type"] == "agentMessage" and item.get("text"):
            if answered == turn_id:
                messages[-1] = Message("assistant", f"{messages[-1].content}\n\n{item['text']}")
            else:
                messages.append(Message("assistant", item["text"]))
            answered = turn_id
    return messages


async def _ask(client: Client, method: str, params: JSON, *, raw: bool = False) -> Any:
    try:
        return await client.request(method, params)
    except RpcError:
        if raw:
            raise
        raise ProviderError("upstream_error", "Codex could not list its sessions.", retryable=True) from None
    except Disconnected:
        raise ProviderError("connection_failed", disconnected().message, retryable=True) from None
    except TimeoutError:
        raise ProviderError("timeout", "Codex did not answer in time.", retryable=True) from None
