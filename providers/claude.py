"""Claude over Anthropic's Messages API.

Uses the official SDK's client (authentication, headers, errors) on its aiohttp transport and reads the stream
itself: see `providers.claude_events`. The SDK never repeats a call; whether to do so is the gateway's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from providers.attachments import AttachmentBounds, Part, loaded
from providers.base import Capability, Message, Turn
from providers.claude_errors import error, from_opening, from_reading
from providers.claude_events import AnswerReader
from providers.errors import ProviderError
from providers.events import Completed, Event

if TYPE_CHECKING:
    import anthropic

__all__ = ["ClaudeProvider"]

DEFAULT_MODEL = "claude-sonnet-5-5"
DEFAULT_MAX_TOKENS = 32_000
MAX_CONNECTIONS = 10_000
"""Streams at once. Not None: the aiohttp transport takes None for its own default of 100."""
MAX_CONTINUATIONS = 16
"""How often a turn that the API paused is continued before it counts as ended."""
ATTACHMENTS = AttachmentBounds(
    image_bytes=5 * 1024 * 1024 * 3 // 4, document_bytes=20 * 1024 * 1024, total_bytes=20 * 1024 * 1024, count=20
)
"""The API takes 5 MB of base64 per image, 32 MB per request, and larger pictures only where there are at most 20
(platform.claude.com, build-with-claude/vision, general limits)."""
MCP_BETA = "mcp-client-2025-11-20"
_TAIL_SECONDS = 0.25

_WARM_UP = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{}}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)


class ClaudeProvider:
    """One model of Anthropic's Messages API.

    Options:
        model: the model's id.
        api_key: without it, `ANTHROPIC_API_KEY` or `ANTHROPIC_AUTH_TOKEN` from the environment.
        base_url: without it, `ANTHROPIC_BASE_URL` or Anthropic's own.
        system: the system prompt.
        max_tokens: the most that one answer may have, thinking included.
        thinking: a map whose `type` is `adaptive`, `disabled`, `between_tools`, or `enabled` with `budget_tokens`;
            without it the model's default. Newer models show their thinking only with `"display": "summarized"`.
        mcp_servers: remote MCP servers that the API itself connects to, each `{"name", "url"}` with, if needed,
            `authorization_token` and `tools` (the names of the tools to allow; all without it).

    Raises:
        ValueError: an option is missing or wrong; the text names it and never repeats its value.
    """

    name = "claude"
    capabilities: frozenset[Capability] = frozenset(("reasoning", "tools", "attachments"))

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        api_key: str | None = None,
        base_url: str | None = None,
        system: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        thinking: Mapping[str, Any] | None = None,
        mcp_servers: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        for option, text in (("model", model), ("api_key", api_key), ("base_url", base_url), ("system", system)):
            if text is not None and (not isinstance(text, str) or not text.strip()):
                raise ValueError(f"{option} must be a non-empty string")
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise ValueError("max_tokens must be a whole number of at least 1")
        if base_url is not None:
            _check_url("base_url", base_url)
        self._credentials = _credentials(api_key)
        self._base_url = base_url
        self._request: dict[str, Any] = {"model": model, "max_tokens": max_tokens}
        if system is not None:
            self._request["system"] = system
        if thinking is not None:
            self._request["thinking"] = _thinking(thinking, max_tokens)
        self._mcp = bool(mcp_servers)
        if mcp_servers is not None:
            self._request |= _mcp(mcp_servers)
        self._client: anthropic.AsyncAnthropic | None = None

    async def __aenter__(self) -> Self:
        # In a thread: importing the SDK takes about half a second, and other agents may be answering.
        await asyncio.to_thread(importlib.import_module, "anthropic.resources.beta" if self._mcp else "anthropic")
        import anthropic
        import httpx2

        await self._warm_up()
        transport = anthropic.DefaultAioHttpClient(
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=100, keepalive_expiry=5.0)
        )
        self._client = self._make_client(transport)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        client = self._client
        if client is None:
            raise ProviderError("provider_fault", "The Claude provider was not started.")
        messages = await _conversation(turn.messages)
        reader: AnswerReader | None = None
        for _ in range(MAX_CONTINUATIONS + 1):
            continued, reader = reader is not None, AnswerReader(reader)
            try:
                async with self._open(client, messages, turn.connect_seconds) as response:
                    _expect_event_stream(response)
                    try:
                        async with contextlib.aclosing(response.http_response.aiter_bytes()) as body:
                            async for chunk in body:
                                for event in reader.feed(chunk):
                                    yield event
                                if reader.failure is not None:
                                    raise reader.failure
                                if reader.complete:
                                    await _read_tail(body)
                                    break
                    except Exception as failure:
                        raise from_reading(failure) or failure from None
            except ProviderError as failure:
                # A later call of the same turn: repeating the turn would pay for the earlier ones again.
                failure.refused = failure.refused and not continued
                raise
            if not reader.complete:
                raise error("incomplete")
            if reader.stop_reason != "pause_turn" or not reader.content:
                break
            messages = [*messages, {"role": "assistant", "content": reader.content}]
        yield Completed((reader and reader.stop_reason) or "end_turn")

    @contextlib.asynccontextmanager
    async def _open(
        self, client: anthropic.AsyncAnthropic, messages: list[dict[str, Any]], connect_seconds: float
    ) -> AsyncGenerator[anthropic.AsyncAPIResponse[Any]]:
        """The response, once its headers are there. Leaving closes the connection unless its body was read."""
        import httpx2

        # Reading has no deadline here: the gateway owns those. `pool` bounds name lookup and all addresses together.
        timeout = httpx2.Timeout(connect=connect_seconds, pool=connect_seconds, read=None, write=None)
        request = {**self._request, "messages": messages, "stream": True, "timeout": timeout}
        call: AbstractAsyncContextManager[anthropic.AsyncAPIResponse[Any]]
        if self._mcp:
            call = client.beta.messages.with_streaming_response.create(**request, betas=[MCP_BETA])
        else:
            call = client.messages.with_streaming_response.create(**request)
        async with contextlib.AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(call)
            except Exception as failure:
                # Without the cause, whose text may quote the conversation.
                raise from_opening(failure) or failure from None
            yield response

    def _make_client(self, transport: Any) -> anthropic.AsyncAnthropic:
        import anthropic

        return anthropic.AsyncAnthropic(
            api_key=self._credentials.get("api_key"),
            auth_token=self._credentials.get("auth_token"),
            base_url=self._base_url,
            http_client=transport,
            max_retries=0,
        )

    async def _warm_up(self) -> None:
        """One call answered in this process, so that no user's turn is the first: 5.8 ms then, 3.5 ms after this."""
        import httpx2

        def answer(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=_WARM_UP)

        async with self._make_client(httpx2.AsyncClient(transport=httpx2.MockTransport(answer))) as client:
            messages = [{"role": "user", "content": "warm up"}]
            async with self._open(client, messages, 1.0) as response:
                async for chunk in response.http_response.aiter_bytes():
                    AnswerReader().feed(chunk)


async def _read_tail(body: Any) -> None:
    """Read what follows the API's last event, so that the connection can serve the next call. Nothing there matters."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_TAIL_SECONDS):
            async for _ in body:
                pass


def _expect_event_stream(response: anthropic.AsyncAPIResponse[Any]) -> None:
    kind = response.headers.get("content-type")
    if kind is not None and not kind.startswith("text/event-stream"):
        raise error("upstream_error")


async def _conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The history as the API takes it: no blank message, a user's first and last, roles in turn.

    An answer may be missing (its turn failed before any text); the two questions around it become one message.
    """
    said = [message for message in messages if _says_something(message)]
    while said and said[0].role != "user":
        said.pop(0)
    if not said or said[-1].role != "user" or not _says_something(messages[-1]):
        raise ProviderError("invalid_request", "There is no text in the message.")
    history: list[dict[str, Any]] = []
    for message, parts in zip(said, await loaded(said, ATTACHMENTS), strict=True):
        content = _content(message, parts)
        if history and history[-1]["role"] == message.role:
            history[-1]["content"] = _joined(history[-1]["content"], content)
        else:
            history.append({"role": message.role, "content": content})
    return history


def _says_something(message: Message) -> bool:
    return bool(message.content.strip() or message.attachments)


def _content(message: Message, parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    """Text alone stays text; attachments stand before it, as the API's guide advises."""
    if not parts:
        return message.content
    said = [{"type": "text", "text": message.content}] if message.content.strip() else []
    return [*map(_block, parts), *said]


def _block(part: Part) -> dict[str, Any]:
    if part.data is None:
        return {"type": "text", "text": part.absence}
    source = {"type": "base64", "media_type": part.attachment.content_type, "data": part.data}
    if part.is_image:
        return {"type": "image", "source": source}
    return {"type": "document", "source": source, "title": part.attachment.name}


def _joined(first: str | list[dict[str, Any]], second: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [
        block
        for content in (first, second)
        for block in ([{"type": "text", "text": content}] if isinstance(content, str) else content)
    ]


def _credentials(api_key: str | None) -> dict[str, str]:
    if api_key is not None:
        return {"api_key": api_key}
    for option, variable in (("api_key", "ANTHROPIC_API_KEY"), ("auth_token", "ANTHROPIC_AUTH_TOKEN")):
        if value := os.environ.get(variable, "").strip():
            return {option: value}
    raise ValueError("api_key is missing: set it, or ANTHROPIC_API_KEY in the environment")


def _check_url(option: str, value: Any) -> None:
    try:
        url = urlsplit(value if isinstance(value, str) else "")
        valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{option} must be a URL that begins with http:// or https://")


def _thinking(value: Any, max_tokens: int) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, Mapping) else None
    allowed = {"enabled": {"type", "budget_tokens", "display"}, "adaptive": {"type", "display"}}
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise ValueError('thinking must be a map with a "type" of enabled, disabled, adaptive or between_tools')
    if unknown := set(value) - allowed.get(kind, {"type"}):
        raise ValueError(f"thinking of type {kind} has no field named {', '.join(sorted(map(str, unknown)))}")
    if value.get("display", "summarized") not in ("summarized", "omitted"):
        raise ValueError("thinking.display must be summarized or omitted")
    if kind == "enabled":
        budget = value.get("budget_tokens")
        if isinstance(budget, bool) or not isinstance(budget, int) or not 1024 <= budget < max_tokens:
            raise ValueError("thinking.budget_tokens must be a whole number from 1024 to below max_tokens")
    return dict(value)


def _mcp(servers: Any) -> dict[str, Any]:
    """Servers and toolsets: since the beta of 2025-11-20 each server wants exactly one toolset naming it."""
    if not isinstance(servers, Sequence) or isinstance(servers, str):
        raise ValueError("mcp_servers must be a list")
    definitions: list[dict[str, Any]] = []
    toolsets: list[dict[str, Any]] = []
    for number, server in enumerate(servers):
        option = f"mcp_servers[{number}]"
        if not isinstance(server, Mapping) or not isinstance(server.get("name"), str) or not server["name"]:
            raise ValueError(f"{option} must be a map with a name and a url")
        if unknown := set(server) - {"type", "name", "url", "authorization_token", "tools"}:
            raise ValueError(f"{option} has no field named {', '.join(sorted(map(str, unknown)))}")
        if server.get("type", "url") != "url":
            raise ValueError(f"{option}.type can only be url")
        _check_url(f"{option}.url", server.get("url"))
        definition = {"type": "url", "name": server["name"], "url": server["url"]}
        token = server.get("authorization_token")
        if token is not None:
            if not isinstance(token, str) or not token:
                raise ValueError(f"{option}.authorization_token must be a non-empty string")
            definition["authorization_token"] = token
        definitions.append(definition)
        toolset: dict[str, Any] = {"type": "mcp_toolset", "mcp_server_name": server["name"]}
        if (tools := server.get("tools")) is not None:
            if not isinstance(tools, Sequence) or isinstance(tools, str) or not all(isinstance(t, str) for t in tools):
                raise ValueError(f"{option}.tools must be a list of names")
            toolset["default_config"] = {"enabled": False}
            toolset["configs"] = {tool: {"enabled": True} for tool in tools}
        toolsets.append(toolset)
    if len({definition["name"] for definition in definitions}) != len(definitions):
        raise ValueError("mcp_servers must have different names")
    return {"mcp_servers": definitions, "tools": toolsets} if definitions else {}
