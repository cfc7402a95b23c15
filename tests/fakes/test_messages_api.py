"""The fake is strict, and serves as a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from providers import TextDelta
from providers.claude import ClaudeProvider
from tests.fakes.messages_rules import Refusal, validate
from tests.providers.turns import collected, failed, text_of, turn

ROOT = Path(__file__).parents[2]
HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01", "content-type": "application/json"}
BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5,
    "stream": True,
    "messages": [{"role": "user", "content": "Hi"}],
}
MCP = {"mcp_servers": [{"type": "url", "name": "a", "url": "https://a"}]}
TOOLSET = {"tools": [{"type": "mcp_toolset", "mcp_server_name": "a"}]}
BETA = {"anthropic-beta": "mcp-client-2025-11-20"}
ANSWER = {"role": "assistant", "content": "Hello"}


def asked(
    headers: dict[str, str] | None = None, *, method: str = "POST", path: str = "/v1/messages", **body: Any
) -> dict[str, Any]:
    merged = {name: value for name, value in {**BODY, **body}.items() if value is not None}
    return validate(method, path, {**HEADERS, **(headers or {})}, json.dumps(merged).encode(), "k")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"path": "/v1/messages?beta=true"},
        {"headers": {"x-api-key": "", "authorization": "Bearer k"}},
        {"system": "Be brief.", "thinking": {"type": "adaptive"}},
        {"headers": BETA, **MCP, **TOOLSET},
    ],
)
def test_what_the_api_takes_is_taken(request_: dict[str, Any]) -> None:
    assert asked(**request_)["model"] == "m"


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (404, {"path": "/v1/complete"}),
        (405, {"method": "GET"}),
        (400, {"path": "/v1/messages?debug=1"}),
        (401, {"headers": {"x-api-key": ""}}),
        (401, {"headers": {"x-api-key": "other"}}),
        (400, {"headers": {"anthropic-version": "1999-01-01"}}),
        (400, {"headers": {"content-type": "text/plain"}}),
        (400, {"model": None}),
        (400, {"max_tokens": 0}),
        (400, {"stream": False}),
        (400, {"temperament": "mild"}),
        (400, {"messages": []}),
        (400, {"messages": [{"role": "user", "content": " "}]}),
        (400, {"messages": [{"role": "user", "content": []}]}),
        (400, {"messages": [{"role": "robot", "content": "Hi"}]}),
        (400, {"messages": [ANSWER, {"role": "user", "content": "Hi"}]}),
        (400, {"messages": [{"role": "user", "content": "Hi"}, ANSWER]}),
        (400, {"system": ""}),
        (400, {"thinking": {"type": "enabled", "budget_tokens": 10}}),
        (400, {**MCP, **TOOLSET}),
        (400, {"headers": BETA}),
        (400, {"headers": BETA, **MCP}),
        (400, {"headers": BETA, "mcp_servers": [{"name": "a"}], **TOOLSET}),
    ],
)
def test_what_the_api_refuses_is_refused(status: int, request_: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        asked(**request_)
    assert caught.value.status == status


@pytest.fixture
async def url() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.messages_api", "--pieces", "3", "--interval", "0.001"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(10):
            yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def test_as_a_process_the_message_chooses_the_script(url: str) -> None:
    async with ClaudeProvider(api_key="k", base_url=url) as provider:
        assert text_of(await collected(provider, turn("Hi"))) == "word word word "
        chosen = json.dumps({"pieces": 5, "interval": 0, "text": "x"})
        assert text_of(await collected(provider, turn(chosen))) == "xxxxx"
        stamped = await collected(provider, turn(json.dumps({"pieces": 4, "stamp": True})))
        stamps = [int(event.text) for event in stamped if isinstance(event, TextDelta)]
        assert stamps == sorted(stamps)
        for wish, code in (
            ({"status": 429, "retry_after": 2}, "rate_limited"),
            ({"error": "overloaded_error"}, "overloaded"),
            ({"end": "cut"}, "disconnected"),
            ({"end": "early"}, "incomplete"),
        ):
            _, error = await failed(provider, turn(json.dumps(wish)))
            assert error.code == code
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    writer.write(b"GET /calls HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()
    assert json.loads(body) == {"calls": 7, "refusals": 0}
