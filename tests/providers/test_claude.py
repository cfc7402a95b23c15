"""Claude's provider with the real SDK against a strict fake of the API, over real sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from typing import Any

import pytest

from providers import (
    Completed,
    Message,
    Progress,
    ProviderError,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from providers.claude import ClaudeProvider
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import (
    BlockDelta,
    BlockStart,
    BlockStop,
    EndEarly,
    Gate,
    Pieces,
    Raw,
    Send,
    Step,
    answer,
    end,
    mcp_tool,
    server_tool,
    start,
    text,
    thinking,
    web_search,
)
from tests.providers.turns import collected, failed, text_of, turn

MCP = [{"name": "files", "url": "https://mcp.example.org/sse", "authorization_token": "mcp-secret", "tools": ["ls"]}]


async def test_a_piece_comes_out_while_the_api_is_still_sending(api: MessagesApi, claude: ClaudeProvider) -> None:
    gate = Gate()
    api.script = answer(text("Hel", gate, "lo"))
    async with asyncio.timeout(5), aclosing(claude.stream(turn("Hi"))) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                assert event.text == "Hel"
                assert not gate.opened.is_set()
                break
        gate.opened.set()
        rest = [event async for event in events]
    assert text_of(rest) == "lo"
    assert rest[-1] == Completed("end_turn")


async def test_blocks_become_text_reasoning_and_tools(api: MessagesApi, claude: ClaudeProvider) -> None:
    api.script = answer(
        thinking("I ", "search."),
        text("Let me look."),
        server_tool("web_search", '{"que', 'ry": "tides"}'),
        web_search("Tide tables", "The moon"),
        text("High at noon."),
    )
    events = [e for e in await collected(claude, turn("When?")) if not isinstance(e, Usage | Progress)]
    assert events == [
        ReasoningDelta("b0", "I "),
        ReasoningDelta("b0", "search."),
        TextDelta("b1", "Let me look."),
        ToolCall("srvtoolu_1", "web_search", "tides", {"query": "tides"}),
        ToolResult("srvtoolu_1", "completed", "Tide tables\nThe moon"),
        TextDelta("b4", "High at noon."),
        Completed("end_turn"),
    ]


async def test_a_failed_search_is_a_failed_tool_result(api: MessagesApi, claude: ClaudeProvider) -> None:
    api.script = answer(server_tool("web_search", "{}"), web_search(error="max_uses_exceeded"))
    results = [e for e in await collected(claude, turn("Hi")) if isinstance(e, ToolResult)]
    assert results == [ToolResult("srvtoolu_1", "failed", "max_uses_exceeded")]


async def test_the_request_carries_the_options_and_the_history(api: MessagesApi) -> None:
    options: dict[str, Any] = {"model": "claude-opus-5-5", "system": "Be brief.", "max_tokens": 2000}
    provider = ClaudeProvider(
        api_key="sk-secret", base_url=api.url, thinking={"type": "enabled", "budget_tokens": 1024}, **options
    )
    async with provider:
        await collected(provider, turn("One", "1", "Two"))
    assert api.calls[0].body == {
        **options,
        "stream": True,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "Two"},
        ],
    }


async def test_blank_answers_are_left_out_of_the_history(api: MessagesApi, claude: ClaudeProvider) -> None:
    messages = [
        Message("assistant", "Welcome"),
        Message("user", "One"),
        Message("assistant", " "),
        Message("user", "Two"),
    ]
    await collected(claude, turn(messages=messages))
    assert api.calls[0].body["messages"] == [{"role": "user", "content": "One\n\nTwo"}]


async def test_a_blank_message_is_refused_without_a_call(api: MessagesApi, claude: ClaudeProvider) -> None:
    with pytest.raises(ProviderError) as caught:
        await collected(claude, turn("One", "1", " \n"))
    assert caught.value.code == "invalid_request"
    assert not api.calls


async def test_mcp_servers_go_through_the_beta_with_one_toolset_each(api: MessagesApi) -> None:
    api.script = answer(
        mcp_tool("ls", '{"path": "/srv"}', result="www"),
        mcp_tool("rm", result="No.", call_id="mcptoolu_2", failed=True),
    )
    async with ClaudeProvider(api_key="sk-secret", base_url=api.url, mcp_servers=MCP) as provider:
        events = await collected(provider, turn("Hi"))
    assert [e for e in events if isinstance(e, ToolCall | ToolResult)] == [
        ToolCall("mcptoolu_1", "ls", "files: /srv", {"path": "/srv"}),
        ToolResult("mcptoolu_1", "completed", "www"),
        ToolCall("mcptoolu_2", "rm", "files: rm", {}),
        ToolResult("mcptoolu_2", "failed", "No."),
    ]
    body = api.calls[0].body
    assert "tools" not in body["mcp_servers"][0]
    assert body["tools"][0]["configs"] == {"ls": {"enabled": True}}


async def test_a_plain_call_sends_no_beta_header(api: MessagesApi, claude: ClaudeProvider) -> None:
    await collected(claude, turn("Hi"))
    assert "anthropic-beta" not in api.calls[0].headers


async def test_what_is_not_known_yet_does_no_harm(api: MessagesApi, claude: ClaudeProvider) -> None:
    api.script = [
        *start(),
        Send({"type": "ping"}),
        Send({"type": "something_new", "data": [1]}),
        Raw(b": a comment\n\nevent: empty\n\n"),
        BlockStart({"type": "redacted_thinking", "data": "xyz"}),
        BlockStop(),
        BlockStart({"type": "hologram", "x": 1}),
        BlockDelta({"type": "hologram_delta", "y": 2}),
        BlockStop(),
        *text(
            "A",
            BlockDelta({"type": "citations_delta", "citation": {"type": "web_search_result_location"}}),
            BlockDelta({"type": "sparkle_delta"}),
            "B",
        ),
        Raw(b"event: telemetry\ndata: not even JSON\n\n"),
        Send({"type": "content_block_delta", "index": 77, "delta": {"type": "sparkle_delta"}}),
        *web_search("nobody asked", call_id="unknown"),
        *end(),
    ]
    events = await collected(claude, turn("Hi"))
    assert text_of(events) == "AB"
    assert not [e for e in events if isinstance(e, ToolResult)]
    assert events[-1] == Completed("end_turn")


async def test_text_of_a_block_whose_beginning_was_not_announced_is_not_lost(
    api: MessagesApi, claude: ClaudeProvider
) -> None:
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "A"}}
    api.script = [*start(), Send(delta), Send(delta), *end()]
    assert text_of(await collected(claude, turn("Hi"))) == "AA"


async def test_keeping_alive_counts_as_progress(api: MessagesApi, claude: ClaudeProvider) -> None:
    ping, arguments = Gate(), Gate()
    api.script = answer(
        ping, Send({"type": "ping"}), arguments, server_tool("web_search", '{"query":', gate := Gate(), '"x"}')
    )
    async with asyncio.timeout(5), aclosing(claude.stream(turn("Hi"))) as events:
        while type(await anext(events)) is not Usage:
            pass
        for silent in (ping, arguments):
            await silent.reached.wait()
            silent.opened.set()
            while type(await anext(events)) is not Progress:
                pass
        gate.opened.set()
        assert ToolCall in {type(event) async for event in events}


async def test_usage_is_cumulative_and_counts_cached_input(api: MessagesApi, claude: ClaudeProvider) -> None:
    api.script = [
        *start(input_tokens=10, cache_read_input_tokens=100, cache_creation_input_tokens=7),
        *text("A"),
        *end(output_tokens=30, output_tokens_details={"thinking_tokens": 12}, input_tokens=None),
    ]
    usages = [e for e in await collected(claude, turn("Hi")) if isinstance(e, Usage)]
    assert usages[-1] == Usage(
        input_tokens=117, output_tokens=30, cache_read_tokens=100, cache_write_tokens=7, reasoning_tokens=12
    )


@pytest.mark.parametrize(
    "reason", ["end_turn", "max_tokens", "refusal", "stop_sequence", "tool_use", "model_context_window_exceeded", "new"]
)
async def test_the_stop_reason_is_passed_on(api: MessagesApi, claude: ClaudeProvider, reason: str) -> None:
    api.script = answer(text("A"), stop_reason=reason)
    assert (await collected(claude, turn("Hi")))[-1] == Completed(reason)


async def test_a_tool_input_cut_by_the_token_limit_does_not_fail_the_turn(
    api: MessagesApi, claude: ClaudeProvider
) -> None:
    api.script = answer(server_tool("web_search", '{"query": "unfini'), stop_reason="max_tokens")
    calls = [e for e in await collected(claude, turn("Hi")) if isinstance(e, ToolCall)]
    assert calls == [ToolCall("srvtoolu_1", "web_search", "", {})]


async def test_half_a_surrogate_pair_becomes_a_replacement_character(api: MessagesApi, claude: ClaudeProvider) -> None:
    delta = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\ud83d"}}'
    api.script = answer(text(Raw(b"event: content_block_delta\ndata: " + delta + b"\n\n")))
    assert text_of(await collected(claude, turn("Hi"))) == "a\ufffd"


async def test_a_paused_turn_goes_on_with_what_was_said_so_far(api: MessagesApi, claude: ClaudeProvider) -> None:
    said: list[Step] = [
        *thinking("Hm.", signature="sig-1"),
        *text("First."),
        *server_tool("web_search", '{"query":', '"x"}'),
    ]
    api.queue.append([*start(input_tokens=5), *said, *end("pause_turn", output_tokens=3)])
    api.queue.append([*start(input_tokens=8), *web_search("T"), *text("Second."), *end(output_tokens=4)])
    events = await collected(claude, turn("Hi"))
    assert [type(e) for e in events if isinstance(e, ToolCall | ToolResult | Completed)] == [
        ToolCall,
        ToolResult,
        Completed,
    ]
    assert [e for e in events if isinstance(e, TextDelta)] == [TextDelta("b1", "First."), TextDelta("b4", "Second.")]
    assert [e for e in events if isinstance(e, Usage)][-1] == Usage(input_tokens=13, output_tokens=7)
    assert len(api.calls) == 2
    assert api.calls[1].body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "sig-1"},
                {"type": "text", "text": "First."},
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
            ],
        }
    ]


async def test_a_turn_that_never_stops_pausing_ends(
    api: MessagesApi, claude: ClaudeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.claude.MAX_CONTINUATIONS", 2)
    api.script = answer(server_tool("web_search", "{}"), stop_reason="pause_turn")
    assert (await collected(claude, turn("Hi")))[-1] == Completed("pause_turn")
    assert len(api.calls) == 3


async def test_closing_the_generator_closes_the_connection_upstream(api: MessagesApi, claude: ClaudeProvider) -> None:
    api.script = answer(text("Hel", Gate(), "lo"))
    async with aclosing(claude.stream(turn("Hi"))) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    async with asyncio.timeout(1):
        await api.calls[0].closed.wait()


@pytest.mark.parametrize("script", [[Gate()], answer(text("Hel", Gate(), "lo"))], ids=["headers", "text"])
async def test_cancelling_the_task_closes_the_connection_upstream(
    api: MessagesApi, claude: ClaudeProvider, script: list[Step]
) -> None:
    api.script = script
    task = asyncio.create_task(collected(claude, turn("Hi")))
    gate = next(step for step in script if isinstance(step, Gate))
    async with asyncio.timeout(5):
        await gate.reached.wait()
    task.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task
        await api.calls[0].closed.wait()


async def test_a_server_that_never_reads_can_be_cancelled(api: MessagesApi, claude: ClaudeProvider) -> None:
    api.deaf = True
    task = asyncio.create_task(collected(claude, turn("Hi")))
    async with asyncio.timeout(5):
        await api.connected.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(1):
            await task


async def test_more_streams_than_the_transports_default_pool_run_at_once(
    api: MessagesApi, claude: ClaudeProvider
) -> None:
    gate = Gate()
    api.script = answer(text("A", gate))
    async with asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(collected(claude, turn("Hi"))) for _ in range(150)]
            await api.called(150, deadline=15)
            gate.opened.set()
    assert all(text_of(task.result()) == "A" for task in tasks)


async def test_a_finished_turn_leaves_its_connection_for_the_next(api: MessagesApi, claude: ClaudeProvider) -> None:
    for _ in range(3):
        await collected(claude, turn("Hi"))
    assert api.connections == 1


async def test_an_upstream_that_holds_the_connection_open_does_not_delay_the_end(
    api: MessagesApi, claude: ClaudeProvider
) -> None:
    api.script = [*answer(text("A")), Gate()]
    async with asyncio.timeout(2):
        assert (await collected(claude, turn("Hi")))[-1] == Completed("end_turn")


async def test_a_long_answer_in_many_pieces_arrives_whole(api: MessagesApi, claude: ClaudeProvider) -> None:
    api.script = [*start(), Pieces(5000, 0.0, "ä🙂 "), *end()]
    assert text_of(await collected(claude, turn("Hi"))) == "ä🙂 " * 5000


async def test_nothing_after_the_body_ends_early_counts_as_complete(api: MessagesApi, claude: ClaudeProvider) -> None:
    api.script = [*start(), *text("Hel"), EndEarly()]
    seen, error = await failed(claude, turn("Hi"))
    assert text_of(seen) == "Hel"
    assert (error.code, error.retryable, error.refused) == ("incomplete", True, False)


async def test_a_provider_that_was_not_started_says_so() -> None:
    with pytest.raises(ProviderError) as caught:
        await collected(ClaudeProvider(api_key="sk-secret"), turn("Hi"))
    assert caught.value.code == "provider_fault"


def test_a_missing_key_is_the_reason_shown() -> None:
    with pytest.raises(ValueError, match="api_key is missing"):
        ClaudeProvider()


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
async def test_the_key_may_come_from_the_environment(
    api: MessagesApi, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "sk-secret")
    async with ClaudeProvider(base_url=api.url) as provider:
        assert (await collected(provider, turn("Hi")))[-1] == Completed("end_turn")


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        ClaudeProvider(api_key="k", temperature=1)  # type: ignore[call-arg]  # the point of the test


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"api_key": ["sk-secret"]}, "api_key"),
        ({"base_url": "sk-secret.example"}, "base_url"),
        ({"base_url": "http://[sk-secret"}, "base_url"),
        ({"system": 1}, "system"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"thinking": "sk-secret"}, "thinking"),
        ({"thinking": {"type": "deep"}}, "thinking"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 2000}}, "thinking"),
        ({"thinking": {"type": "adaptive", "display": "all"}}, "thinking.display"),
        ({"mcp_servers": {"name": "x"}}, "mcp_servers"),
        ({"mcp_servers": ["sk-secret"]}, "mcp_servers[0]"),
        ({"mcp_servers": [{"name": "x", "url": "stdio:sk-secret"}]}, "mcp_servers[0].url"),
        ({"mcp_servers": [{"name": "x", "url": "https://x", "command": "sk-secret"}]}, "mcp_servers[0]"),
        ({"mcp_servers": [{"name": "x", "url": "https://x"}, {"name": "x", "url": "https://y"}]}, "mcp_servers"),
    ],
)
def test_a_wrong_option_is_named_and_not_repeated(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is checked below
        ClaudeProvider(**{"api_key": "k", **options})  # type: ignore[arg-type]  # wrong on purpose
    assert str(caught.value).startswith(named)
    assert "sk-secret" not in str(caught.value)


def test_naming_the_provider_does_not_import_the_sdk() -> None:
    code = "import sys, providers.claude; sys.exit('anthropic' in sys.modules or 'aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
