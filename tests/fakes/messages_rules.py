"""What the Messages API accepts: the checks of the fake, without I/O.

Sources: the SDK's own parameter types (`anthropic.types.message_create_params`) and the reference of the API.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

__all__ = ["Refusal", "error_body", "error_type", "validate"]

VERSIONS = frozenset(("2023-06-01", "2026-10-21"))
MCP_BETAS = frozenset(("mcp-client-2025-11-20", "mcp-client-2026-09-15"))

REQUIRED = {"model", "max_tokens", "messages"}
PLAIN = REQUIRED | {
    "cache_control",
    "container",
    "diagnostics",
    "inference_geo",
    "metadata",
    "output_config",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "thinking",
    "tool_choice",
    "tools",
}
BETA_ONLY = {"mcp_servers"}

ANSWER_BLOCKS = frozenset(
    (
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "server_tool_use",
        "mcp_tool_use",
        "mcp_tool_result",
        "mcp_tool_listing",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
    )
)
MAX_IMAGE = 5 * 1024 * 1024
_SIGNATURES = {
    "image": {
        "image/png": b"\x89PNG\r\n\x1a\n",
        "image/jpeg": b"\xff\xd8\xff",
        "image/gif": b"GIF8",
        "image/webp": b"RIFF",
    },
    "document": {"application/pdf": b"%PDF-"},
}
QUESTION_BLOCKS = frozenset(("text", "image", "document", "tool_result"))


class Refusal(Exception):
    """The request is answered with `status` and an error of this type."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def error_type(status: int) -> str:
    """The error type that the API sends with an HTTP status."""
    known = {
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
    return known.get(status, "api_error" if status >= 500 else "invalid_request_error")


def error_body(kind: str, message: str, details: Mapping[str, Any] | None = None) -> bytes:
    error: dict[str, Any] = {"type": kind, "message": message}
    if details is not None:
        error["details"] = details
    return msgspec.json.encode({"type": "error", "error": error, "request_id": "req_fake"})


def validate(method: str, target: str, headers: Mapping[str, str], body: bytes, api_key: str | None) -> dict[str, Any]:
    """The decoded body of a request that the API would take.

    Raises:
        Refusal: it would not.
    """
    url = urlsplit(target)
    if url.path != "/v1/messages":
        raise Refusal(404, "Not found")
    if method != "POST":
        raise Refusal(405, "Method not allowed")
    if url.query and parse_qs(url.query) != {"beta": ["true"]}:
        raise Refusal(400, "unknown query parameters")
    key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if not key or (api_key is not None and key != api_key):
        raise Refusal(401, "invalid x-api-key")
    if headers.get("anthropic-version") not in VERSIONS:
        raise Refusal(400, "anthropic-version: header is required")
    if headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Refusal(400, "content-type: must be application/json")
    try:
        data = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise Refusal(400, "The request body is not valid JSON") from None
    if not isinstance(data, dict):
        raise Refusal(400, "The request body is not a JSON object")
    betas = {name.strip() for name in headers.get("anthropic-beta", "").split(",") if name.strip()}
    _top_level(data, betas)
    _messages(data["messages"])
    _mcp(data)
    return data


def _top_level(data: dict[str, Any], betas: set[str]) -> None:
    mcp = bool(betas & MCP_BETAS)
    for name in data:
        if name not in PLAIN and not (mcp and name in BETA_ONLY):
            raise Refusal(400, f"{name}: Extra inputs are not permitted")
    if mcp and "mcp_servers" not in data:
        raise Refusal(400, "anthropic-beta: an MCP beta without mcp_servers")
    for name in REQUIRED - set(data):
        raise Refusal(400, f"{name}: Field required")
    if not isinstance(data["model"], str) or not data["model"]:
        raise Refusal(400, "model: Input should be a valid string")
    if not isinstance(data["max_tokens"], int) or isinstance(data["max_tokens"], bool) or data["max_tokens"] < 1:
        raise Refusal(400, "max_tokens: Input should be greater than or equal to 1")
    if data.get("stream") is not True:
        raise Refusal(400, "stream: this fake only streams")
    system = data.get("system", "-")
    if not isinstance(system, str | list) or not system:
        raise Refusal(400, "system: text content blocks must be non-empty")
    _thinking(data)


def _thinking(data: dict[str, Any]) -> None:
    if "thinking" not in data:
        return
    thinking = data["thinking"]
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise Refusal(400, "thinking: Input tag does not match any of the expected tags")
    budget = thinking.get("budget_tokens")
    if kind == "enabled" and (not isinstance(budget, int) or not 1024 <= budget < data["max_tokens"]):
        raise Refusal(400, "thinking.budget_tokens: must be at least 1024 and less than max_tokens")


def _messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages: at least one message is required")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise Refusal(400, f"{where}: a message has exactly role and content")
        if message["role"] not in ("user", "assistant"):
            raise Refusal(400, f"{where}.role: Input should be 'user' or 'assistant'")
        _content(where, message["role"], message["content"])
    if messages[0]["role"] != "user":
        raise Refusal(400, "messages: first message must use the user role")
    last = messages[-1]
    if last["role"] == "assistant" and not _paused(last["content"]):
        raise Refusal(400, "This model does not support assistant message prefill.")


def _content(where: str, role: str, content: Any) -> None:
    if isinstance(content, str):
        if not content.strip():
            raise Refusal(400, f"{where}: text content blocks must contain non-whitespace text")
        return
    if not isinstance(content, list) or not content:
        raise Refusal(400, f"{where}.content: must be non-empty")
    allowed = ANSWER_BLOCKS if role == "assistant" else QUESTION_BLOCKS
    for block in content:
        if not isinstance(block, dict) or block.get("type") not in allowed:
            raise Refusal(400, f"{where}.content: a block of a type that this role may not send")
        if block["type"] == "text" and not str(block.get("text", "")).strip():
            raise Refusal(400, f"{where}: text content blocks must contain non-whitespace text")
        if block["type"] in ("image", "document"):
            _file(f"{where}.content", block)
        if block["type"] == "thinking" and not block.get("signature"):
            raise Refusal(400, f"{where}.content: thinking.signature: Field required")
        if block["type"].endswith("tool_use") and not isinstance(block.get("input"), dict):
            raise Refusal(400, f"{where}.content: input: Input should be a valid dictionary")


def _file(where: str, block: dict[str, Any]) -> None:
    """Base64 of what it claims to be, within the limits of `build-with-claude/vision` and `/pdf-support`."""
    source = block.get("source")
    if not isinstance(source, dict) or source.get("type") != "base64":
        raise Refusal(400, f"{where}.source: this fake takes base64 only")
    allowed = {"type", "source", "cache_control"} | ({"title", "context"} if block["type"] == "document" else set())
    if set(block) - allowed:
        raise Refusal(400, f"{where}: Extra inputs are not permitted")
    signature = _SIGNATURES[block["type"]].get(source.get("media_type", ""))
    if signature is None or set(source) != {"type", "media_type", "data"}:
        raise Refusal(400, f"{where}.source.media_type: Input should be one that is supported")
    if block["type"] == "image" and len(source["data"]) > MAX_IMAGE:
        raise Refusal(400, f"{where}.source.base64: image exceeds 5 MB maximum: {len(source['data'])} bytes")
    try:
        content = base64.b64decode(source["data"], validate=True)
    except ValueError:
        raise Refusal(400, f"{where}.source.data: Invalid base64 data") from None
    if not content.startswith(signature):
        raise Refusal(400, f"{where}.source: the content does not match the media type")


def _paused(content: Any) -> bool:
    """Whether an assistant message is one that the API paused: it used one of the API's own tools."""
    return isinstance(content, list) and any(
        block["type"] in ("server_tool_use", "mcp_tool_use") for block in content if isinstance(block, dict)
    )


def _mcp(data: dict[str, Any]) -> None:
    servers = data.get("mcp_servers", [])
    if not isinstance(servers, list):
        raise Refusal(400, "mcp_servers: Input should be a valid list")
    names = []
    for index, server in enumerate(servers):
        if not isinstance(server, dict) or server.get("type") != "url" or not server.get("url"):
            raise Refusal(400, f"mcp_servers.{index}: type, url and name are required")
        if set(server) - {"type", "url", "name", "authorization_token", "tool_configuration"}:
            raise Refusal(400, f"mcp_servers.{index}: Extra inputs are not permitted")
        names.append(server.get("name"))
    toolsets = [tool.get("mcp_server_name") for tool in data.get("tools", []) if tool.get("type") == "mcp_toolset"]
    if sorted(map(str, names)) != sorted(map(str, toolsets)):
        raise Refusal(400, "tools: each server of mcp_servers must have exactly one mcp_toolset")
