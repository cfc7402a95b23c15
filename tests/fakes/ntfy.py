"""An ntfy server as far as a publisher sees it: JSON publishing with its limits."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.push_http import Action, Reply, Request, serve
from tests.fakes.push_tls import Authority

MESSAGE_LIMIT = 4096
TITLE_LIMIT = 1024


def error(status: int, code: int, text: str) -> Reply:
    return Reply(status, json.dumps({"code": code, "http": status, "error": text}).encode())


@dataclass
class NtfyFake:
    token: str | None = None
    script: Callable[[int], Action | None] = lambda number: None
    shown: list[dict[str, Any]] = field(default_factory=list)
    """What subscribers get: topic, title, message, priority, click."""
    raw: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    @asynccontextmanager
    async def serving(self, authority: Authority | None) -> AsyncIterator[NtfyFake]:
        async with serve(self.handle, authority) as url:
            self.url = url
            yield self

    async def handle(self, request: Request) -> Action:
        self.requests += 1
        action = self.receive(request, self.requests)
        self.arrived.set()
        return action

    def receive(self, request: Request, number: int) -> Action:
        if request.method != "POST" or request.path != "/":
            return error(404, 40401, "page not found")
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return error(401, 40101, "unauthorized")
        if len(request.body) > 2 * MESSAGE_LIMIT:
            return error(413, 41301, "JSON body too large")
        try:
            body = json.loads(request.body.decode("utf-8"))
        except ValueError:
            return error(400, 40024, "invalid JSON")
        if not re.fullmatch(r"[-_A-Za-z0-9]{1,64}", str(body.get("topic"))):
            return error(400, 40009, "topic invalid")
        if len(body.get("title", "").encode()) > TITLE_LIMIT:
            return error(400, 40057, "title too long")
        if body.get("priority") not in (None, 1, 2, 3, 4, 5):
            return error(400, 40007, "priority invalid")
        if len(body.get("message", "").encode()) > MESSAGE_LIMIT:
            return error(413, 41301, "message would become an attachment")
        action = self.script(number)
        if action is not None:
            return action
        self.raw.append(body)
        self.shown.append({name: body.get(name) for name in ("topic", "title", "message", "priority", "click")})
        return Reply(200, json.dumps({"id": f"n{number}", "event": "message"}).encode())
