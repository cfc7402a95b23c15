"""Turns of the real Codex: what is said, thought and done arrives as events, and the conversation goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from providers import (
    Completed,
    Event,
    Message,
    Progress,
    ProviderError,
    ReasoningDelta,
    SessionUpdated,
    TextDelta,
    TextReset,
    ToolCall,
    ToolResult,
    Usage,
)
from tests.fakes.responses_api import (
    DROP,
    EOF,
    STALL,
    CustomToolCall,
    FunctionCall,
    Reasoning,
    Refuse,
    Reply,
    ResponsesApi,
    Text,
    WebSearch,
    unused_port,
)
from tests.providers.codex_kit import (
    SECONDS,
    child_of,
    codex,
    collect,
    failure,
    of,
    processes,
    run,
    session,
    text,
    turn,
    until,
)


@pytest.fixture
async def api() -> AsyncIterator[ResponsesApi]:
    async with ResponsesApi() as server:
        yield server


async def test_text_and_reasoning_arrive_piece_by_piece_while_the_model_still_speaks(
    api: ResponsesApi, tmp_path: Path
) -> None:
    more = asyncio.Event()
    api.script(Reply(Reasoning("I ", "think"), Text("Hel", more, "lo"), input_tokens=20, reasoning_tokens=3))
    events = []
    async with (
        asyncio.timeout(SECONDS),
        codex(tmp_path, api) as provider,
        contextlib.aclosing(provider.stream(turn("Hi"))) as stream,
    ):
        async for event in stream:
            events.append(event)
            if isinstance(event, TextDelta):
                more.set()  # the rest is said only once the beginning is here
    assert "".join(e.text for e in of(ReasoningDelta, events)) == "I think"
    assert [e.text for e in of(TextDelta, events)] == ["Hel", "lo"]
    assert of(Usage, events)[-1] == Usage(input_tokens=20, output_tokens=7, reasoning_tokens=3)
    assert isinstance(events[0], SessionUpdated)
    assert events[-1] == Completed("end_turn")


async def test_the_next_turn_goes_on_in_the_same_codex_thread_and_counts_its_own_tokens(
    api: ResponsesApi, tmp_path: Path
) -> None:
    async with codex(tmp_path, api) as provider:
        first = await run(provider, turn("My name is Ada"))
        second = await run(provider, turn("Who am I?", session=session(first)))
    assert of(SessionUpdated, second) == []
    assert api.calls[1].texts("user")[-2:] == ["My name is Ada", "Who am I?"]
    assert api.calls[1].texts("assistant") == ["ok"]
    assert of(Usage, second)[-1] == Usage(input_tokens=11, output_tokens=7)


async def test_a_command_is_a_tool_call_with_its_output_as_result(api: ResponsesApi, tmp_path: Path) -> None:
    api.script(
        Reply(Text("Let me look."), FunctionCall("exec_command", {"cmd": "echo one; exit 3", "login": False}, "c1")),
        Reply(Text("Done.")),
    )
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("go"))
    (call,), (result,) = of(ToolCall, events), of(ToolResult, events)
    assert (call.call_id, call.name, call.title) == ("c1", "shell", "echo one; exit 3")
    assert call.arguments["cwd"] == str(tmp_path / "work")
    assert "echo one; exit 3" in call.arguments["command"]
    assert result == ToolResult("c1", "failed", "one\nexit code 3")
    assert "one" in api.calls[1].output("c1")
    assert text(events) == "Let me look.\n\nDone."


async def test_a_web_search_is_a_tool_call(api: ResponsesApi, tmp_path: Path) -> None:
    api.script(Reply(WebSearch("weather in Graz"), Text("Sunny.")))
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("go"))
    (call,), (result,) = of(ToolCall, events), of(ToolResult, events)
    assert (call.name, call.title, result.summary) == ("web_search", "weather in Graz", "weather in Graz")


async def test_a_plan_is_a_tool_call_that_returns_at_once_with_its_steps(api: ResponsesApi, tmp_path: Path) -> None:
    plan = {"plan": [{"step": "look", "status": "completed"}, {"step": "write", "status": "in_progress"}]}
    api.script(Reply(FunctionCall("update_plan", plan)), Reply(Text("ok")))
    async with codex(tmp_path, api, config={"tools.update_plan.enabled": True}) as provider:
        events = await run(provider, turn("go"))
    assert "update_plan" in api.calls[0].tools
    (call,), (result,) = of(ToolCall, events), of(ToolResult, events)
    assert (call.name, call.title) == ("plan", "write")
    assert result.summary == "[x] look\n[>] write"


@pytest.mark.parametrize("cut", [DROP, EOF])
async def test_text_cut_off_upstream_is_reset_and_said_anew(api: ResponsesApi, tmp_path: Path, cut: object) -> None:
    api.script(Reply(Text("Hel", cut)), Reply(Text("Hello")))  # type: ignore[arg-type]  # one of the two faults
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("Hi"))
    (reset,) = of(TextReset, events)
    assert reset.item_id == of(TextDelta, events)[0].item_id
    assert text(events) == "Hello"


async def test_what_codex_keeps_of_a_cut_answer_stays_in_the_answer(api: ResponsesApi, tmp_path: Path) -> None:
    api.script(Reply(Text("First."), DROP), Reply(Text("Second.")))
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("Hi"))
    assert api.calls[1].texts("assistant") == ["First."]
    assert text(events) == "First.\n\nSecond."


async def test_an_answer_at_the_token_limit_completes_with_what_there_is(api: ResponsesApi, tmp_path: Path) -> None:
    api.script(Reply(Text("As far as"), incomplete="max_output_tokens"))
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("Hi"))
    assert text(events) == "As far as"
    assert events[-1] == Completed("max_tokens")


@pytest.mark.parametrize(
    ("replies", "code", "retryable"),
    [
        ([Refuse(429, "rate_limit_exceeded", retry_after=0.1)] * 2, "rate_limited", True),
        ([Refuse(429, "insufficient_quota")], "payment_required", False),
        ([Refuse(500)] * 4, "upstream_error", True),
        ([Refuse(401, "invalid_api_key")] * 4, "authentication", False),
        ([Refuse(403)] * 4, "permission_denied", False),
        ([Refuse(404, "model_not_found")] * 4, "not_found", False),
        ([Refuse(400, "invalid_request_error")], "invalid_request", False),
        ([Reply(Text("Hel", DROP))] * 2, "disconnected", True),
        ([Reply(error=("context_length_exceeded", "too long"))], "too_large", False),
        ([Reply(error=("rate_limit_exceeded", "try again in 0.1s"))] * 2, "rate_limited", True),
    ],
)
async def test_an_error_upstream_is_told_by_its_code_and_never_quoted(
    api: ResponsesApi, tmp_path: Path, replies: list[Reply | Refuse], code: str, retryable: bool
) -> None:
    api.script(*replies)
    async with codex(tmp_path, api) as provider:
        error = await failure(provider, turn("Hi"))
    assert (error.code, error.retryable, error.refused) == (code, retryable, False)
    assert "127.0.0.1" not in error.message
    assert "fake" not in error.message


async def test_a_failed_turn_leaves_the_thread_usable(api: ResponsesApi, tmp_path: Path) -> None:
    api.script(Refuse(400, "invalid_request_error"), Reply(Text("better")))
    async with codex(tmp_path, api) as provider:
        seen: list[Event] = []
        with pytest.raises(ProviderError, match="invalid_request"):
            await collect(provider, turn("one"), seen)
        events = await run(provider, turn("two", session=session(seen)))
    assert text(events) == "better"


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_cancelled_turn_ends_upstream_and_takes_its_commands_along(
    api: ResponsesApi, tmp_path: Path, how: str
) -> None:
    marker = f"31{os.getpid()}"
    api.script(Reply(FunctionCall("exec_command", {"cmd": f"sleep {marker} & sleep {marker}", "login": False})))
    async with codex(tmp_path, api, sandbox="danger-full-access", approval_policy="never") as provider:
        stream = provider.stream(turn("go"))
        running = asyncio.Event()

        async def reading() -> None:
            async with contextlib.aclosing(stream):
                async for event in stream:
                    if isinstance(event, ToolCall):
                        await until(lambda: len(processes(f"sleep\0{marker}")) == 2)
                        running.set()
                        if how == "close":
                            return

        task = asyncio.create_task(reading())
        async with asyncio.timeout(SECONDS):
            await running.wait()
            if how == "cancel":
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await task
        await until(lambda: processes(f"sleep\0{marker}") == [])  # while Codex itself runs on
        assert provider.server.starts == 1


async def test_cancel_in_the_middle_of_text_closes_the_request_upstream(api: ResponsesApi, tmp_path: Path) -> None:
    api.script(Reply(Text("Hel", STALL)))
    loop = asyncio.get_running_loop()
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):
        stream = provider.stream(turn("go"))
        events = []
        async for event in stream:
            events.append(event)
            if isinstance(event, TextDelta):
                break
        began = loop.time()
        await stream.aclose()
        took = loop.time() - began
        await api.calls[0].ended.wait()
        assert api.calls[0].left
        assert took < 1.0
        after = await run(provider, turn("again", session=session(events)))
    assert text(after) == "ok"


async def test_an_unreachable_upstream_is_silent_until_cancelled_and_then_gone(
    api: ResponsesApi, tmp_path: Path
) -> None:
    async with codex(tmp_path, api, port=unused_port()) as provider:
        events: list[Event] = []
        with pytest.raises(TimeoutError):  # the gateway's own deadline
            await asyncio.wait_for(collect(provider, turn("go"), events), 2.0)
        assert [type(event) for event in events] == [SessionUpdated]
        client = await provider.server.client(1.0)
        loaded = await client.request("thread/loaded/list", {})
        assert loaded["data"] == []


async def test_a_thread_that_codex_no_longer_has_is_begun_anew_with_the_conversation(
    api: ResponsesApi, tmp_path: Path
) -> None:
    history = (Message("user", "My name is Ada"), Message("assistant", "Hello Ada"), Message("assistant", ""))
    lost = {"codex_thread_id": "01a1f873-8fbf-7061-aefe-b5f5e1bfa8eb"}
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("Who am I?", history=history, session=lost))
    assert session(events) != lost
    assert api.calls[0].texts("user")[-2:] == ["My name is Ada", "Who am I?"]
    assert api.calls[0].texts("assistant") == ["Hello Ada"]


async def test_when_the_process_dies_its_turns_fail_and_the_next_finds_a_new_one_and_the_thread(
    api: ResponsesApi, tmp_path: Path
) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):
        first = await run(provider, turn("remember 42"))
        api.script(*(Reply(Text("Hel", gate)) for gate in gates))
        turns = [
            asyncio.create_task(failure(provider, turn("a", session=session(first)))),
            asyncio.create_task(failure(provider, turn("b", thread_id="t2"))),
        ]
        await api.called(3)
        assert provider.server.pid is not None
        os.kill(child_of(provider.server.pid), signal.SIGKILL)
        errors = await asyncio.gather(*turns)
        assert [(e.code, e.retryable) for e in errors] == [("disconnected", True)] * 2
        after = await run(provider, turn("what was it?", session=session(first)))
        assert provider.server.starts == 2
    assert "remember 42" in api.calls[-1].texts("user")
    assert text(after) == "ok"


async def test_a_thread_goes_on_after_the_gateway_was_restarted(api: ResponsesApi, tmp_path: Path) -> None:
    async with codex(tmp_path, api) as provider:
        first = await run(provider, turn("remember 42"))
    async with codex(tmp_path, api) as provider:
        await run(provider, turn("what was it?", session=session(first)))
    assert api.calls[1].texts("user")[-2:] == ["remember 42", "what was it?"]


async def test_a_steering_message_reaches_the_running_turn(api: ResponsesApi, tmp_path: Path) -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()

    async def steering() -> AsyncIterator[Message]:
        while True:
            yield await messages.get()

    go_on = asyncio.Event()
    api.script(
        Reply(Text("Looking."), FunctionCall("exec_command", {"cmd": "true", "login": False}), go_on),
        Reply(Text("Done, and in blue.")),
    )
    events = []
    async with (
        asyncio.timeout(SECONDS),
        codex(tmp_path, api) as provider,
        contextlib.aclosing(provider.stream(turn("paint it", steering=steering()))) as stream,
    ):
        async for event in stream:
            events.append(event)
            if isinstance(event, ToolResult):
                messages.put_nowait(Message("user", "in blue"))
                go_on.set()
    assert any("in blue" in call.texts("user") for call in api.calls)
    assert len(of(Completed, events)) == 1
    assert text(events).endswith("Done, and in blue.")


async def test_text_that_a_steering_message_cut_short_is_taken_back(api: ResponsesApi, tmp_path: Path) -> None:
    """Codex drops the answer it was at and asks the model anew; what was said is not in the conversation."""
    messages: asyncio.Queue[Message] = asyncio.Queue()

    async def steering() -> AsyncIterator[Message]:
        while True:
            yield await messages.get()

    api.script(Reply(Text("Painting it red", STALL)), Reply(Text("Painting it blue")))
    events = []
    async with (
        asyncio.timeout(SECONDS),
        codex(tmp_path, api) as provider,
        contextlib.aclosing(provider.stream(turn("paint it", steering=steering()))) as stream,
    ):
        async for event in stream:
            events.append(event)
            if isinstance(event, TextDelta) and len(api.calls) == 1:
                messages.put_nowait(Message("user", "in blue"))
    assert text(events) == "Painting it blue"
    assert api.calls[1].texts("user")[-1] == "in blue"
    assert "Painting it red" not in api.calls[1].texts("assistant")


async def test_a_silent_command_counts_as_progress_and_a_silent_backend_does_not(
    api: ResponsesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.codex.turn.HEARTBEAT_SECONDS", 0.1)
    pause = asyncio.Event()
    api.script(Reply(FunctionCall("exec_command", {"cmd": "sleep 1", "login": False})), Reply(pause, Text("ok")))
    events = []
    async with (
        asyncio.timeout(SECONDS),
        codex(tmp_path, api) as provider,
        contextlib.aclosing(provider.stream(turn("go"))) as stream,
    ):
        async for event in stream:
            events.append(event)
            if isinstance(event, ToolResult):
                asyncio.get_running_loop().call_later(1.0, pause.set)
    done = next(n for n, event in enumerate(events) if isinstance(event, ToolResult))
    assert len(of(Progress, events[:done])) >= 5
    assert of(Progress, events[done:]) == []


async def test_a_steering_message_that_comes_too_late_is_answered_in_the_same_turn(
    api: ResponsesApi, tmp_path: Path
) -> None:
    """It is taken from the gateway while Codex ends its turn, so it must not be lost."""
    given = asyncio.Event()

    async def steering() -> AsyncIterator[Message]:
        await given.wait()
        yield Message("user", "one more thing")
        await asyncio.Event().wait()

    api.answer = lambda call: Reply(Text(f"re {call.last_user_text}"))
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):
        client = await provider.server.client(20.0)
        asked = client.request

        async def late(method: str, params: dict[str, Any], **more: float) -> Any:
            if method == "turn/steer":  # what Codex says when its turn has just ended
                params = {**params, "expectedTurnId": "01a1f873-8ff2-7892-9a60-11ab17074981"}
            return await asked(method, params, **more)

        client.request = late  # type: ignore[method-assign]  # moves one message in time
        hold = asyncio.Event()
        api.script(Reply(Text("first", hold)))
        events = []
        async with contextlib.aclosing(provider.stream(turn("start", steering=steering()))) as stream:
            async for event in stream:
                events.append(event)
                if isinstance(event, TextDelta) and not hold.is_set():
                    given.set()
                    asyncio.get_running_loop().call_later(0.2, hold.set)
    assert text(events) == "first\n\nre one more thing"
    assert len(of(Completed, events)) == 1


async def test_two_threads_that_adopted_the_same_codex_thread_take_turns(api: ResponsesApi, tmp_path: Path) -> None:
    api.answer = lambda call: Reply(Text(f"re {call.last_user_text}"))
    async with codex(tmp_path, api) as provider:
        first = await run(provider, turn("0"))
        both = await asyncio.gather(
            *(run(provider, turn(str(n), thread_id=f"t{n}", session=session(first))) for n in (1, 2, 3))
        )
        assert [text(events) for events in both] == ["re 1", "re 2", "re 3"]


async def test_a_codex_thread_that_stays_in_use_is_said_to_be_so(api: ResponsesApi, tmp_path: Path) -> None:
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):
        first = await run(provider, turn("0"))
        api.script(Reply(Text("Hel", STALL)))
        long = asyncio.create_task(collect(provider, turn("1", session=session(first)), []))
        await api.called(2)
        error = await failure(provider, turn("2", thread_id="t2", session=session(first), connect_seconds=0.2))
        assert (error.code, error.refused) == ("overloaded", True)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        assert text(await run(provider, turn("3", session=session(first)))) == "ok"


async def test_a_patch_from_the_models_own_script_shows_its_diff(api: ResponsesApi, tmp_path: Path) -> None:
    """Newer models call tools from JavaScript that Codex runs for them, instead of one by one."""
    patch = "*** Begin Patch\n*** Add File: hello.txt\n+hi there\n*** End Patch\n"
    script = f"text(await tools.apply_patch({json.dumps(patch)}))"
    api.script(Reply(CustomToolCall("exec", script, "p1", "functions")), Reply(Text("ok")))
    async with codex(tmp_path, api, sandbox="workspace-write", model="gpt-5.6-sol") as provider:
        events = await run(provider, turn("go"))
    (call,), (result,) = of(ToolCall, events), of(ToolResult, events)
    assert (call.name, call.title) == ("apply_patch", "hello.txt")
    assert call.arguments["diff"] == f"--- /dev/null\n+++ {tmp_path}/work/hello.txt\n+hi there\n"
    assert result.status == "completed"
    assert (tmp_path / "work" / "hello.txt").read_text() == "hi there\n"
