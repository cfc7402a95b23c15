"""The fake itself: strict about what comes in, exact about what goes out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.responses_api import DROP, EOF, FunctionCall, Reasoning, Refuse, Reply, ResponsesApi, Text, WebSearch

GOOD: dict[str, Any] = {"model": "m", "stream": True, "input": "hello"}


async def post(api: ResponsesApi, body: Any, path: str = "/v1/responses", key: str = "test-key") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    payload = json.dumps(body).encode()
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n".encode()
        + payload
    )
    try:
        async with asyncio.timeout(5):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), rest


def events(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in raw.decode().splitlines() if line.startswith("data: ")]


async def test_the_events_of_a_reply_are_numbered_and_end_with_the_whole_response() -> None:
    async with ResponsesApi() as api:
        api.script(Reply(Reasoning("hm"), Text("a", "b"), FunctionCall("f", {"x": 1}, "c"), WebSearch("q")))
        status, raw = await post(api, GOOD)
    sent = events(raw)
    assert status == 200
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    assert sent[0]["type"] == "response.created"
    assert "".join(e["delta"] for e in sent if e["type"] == "response.output_text.delta") == "ab"
    assert sent[-1]["type"] == "response.completed"
    kinds = [item["type"] for item in sent[-1]["response"]["output"]]
    assert kinds == ["reasoning", "message", "function_call", "web_search_call"]
    assert raw.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("fault", [DROP, EOF])
async def test_a_fault_ends_the_stream_without_its_terminal_event(fault: Any) -> None:
    async with ResponsesApi() as api:
        api.script(Reply(Text("a", fault)))
        try:
            _, raw = await post(api, GOOD)
        except ConnectionResetError:
            raw = b""
    assert b"response.completed" not in raw


async def test_a_refusal_carries_its_status_and_code() -> None:
    async with ResponsesApi() as api:
        api.script(Refuse(429, "rate_limit_exceeded", retry_after=2))
        status, raw = await post(api, GOOD)
    assert status == 429
    assert json.loads(raw)["error"]["code"] == "rate_limit_exceeded"


async def test_a_wrong_key_is_refused_and_is_no_call() -> None:
    async with ResponsesApi() as api:
        assert (await post(api, GOOD, key="other"))[0] == 401
        assert api.calls == []


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"model": ""}, "model"),
        ({"stream": False}, "stream"),
        ({"input": []}, "input"),
        ({"input": [{"type": "mystery"}]}, "unknown"),
        ({"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}, "may not send"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]}, "may not send"),
        ({"input": [CALL]}, "no output"),
        ({"input": [OUTPUT]}, "no function_call"),
        ({"input": [OUTPUT, CALL]}, "no function_call"),
        ({"tools": [{"type": "function", "name": "f"}]}, "parameters"),
    ],
)
async def test_what_the_real_api_would_refuse_is_refused_and_fails_the_test(wrong: dict[str, Any], why: str) -> None:
    async def using() -> None:
        async with ResponsesApi() as api:
            status, _ = await post(api, GOOD | wrong)
            assert status == 400
            assert api.calls == []

    with pytest.raises(AssertionError, match=why):
        await using()
