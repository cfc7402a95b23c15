"""OpenAI, and every server that speaks its Responses API: vLLM, Ollama, LM Studio, llama.cpp and others.

One request carries the whole conversation and nothing is kept at the server (`store` is false), so a thread can go
on at any server at any time. Hosted tools (web search, remote MCP servers) run at the server; when one of its MCP
servers wants a person's consent, the turn asks and then continues with a further request.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeAlias, cast
from urllib.parse import urlsplit

from providers.attachments import AttachmentBounds, Part, loaded
from providers.base import ApprovalRequest, Capability, Message, Turn
from providers.errors import ProviderError
from providers.events import Completed, Event, Progress, Usage

try:
    import aiohttp
    import httpx2
    import openai
    from openai.types.shared_params import Reasoning
except ImportError as error:
    raise ImportError("the openai provider needs its extra: pip install 'agentline[openai]'") from error

from providers.openai_errors import from_exception
from providers.openai_items import ResponseReader, warm_up

__all__ = ["OpenAIProvider"]

_EFFORTS = frozenset(("none", "minimal", "low", "medium", "high", "xhigh", "max"))
_SUMMARIES = frozenset(("auto", "concise", "detailed"))
_HOSTED = frozenset(("web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "mcp"))
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_THE_API = "The model server does not keep to the Responses API."
_DRAIN_SECONDS = 0.05
_MOST_CONNECTIONS = 10_000
"""One stream holds one connection; aiohttp's own limit is 100, so the 101st turn would wait."""

_ATTACHMENTS = AttachmentBounds(
    image_bytes=20 * 1024 * 1024, document_bytes=32 * 1024 * 1024, total_bytes=32 * 1024 * 1024, count=100
)
"""The API takes 50 MB of files per request, base64 included (platform.openai.com, guides/pdf-files)."""

_Stream: TypeAlias = openai.AsyncStream[object]


class OpenAIProvider:
    """One model behind one Responses API.

    Options:
        model: the model's name at the server; required.
        base_url: where the API is, with its version (`http://127.0.0.1:11434/v1`); else `OPENAI_BASE_URL`, else
            OpenAI's own.
        api_key: else `OPENAI_API_KEY`; may be missing, or empty to send none, when a base URL is set.
        system: what the model is told first (`instructions` of the API).
        max_output_tokens: the longest answer, reasoning included.
        reasoning_effort: `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
        reasoning_summary: `auto`, `concise` or `detailed`: show what the model thinks, where it may be shown.
        headers: further request headers, for a proxy or a tenant.
        tools: hosted tools as the API describes them; functions that the gateway would have to run are refused.

    Raises:
        ValueError: an option is missing or wrong.
    """

    name = "openai"

    def __init__(
        self,
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        system: str | None = None,
        max_output_tokens: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_summary: str | None = None,
        headers: Mapping[str, str] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if not model:
            raise ValueError("the option model is missing: name the model that the server offers")
        if max_output_tokens is not None and (isinstance(max_output_tokens, bool) or max_output_tokens < 1):
            raise ValueError("the option max_output_tokens must be a positive whole number")
        _one_of("reasoning_effort", reasoning_effort, _EFFORTS)
        _one_of("reasoning_summary", reasoning_summary, _SUMMARIES)
        _check_url(base_url)
        _check_headers(headers or {})
        _check_tools(tools)
        key = os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key
        if not key and not (base_url or os.environ.get("OPENAI_BASE_URL")):
            raise ValueError("no API key: set the option api_key or OPENAI_API_KEY, or base_url for a local server")
        if not key.isascii() or not key.isprintable():
            raise ValueError("the API key holds characters that no key has")

        self._keyless = not key
        self._request: dict[str, Any] = {"model": model, "store": False}
        if system:
            self._request["instructions"] = system
        if max_output_tokens is not None:
            self._request["max_output_tokens"] = max_output_tokens
        if reasoning_effort or reasoning_summary:
            reasoning = {"effort": reasoning_effort, "summary": reasoning_summary}
            self._request["reasoning"] = cast("Reasoning", {key: value for key, value in reasoning.items() if value})
        if tools:
            self._request["tools"] = [dict(tool) for tool in tools]
        # Redirects are not followed: a POST would lose its body, and the key would travel.
        self._http = openai.DefaultAioHttpClient(
            limits=httpx2.Limits(
                max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_CONNECTIONS, keepalive_expiry=15.0
            ),
            follow_redirects=False,
        )
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=base_url,
            max_retries=0,
            default_headers=dict(headers or {}),
            http_client=self._http,
        )

    @property
    def capabilities(self) -> frozenset[Capability]:
        asks = any(tool.get("type") == "mcp" for tool in self._request.get("tools", ()))
        return frozenset(("reasoning", "tools", "attachments", *(("approvals",) if asks else ())))

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(warm_up)  # other agents may be answering
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        """Answer `turn`; see `providers.base.Provider.stream`."""
        said = [message for message in turn.messages if message.content or message.attachments]
        conversation: list[Any] = [
            {"role": message.role, "content": _content(message, parts)}
            for message, parts in zip(said, await loaded(said, _ATTACHMENTS), strict=True)
        ]
        total = Usage()
        begun = False
        while True:
            reader = ResponseReader()
            stream = await self._open(conversation, turn, begun=begun)
            begun = True
            # Closing the stream drops the connection, which is how a server is told to stop.
            async with stream:
                while reader.stop_reason is None:
                    event = await _next(stream)
                    if event is None:
                        raise ProviderError(
                            "incomplete",
                            "The model server ended the answer without saying that it is complete.",
                            retryable=True,
                        )
                    try:
                        shown = tuple(reader.read(event))
                    except (AttributeError, TypeError):  # see `ResponseReader.read`
                        raise ProviderError("upstream_error", _NOT_THE_API, retryable=True) from None
                    for piece in shown:
                        yield piece
                await _drain(stream)
            if reader.usage is not None:
                total = _sum(total, reader.usage)
                yield total
            answers = [await self._consent(item, turn) for item in reader.output if item.type == "mcp_approval_request"]
            if not answers:
                yield Completed(reader.stop_reason)
                return
            yield Progress()
            conversation += [item.to_dict(mode="json") for item in reader.output]
            conversation += answers

    async def _open(self, conversation: Sequence[Any], turn: Turn, *, begun: bool) -> _Stream:
        """Send the request; returns when the response's head has arrived.

        Waiting for it has no limit of its own (the gateway's deadline for the first event is that limit), but
        connecting has. The SDK's generic call is used, because its stream gives events as they were decoded.
        """
        timeout = httpx2.Timeout(None, connect=turn.connect_seconds, pool=turn.connect_seconds)
        try:
            return await self._client.post(
                "/responses",
                cast_to=object,
                body={**self._request, "input": list(conversation), "stream": True},
                options={"timeout": timeout, "headers": {"Authorization": openai.omit} if self._keyless else {}},
                stream=True,
                stream_cls=_Stream,
            )
        except (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError) as error:
            # Without the cause: a traceback in a log would show the request.
            raise from_exception(error, begun=begun) from None

    async def _consent(self, item: Any, turn: Turn) -> Mapping[str, Any]:
        decision = await turn.approve(
            ApprovalRequest(
                kind="tool",
                title=f"{item.server_label}: {item.name}",
                detail={"server": item.server_label, "tool": item.name, "arguments": item.arguments},
            )
        )
        return {"type": "mcp_approval_response", "approval_request_id": item.id, "approve": decision.approved}


def _content(message: Message, parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    """Text alone stays text: servers other than OpenAI's know no other content."""
    if not parts:
        return message.content
    said = [{"type": "input_text", "text": message.content}] if message.content.strip() else []
    return [*map(_input, parts), *said]


def _input(part: Part) -> dict[str, Any]:
    if part.data is None:
        return {"type": "input_text", "text": part.absence}
    if part.is_image:
        return {"type": "input_image", "image_url": part.url, "detail": "auto"}
    return {"type": "input_file", "filename": part.attachment.name, "file_data": part.url}


async def _next(stream: _Stream) -> Mapping[str, Any] | None:
    """The stream's next event, None at its end; the SDK's and the transport's errors as the contract's."""
    try:
        event = await anext(stream)
    except StopAsyncIteration:
        return None
    except (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, ValueError) as error:
        raise from_exception(error, begun=True) from None
    if not isinstance(event, dict):
        raise ProviderError("upstream_error", _NOT_THE_API, retryable=True)
    return event


async def _drain(stream: _Stream) -> None:
    """Read to the end of the body, so that the connection can be used again; but not for long."""
    with suppress(TimeoutError, ProviderError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await _next(stream) is not None:
                pass


def _sum(first: Usage, second: Usage) -> Usage:
    return Usage(*(getattr(first, name) + getattr(second, name) for name in Usage.__struct_fields__))


def _one_of(option: str, value: str | None, known: frozenset[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"the option {option} must be one of {', '.join(sorted(known))}")


def _check_url(url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the option base_url must be an http or https URL")
    if parts.username or parts.password:
        raise ValueError("the option base_url must not hold credentials: use api_key")


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("the option headers holds a name that no header can have")
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            raise ValueError(f"the header {name} of the option headers has a value that cannot be sent")


def _check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind not in _HOSTED:
            raise ValueError(f"the option tools takes hosted tools only: {', '.join(sorted(_HOSTED))}")
