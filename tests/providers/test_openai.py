"""The OpenAI provider against a strict server of the Responses API over real sockets."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from providers import (
    Completed,
    Decision,
    Event,
    Progress,
    ProviderError,
    ReasoningDelta,
    TextDelta,
    TextReset,
    ToolCall,
    ToolResult,
    Usage,
)
from providers.openai import OpenAIProvider
from tests.fakes.responses_stream import Call, Hangup, ResponsesFake, response, serving, text_answer
from tests.providers.asking import Approver, answers, collect, make_turn, text_of


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def fake() -> AsyncIterator[ResponsesFake]:
    async with serving() as server:
        yield server


@pytest.fixture
async def provider(fake: ResponsesFake) -> AsyncIterator[OpenAIProvider]:
    async with OpenAIProvider(model="test-model", base_url=fake.base_url, api_key="test-key") as made:
        yield made


async def failure(provider: OpenAIProvider, **turn: Any) -> tuple[ProviderError, list[Event]]:
    events: list[Event] = []
    with pytest.raises(ProviderError) as caught:
        await collect(provider, make_turn(**turn), events)
    return caught.value, events


async def test_text_comes_piece_by_piece_with_usage_and_one_completed_last(
    fake: ResponsesFake, provider: OpenAIProvider
) -> None:
    fake.answer(text_answer("Hel", "lo", " 👋"))
    events = await collect(provider, make_turn("Hi", "Hello.", "Again"))
    assert [event.text for event in answers(events, TextDelta)] == ["Hel", "lo", " 👋"]
    assert events[-2:] == [
        Usage(input_tokens=11, output_tokens=7, cache_read_tokens=3, cache_write_tokens=2, reasoning_tokens=4),
        Completed("end_turn"),
    ]
    body = fake.calls[0].body
    assert body["input"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Again"},
    ]
    assert (body["model"], body["stream"], body["store"]) == ("test-model", True, False)


async def test_a_piece_is_yielded_before_the_next_one_is_sent(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    seen = asyncio.Event()

    async def script(call: Call) -> None:
        await call.text("first")
        await seen.wait()
        await call.text("second")
        await call.completed()
        await call.end()

    fake.answer(script)
    async with asyncio.timeout(5), aclosing(provider.stream(make_turn())) as stream:
        assert await anext(stream) == TextDelta("msg_1.0", "first")
        seen.set()
        assert await anext(stream) == TextDelta("msg_1.0", "second")


async def test_every_option_reaches_the_request(fake: ResponsesFake) -> None:
    fake.answer(text_answer("ok"))
    async with OpenAIProvider(
        model="test-model",
        base_url=fake.base_url,
        api_key="test-key",
        system="Be brief.",
        max_output_tokens=50,
        reasoning_effort="low",
        reasoning_summary="auto",
        headers={"X-Tenant": "blue"},
        tools=[{"type": "web_search"}],
    ) as provider:
        await collect(provider, make_turn())
    body = fake.calls[0].body
    assert body["instructions"] == "Be brief."
    assert body["max_output_tokens"] == 50
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert body["tools"] == [{"type": "web_search"}]
    assert fake.calls[0].headers["x-tenant"] == "blue"


async def test_a_local_server_gets_no_authorization_when_there_is_no_key(fake: ResponsesFake) -> None:
    fake.expects_key = None
    fake.answer(text_answer("ok"))
    async with OpenAIProvider(model="m", base_url=fake.base_url) as provider:
        assert text_of(await collect(provider, make_turn())) == "ok"


async def test_a_connection_is_used_again_by_the_next_turn(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    fake.answer_always(text_answer("ok"))
    for _ in range(5):
        await collect(provider, make_turn())
    assert fake.connections == 1


async def test_150_turns_stream_at_the_same_time(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    everyone = asyncio.Barrier(150)

    async def script(call: Call) -> None:
        await call.text("a")
        await everyone.wait()
        await call.text("b")
        await call.completed()
        await call.end()

    fake.answer_always(script)
    results = await asyncio.gather(*(collect(provider, make_turn(thread=f"t{number}")) for number in range(150)))
    assert {text_of(events) for events in results} == {"ab"}


async def test_reasoning_summaries_and_raw_reasoning_are_reasoning_and_not_answer(
    fake: ResponsesFake, provider: OpenAIProvider
) -> None:
    async def script(call: Call) -> None:
        summary: dict[str, Any] = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
        await call.send("response.reasoning_summary_text.delta", **summary, delta="I think")
        await call.send("response.reasoning_text.delta", item_id="rs_2", output_index=1, content_index=0, delta="raw")
        await call.item_done(type="reasoning", id="rs_1", summary=[{"type": "summary_text", "text": "I think"}])
        await call.item_done(type="reasoning", id="rs_3", summary=[{"type": "summary_text", "text": "whole"}])
        await call.text("answer")
        await call.completed()
        await call.end()

    fake.answer(script)
    events = await collect(provider, make_turn())
    assert answers(events, ReasoningDelta) == [
        ReasoningDelta("rs_1.s0", "I think"),
        ReasoningDelta("rs_2.r0", "raw"),
        ReasoningDelta("rs_3.s0", "whole"),
    ]
    assert text_of(events) == "answer"


async def test_a_refusal_is_text_and_its_own_stop_reason(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    async def script(call: Call) -> None:
        place: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        await call.send("response.refusal.delta", **place, delta="I will ")
        await call.send("response.refusal.delta", **place, delta="not.")
        await call.send("response.refusal.done", **place, refusal="I will not.")
        await call.completed()
        await call.end()

    fake.answer(script)
    events = await collect(provider, make_turn())
    assert text_of(events) == "I will not."
    assert events[-1] == Completed("refusal")


async def test_hosted_tools_become_calls_and_results(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    search: dict[str, Any] = {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "weather"}}
    mcp: dict[str, Any] = {"type": "mcp_call", "id": "mcp_1", "name": "lookup", "server_label": "crm"}
    code: dict[str, Any] = {"type": "code_interpreter_call", "id": "ci_1", "container_id": "c", "code": "1+1"}

    async def script(call: Call) -> None:
        at: dict[str, Any] = {"output_index": 0}
        await call.send("response.output_item.added", **at, item=search | {"status": "in_progress"})
        await call.send("response.web_search_call.searching", **at, item_id="ws_1")
        await call.item_done(**search, status="completed")
        await call.send("response.output_item.added", **at, item=mcp | {"arguments": "", "status": "in_progress"})
        await call.send("response.mcp_call_arguments.done", **at, item_id="mcp_1", arguments='{"id":7}')
        await call.item_done(**mcp, arguments='{"id":7}', status="failed", output="no such record")
        await call.item_done(**code, status="completed", outputs=[{"type": "logs", "logs": "2"}])
        await call.text("done")
        await call.completed()
        await call.end()

    fake.answer(script)
    events = await collect(provider, make_turn())
    assert answers(events, ToolCall) == [
        ToolCall("ws_1", "web_search"),
        ToolCall("mcp_1", "lookup", title="crm: lookup", arguments={"id": 7}),
        ToolCall("ci_1", "code_interpreter", arguments={"code": "1+1"}),
    ]
    assert answers(events, ToolResult) == [
        ToolResult("ws_1", "completed", "weather"),
        ToolResult("mcp_1", "failed", "no such record"),
        ToolResult("ci_1", "completed", "2"),
    ]
    # The search shows life in between: the idle deadline starts anew.
    assert any(isinstance(event, Progress) for event in events)


async def test_a_function_that_the_model_makes_up_is_shown_as_failed(
    fake: ResponsesFake, provider: OpenAIProvider
) -> None:
    async def script(call: Call) -> None:
        await call.item_done(type="function_call", id="fc_1", call_id="c1", name="rm", arguments='{"path":"/"}')
        await call.completed()
        await call.end()

    fake.answer(script)
    events = await collect(provider, make_turn())
    assert answers(events, ToolCall) == [ToolCall("fc_1", "rm", arguments={"path": "/"})]
    assert answers(events, ToolResult)[0].status == "failed"


@pytest.mark.parametrize(("decision", "granted"), [("approved", True), ("declined", False), ("expired", False)])
async def test_a_remote_mcp_tool_asks_a_person_and_the_turn_goes_on_with_the_answer(
    fake: ResponsesFake, decision: str, granted: bool
) -> None:
    async def asks(call: Call) -> None:
        await call.text("Let me look. ")
        await call.item_done(
            type="mcp_approval_request", id="mcpr_1", name="lookup", server_label="crm", arguments='{"id":7}'
        )
        await call.completed()
        await call.end()

    async def goes_on(call: Call) -> None:
        await call.text("Found it.", item="msg_2")
        await call.completed()
        await call.end()

    fake.answer(asks, goes_on)
    person = Approver(Decision("declined", expired=True) if decision == "expired" else decision)
    tools = [{"type": "mcp", "server_label": "crm", "server_url": "https://crm.example/mcp"}]
    async with OpenAIProvider(model="m", base_url=fake.base_url, api_key="test-key", tools=tools) as provider:
        assert "approvals" in provider.capabilities
        events = await collect(provider, make_turn("Hi", approve=person))
    assert [request.detail for request in person.asked] == [
        {"server": "crm", "tool": "lookup", "arguments": '{"id":7}'}
    ]
    assert fake.calls[1].body["input"][-1] == {
        "type": "mcp_approval_response",
        "approval_request_id": "mcpr_1",
        "approve": granted,
    }
    assert fake.calls[1].body["input"][1]["type"] == "mcp_approval_request"
    assert answers(events, Usage)[-1].input_tokens == 22
    assert answers(events, Completed) == [events[-1]]


async def test_text_that_never_came_as_deltas_is_shown_once(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    message: dict[str, Any] = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "whole", "annotations": []}],
    }

    async def only_items(call: Call) -> None:
        await call.item_done(**message)
        await call.completed(output=[message])
        await call.end()

    async def only_response(call: Call) -> None:
        await call.completed(output=[message])
        await call.end()

    async def part_missing(call: Call) -> None:
        await call.text("who")
        await call.item_done(**message)
        await call.completed(output=[message | {"id": "another"}])
        await call.end()

    fake.answer(only_items, only_response, part_missing)
    for _ in range(3):
        assert text_of(await collect(provider, make_turn())) == "whole"


async def test_text_that_the_server_takes_back_is_reset(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    async def script(call: Call) -> None:
        await call.text("wrong")
        place: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
        await call.send("response.output_text.done", **place, text="right")
        await call.completed()
        await call.end()

    fake.answer(script)
    events = await collect(provider, make_turn())
    assert TextReset("msg_1.0") in events
    assert text_of(events) == "right"


@pytest.mark.parametrize(
    ("reason", "stop_reason"), [("max_output_tokens", "max_tokens"), ("content_filter", "content_filter")]
)
async def test_an_incomplete_response_completes_with_its_reason(
    fake: ResponsesFake, provider: OpenAIProvider, reason: str, stop_reason: str
) -> None:
    async def script(call: Call) -> None:
        await call.text("as far as")
        details: dict[str, Any] = {"incomplete_details": {"reason": reason}}
        await call.send("response.incomplete", response=response("incomplete", **details))
        await call.end()

    fake.answer(script)
    assert (await collect(provider, make_turn()))[-1] == Completed(stop_reason)


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable", "refused"),
    [
        (
            400,
            {"error": {"code": "context_length_exceeded", "type": "invalid_request_error"}},
            "too_large",
            False,
            False,
        ),
        (400, {"error": {"code": None, "type": "invalid_request_error"}}, "invalid_request", False, False),
        (401, {"error": {"code": "invalid_api_key", "type": "invalid_request_error"}}, "authentication", False, False),
        (402, {}, "payment_required", False, False),
        (403, {"error": {}}, "permission_denied", False, False),
        (404, {"error": {"code": "model_not_found"}}, "not_found", False, False),
        (404, "<html>nothing here</html>", "not_found", False, False),
        (408, {}, "timeout", True, False),
        (409, {}, "invalid_request", False, False),
        (413, {}, "too_large", False, False),
        (422, {"detail": [{"loc": ["body"]}]}, "invalid_request", False, False),
        (429, {"error": {"code": "rate_limit_exceeded", "type": "tokens"}}, "rate_limited", True, True),
        (
            429,
            {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}},
            "payment_required",
            False,
            False,
        ),
        (500, {"error": {"type": "server_error"}}, "upstream_error", True, True),
        (502, "bad gateway", "upstream_error", True, True),
        (503, {}, "overloaded", True, True),
        (504, {}, "timeout", True, True),
        (529, {}, "overloaded", True, True),
        (307, {}, "invalid_request", False, False),
    ],
)
async def test_a_refused_request_is_named_by_its_kind(
    fake: ResponsesFake,
    provider: OpenAIProvider,
    status: int,
    body: object,
    code: str,
    retryable: bool,
    refused: bool,
) -> None:
    fake.answer(lambda call: call.status(status, body, location="/elsewhere"))
    error, events = await failure(provider)
    assert (error.code, error.retryable, error.refused, events) == (code, retryable, refused, [])
    assert len(fake.calls) == 1  # neither the SDK nor we ask a second time


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry_after": "999999999"}, 3600.0),
        ({"retry_after": "soon"}, None),
        ({"retry_after_ms": "nan"}, None),
        ({}, None),
    ],
)
async def test_the_wait_that_the_server_asks_for_is_passed_on(
    fake: ResponsesFake, provider: OpenAIProvider, headers: dict[str, str], seconds: float | None
) -> None:
    fake.answer(lambda call: call.status(429, {"error": {}}, **headers))
    error, _ = await failure(provider)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("response.failed", {"code": "rate_limit_exceeded", "message": "secret words"}, "rate_limited"),
        ("response.failed", {"code": "server_error", "message": "secret words"}, "upstream_error"),
        ("response.failed", {"code": "invalid_prompt", "message": "secret words"}, "invalid_request"),
        ("error", {"code": "context_length_exceeded", "message": "secret words", "param": None}, "too_large"),
        ("error", {"code": None, "message": "secret words", "param": None}, "upstream_error"),
        ("error", {"error": {"type": "overloaded", "message": "secret words"}}, "overloaded"),
    ],
)
async def test_an_error_in_the_stream_ends_the_turn_and_was_not_refused(
    fake: ResponsesFake, provider: OpenAIProvider, kind: str, fields: dict[str, Any], code: str
) -> None:
    async def script(call: Call) -> None:
        await call.text("partial")
        if kind == "error":
            await call.send(kind, strict="error" not in fields, **fields)
        else:
            await call.send(kind, response=response("failed", error=fields))
        await call.end()

    fake.answer(script)
    error, events = await failure(provider)
    assert (error.code, error.refused, text_of(events)) == (code, False, "partial")
    assert "secret" not in str(error)


async def test_a_stream_that_ends_without_a_terminal_event_is_incomplete(
    fake: ResponsesFake, provider: OpenAIProvider
) -> None:
    async def early(call: Call) -> None:
        await call.text("partial")
        await call.end()

    async def done_marker(call: Call) -> None:
        await call.text("partial")
        await call.raw(b"data: [DONE]\n\n")
        await call.end()

    async def nothing(call: Call) -> None:
        await call.raw(b"<html>a page of some proxy</html>")
        await call.end()

    fake.answer(early, done_marker, nothing)
    for _ in range(3):
        error, _ = await failure(provider)
        assert (error.code, error.refused, error.retryable) == ("incomplete", False, True)


async def test_a_connection_that_breaks_is_not_taken_for_one_that_never_was(
    fake: ResponsesFake, provider: OpenAIProvider
) -> None:
    async def before_the_head(call: Call) -> None:
        raise Hangup

    async def in_the_middle(call: Call) -> None:
        await call.text("partial")
        raise Hangup

    async def in_the_middle_of_an_error(call: Call) -> None:
        call._writer.write(b"HTTP/1.1 500 X\r\ncontent-length: 100\r\n\r\n{")
        await call._writer.drain()
        raise Hangup

    fake.answer(before_the_head, in_the_middle, in_the_middle_of_an_error)
    for _ in range(3):
        error, _ = await failure(provider)
        assert (error.code, error.refused, error.retryable) == ("disconnected", False, True)
    assert len(fake.calls) == 3


async def test_a_server_that_is_not_there_was_never_reached(unused_port: int) -> None:
    async with OpenAIProvider(model="m", base_url=f"http://127.0.0.1:{unused_port}/v1") as provider:
        error, _ = await failure(provider)
    assert (error.code, error.refused, error.retryable) == ("connection_failed", True, True)


async def test_connecting_ends_at_the_turns_own_deadline(full_backlog: int) -> None:
    async with OpenAIProvider(model="m", base_url=f"http://127.0.0.1:{full_backlog}/v1") as provider:
        async with asyncio.timeout(5):
            error, _ = await failure(provider, connect_seconds=0.2)
    assert (error.code, error.refused) == ("connection_failed", True)


async def test_a_stream_that_is_not_of_the_api_is_the_servers_failure(
    fake: ResponsesFake, provider: OpenAIProvider
) -> None:
    async def not_json(call: Call) -> None:
        await call.raw(b"data: {oops\n\n")
        await call.end()

    async def not_utf8(call: Call) -> None:
        await call.raw(b'data: {"type":"\xff"}\n\n')
        await call.end()

    async def field_missing(call: Call) -> None:
        await call.send("response.output_text.delta", strict=False, item_id="msg_1")
        await call.end()

    async def no_response(call: Call) -> None:
        await call.send("response.completed", strict=False)
        await call.end()

    fake.answer(not_json, not_utf8, field_missing, no_response)
    for _ in range(4):
        error, _ = await failure(provider)
        assert (error.code, error.refused) == ("upstream_error", False)


async def test_events_that_are_not_known_yet_are_progress(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    async def script(call: Call) -> None:
        await call.send("response.telepathy.delta", strict=False, thought="?")
        await call.text("ok")
        await call.completed()
        await call.end()

    fake.answer(script)
    events = await collect(provider, make_turn())
    assert events[0] == Progress()
    assert text_of(events) == "ok"


async def test_cancelling_the_turn_closes_the_connection(fake: ResponsesFake, provider: OpenAIProvider) -> None:
    async def script(call: Call) -> None:
        await call.text("going on")
        await call.gone.wait()

    fake.answer(script)
    shown = asyncio.Event()

    async def turn() -> None:
        async with aclosing(provider.stream(make_turn())) as stream:
            async for _ in stream:
                shown.set()

    task = asyncio.create_task(turn())
    async with asyncio.timeout(5):
        await shown.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await (await fake.call()).gone.wait()


async def test_closing_the_generator_between_events_closes_the_connection(
    fake: ResponsesFake, provider: OpenAIProvider
) -> None:
    async def script(call: Call) -> None:
        await call.text("going on")
        await call.gone.wait()

    fake.answer(script)
    async with asyncio.timeout(5):
        async with aclosing(provider.stream(make_turn())) as stream:
            await anext(stream)
        await (await fake.call()).gone.wait()


async def test_leaving_the_provider_leaves_no_connection(fake: ResponsesFake) -> None:
    fake.answer_always(text_answer("ok"))
    async with OpenAIProvider(model="m", base_url=fake.base_url, api_key="test-key") as provider:
        await asyncio.gather(*(collect(provider, make_turn(thread=str(number))) for number in range(5)))
        assert fake.open > 0
    await fake.deserted()


async def test_neither_key_nor_text_is_in_an_error_or_a_log_line(
    fake: ResponsesFake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.expects_key = "sk-hush-hush"
    echo = {"error": {"message": "sk-hush-hush said: my diary", "code": "sk-hush-hush"}}
    fake.answer(lambda call: call.status(400, echo), lambda call: call.status(500, echo))
    async with OpenAIProvider(model="m", base_url=fake.base_url, api_key="sk-hush-hush", system="my rules") as provider:
        for _ in range(2):
            error, _ = await failure(provider)
            shown = f"{error!r} {error} {error.__cause__}"
            assert "hush" not in shown
            assert "diary" not in shown
    assert "hush" not in caplog.text
    assert "my rules" not in caplog.text
    assert "diary" not in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "model"),
        ({"model": "m"}, "no API key"),
        ({"model": "m", "base_url": "localhost:8000"}, "base_url"),
        ({"model": "m", "base_url": "http://user:hush@localhost/v1"}, "base_url"),
        ({"model": "m", "api_key": "hush\n"}, "API key"),
        ({"model": "m", "api_key": "k", "max_output_tokens": 0}, "max_output_tokens"),
        ({"model": "m", "api_key": "k", "reasoning_effort": "hush"}, "reasoning_effort"),
        ({"model": "m", "api_key": "k", "reasoning_summary": "hush"}, "reasoning_summary"),
        ({"model": "m", "api_key": "k", "headers": {"X-A": "hush\r\nhush"}}, "X-A"),
        ({"model": "m", "api_key": "k", "headers": {"X A": "hush"}}, "headers"),
        ({"model": "m", "api_key": "k", "tools": [{"type": "function", "name": "hush"}]}, "tools"),
    ],
)
def test_a_wrong_option_is_named_and_its_value_is_not(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        OpenAIProvider(**options)
    assert "hush" not in str(caught.value)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="temprature"):
        OpenAIProvider(model="m", api_key="k", temprature=1)  # type: ignore[call-arg]  # what is tested


def test_without_its_extra_the_import_says_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "providers.openai")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"agentline\[openai\]"):
        importlib.import_module("providers.openai")


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
async def full_backlog() -> AsyncIterator[int]:
    """A port whose queue of connections is full: further ones hang."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        clients = [socket.socket() for _ in range(4)]
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for client in clients:
                client.close()


def test_the_fake_is_strict_about_what_it_sends() -> None:
    from tests.fakes.responses_stream import _events

    with pytest.raises(ValueError, match="delta"):
        _events().validate_python(json.loads('{"type":"response.output_text.delta","item_id":"x"}'))
