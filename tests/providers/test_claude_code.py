"""The Claude Code provider: the real program from the SDK's wheel, its model a local Messages API."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import tests.fakes.messages_api as messages_api
from providers import (
    Completed,
    Decision,
    Event,
    ProviderError,
    ReasoningDelta,
    SessionUpdated,
    TextDelta,
    TextReset,
    ToolCall,
    ToolResult,
    Usage,
)
from providers.claude_code import ClaudeCodeProvider
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_rules import Refusal
from tests.fakes.messages_script import (
    BlockStart,
    BlockStop,
    Cut,
    Gate,
    Pause,
    Script,
    Stall,
    Status,
    answer,
    start,
    text,
    thinking,
    tool_input,
)
from tests.providers.asking import Approver, answers, collect, make_turn, text_of
from tests.providers.processes import gone, running, there_are, with_environment

ROOT = Path(__file__).parents[2]


def accept_claude_code(
    method: str, target: str, headers: Mapping[str, str], body: bytes, api_key: str | None
) -> dict[str, Any]:
    """Instead of the fake's rules, which are for our own client: Claude Code's requests are its own affair."""
    if method != "POST" or target.partition("?")[0] != "/v1/messages":
        raise Refusal(404, "Not found")
    if headers.get("x-api-key") != api_key:
        raise Refusal(401, "invalid x-api-key")
    data: dict[str, Any] = json.loads(body)
    return data


def tool(name: str, call_id: str = "toolu_1", **arguments: Any) -> Script:
    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    return answer([BlockStart(block), *tool_input(json.dumps(arguments)), BlockStop()], stop_reason="tool_use")


class Bench:
    """A home of its own for Claude Code, and the model server behind it."""

    def __init__(self, path: Path, api: MessagesApi) -> None:
        self.api = api
        self.mark = f"MARK_{uuid.uuid4().hex}"
        self.home = path / "home"
        self.home.mkdir()
        self.work = path / "work"
        self.work.mkdir()

    def options(self, **more: Any) -> dict[str, Any]:
        env = {"HOME": str(self.home), "CLAUDE_CODE_MAX_RETRIES": "2", self.mark: "1", **more.pop("env", {})}
        given = {"cwd": str(self.work), "api_key": "sk-secret", "base_url": self.api.url, "env": env}
        return given | {"config_dir": str(self.home / ".claude"), **more}

    def sent(self, number: int = -1) -> str:
        return json.dumps(self.api.calls[number].body["messages"])


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(messages_api, "validate", accept_claude_code)
    async with MessagesApi(api_key="sk-secret") as api:
        made = Bench(tmp_path, api)
        yield made
        await gone(made.mark)


@pytest.fixture
async def provider(bench: Bench) -> AsyncIterator[ClaudeCodeProvider]:
    async with ClaudeCodeProvider(**bench.options()) as made:
        yield made


def turn(*contents: str, **more: Any) -> Any:
    return make_turn(*contents, connect_seconds=20.0, **more)


def session_of(events: list[Event]) -> Any:
    return answers(events, SessionUpdated)[-1].session


async def failure(provider: ClaudeCodeProvider, wanted: Any) -> tuple[ProviderError, list[Event]]:
    events: list[Event] = []
    with pytest.raises(ProviderError) as caught:
        await collect(provider, wanted, events)
    return caught.value, events


async def begin(provider: ClaudeCodeProvider, wanted: Any, until: Callable[[Event], bool]) -> asyncio.Task[None]:
    reached = asyncio.Event()

    async def iterate() -> None:
        async with aclosing(provider.stream(wanted)) as stream:
            async for event in stream:
                if until(event):
                    reached.set()

    task = asyncio.create_task(iterate())
    async with asyncio.timeout(20):
        await reached.wait()
    return task


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def held(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text()


def program(mark: str) -> int:
    """The one running Claude Code, and not its supervisor."""
    (pid,) = (pid for pid in with_environment(mark) if "supervisor" not in held(pid, "cmdline"))
    return pid


def signal_program(mark: str, number: signal.Signals) -> None:
    os.kill(program(mark), number)


def is_text(event: Event) -> bool:
    return isinstance(event, TextDelta)


async def test_turns_stream_and_share_a_process_and_its_session(bench: Bench, provider: ClaudeCodeProvider) -> None:
    bench.api.queue.append(answer(thinking("hm"), text("Hel", "lo.")))
    bench.api.queue.append(answer(text("Again.")))
    first = await collect(provider, turn("Say hello"))
    assert [event.text for event in answers(first, TextDelta)] == ["Hel", "lo."]
    assert [event.text for event in answers(first, ReasoningDelta)] == ["hm"]
    assert first[-2:] == [Usage(input_tokens=10, output_tokens=5), Completed("end_turn")]
    await there_are(2, bench.mark)  # the supervisor and the program, which may have begun others for a moment
    processes = with_environment(bench.mark)
    second = await collect(provider, turn("Say hello", "Hello.", "Once more", session=session_of(first)))
    assert text_of(second) == "Again."
    assert session_of(second) == session_of(first)
    await there_are(2, bench.mark)
    assert with_environment(bench.mark) == processes
    assert "began earlier" not in bench.sent()


async def test_a_session_is_resumed_by_a_new_process_and_a_lost_one_is_told_the_conversation(bench: Bench) -> None:
    bench.api.script = answer(text("Noted."))
    async with ClaudeCodeProvider(**bench.options()) as provider:
        first = await collect(provider, turn("My colour is blue"))
    assert with_environment(bench.mark) == set()
    async with ClaudeCodeProvider(**bench.options()) as provider:
        second = await collect(provider, turn("My colour is blue", "Noted.", "And?", session=session_of(first)))
        assert session_of(second) == session_of(first)
        assert "My colour is blue" in bench.sent()
        assert "began earlier" not in bench.sent()
        lost = {"session_id": str(uuid.uuid4())}
        third = await collect(provider, turn("My colour is red", "Noted.", "And?", thread="t3", session=lost))
    assert text_of(third) == "Noted."
    assert session_of(third)["session_id"] != lost["session_id"]
    assert "My colour is red" in bench.sent()


async def test_a_command_runs_only_when_a_person_allows_it(bench: Bench, provider: ClaudeCodeProvider) -> None:
    decisions = {"approved": Decision("approved"), "declined": Decision("declined")}
    decisions["expired"] = Decision("declined", expired=True)
    session = None
    for name, decision in decisions.items():
        bench.api.queue.append(tool("Bash", call_id=f"toolu_{name}", command=f"touch {name}", description="Make"))
        bench.api.queue.append(answer(text("Done.")))
        person = Approver(decision)
        events = await collect(provider, turn("x", "y", f"Make {name}", session=session, approve=person))
        session = session_of(events)
        assert (bench.work / name).exists() == (name == "approved")
        request = person.asked[0]
        assert (request.kind, request.call_id) == ("command", f"toolu_{name}")
        assert (request.detail["command"], request.detail["cwd"]) == (f"touch {name}", str(bench.work))
        assert [option.id for option in request.options] == ["approved", "approved_for_session", "declined"]
        assert [call.title for call in answers(events, ToolCall)] == [f"touch {name}"]
        status = "completed" if name == "approved" else "failed"
        assert [result.status for result in answers(events, ToolResult)] == [status]
        assert text_of(events) == "Done."


async def test_for_this_session_is_asked_once_and_kept_in_no_file(bench: Bench, provider: ClaudeCodeProvider) -> None:
    person = Approver("approved_for_session")
    for number in range(2):
        bench.api.queue.append(tool("Bash", call_id=f"toolu_{number}", command="touch it", description="Make"))
    bench.api.queue.append(answer(text("Done.")))
    events = await collect(provider, turn("Make it twice", approve=person))
    assert [result.status for result in answers(events, ToolResult)] == ["completed", "completed"]
    assert len(person.asked) == 1
    assert not list(bench.work.glob(".claude/*"))


async def test_a_file_change_shows_its_diff(bench: Bench, provider: ClaudeCodeProvider) -> None:
    path = str(bench.work / "new.txt")
    bench.api.queue.append(tool("Write", file_path=path, content="hello"))
    bench.api.queue.append(answer(text("Done.")))
    person = Approver("approved")
    await collect(provider, turn("Write it", approve=person))
    assert person.asked[0].kind == "file_change"
    assert person.asked[0].detail["diffs"] == [{"path": path, "old": None, "new": "hello"}]
    assert (bench.work / "new.txt").read_text() == "hello"


async def test_a_question_of_the_agent_is_answered_by_choice_or_in_words(
    bench: Bench, provider: ClaudeCodeProvider
) -> None:
    options = [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}]
    question = {"question": "Which colour?", "header": "Colour", "options": options, "multiSelect": False}
    for number in range(2):
        bench.api.queue.append(tool("AskUserQuestion", call_id=f"toolu_{number}", questions=[question]))
    bench.api.queue.append(answer(text("Good.")))
    person = Approver(Decision("answer_2"), Decision("answer_1", text="Green, rather"))
    await collect(provider, turn("Ask me", approve=person))
    assert person.asked[0].kind == "question"
    assert person.asked[0].free_text
    assert [option.label for option in person.asked[0].options] == ["Red", "Blue", "Do not answer"]
    assert "Blue" in json.dumps(bench.api.calls[1].body["messages"][-1])
    assert "Green, rather" in json.dumps(bench.api.calls[2].body["messages"][-1])


async def test_nothing_is_approved_when_nobody_is_there_to_ask(bench: Bench, provider: ClaudeCodeProvider) -> None:
    bench.api.queue.append(tool("Bash", command="touch it", description="Make"))
    bench.api.queue.append(answer(text("A pity.")))
    events = await collect(provider, turn("Make it"))
    assert not (bench.work / "it").exists()
    assert answers(events, ToolResult)[0].status == "failed"


@pytest.mark.parametrize("sources", [[], ["user"]])
async def test_a_settings_file_allows_only_when_the_operator_lets_it_count(bench: Bench, sources: list[str]) -> None:
    (bench.home / ".claude").mkdir()
    (bench.home / ".claude/settings.json").write_text('{"permissions":{"allow":["Bash(touch:*)"]}}')
    bench.api.queue.append(tool("Bash", command="touch it", description="Make"))
    bench.api.queue.append(answer(text("Well.")))
    async with ClaudeCodeProvider(**bench.options(setting_sources=sources)) as provider:
        await collect(provider, turn("Make it"))
    assert (bench.work / "it").exists() == bool(sources)


@pytest.mark.parametrize("kept", ["", "A whole block. "])
async def test_of_a_stream_that_breaks_only_whole_blocks_stay(
    bench: Bench, provider: ClaudeCodeProvider, kept: str
) -> None:
    before = text(kept) if kept else []
    bench.api.queue.append([*start(), *before, *text("Wrong st")[:-1], Pause(0.3), Cut(reset=True)])
    bench.api.queue.append(answer(text("Right.")))
    events = await collect(provider, turn("Hi"))
    assert answers(events, TextReset) == [TextReset("m1.1" if kept else "m1.0")]
    assert text_of(events) == (f"{kept}\n\nRight." if kept else "Right.")
    assert events[-1] == Completed("end_turn")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "authentication"),
        (400, "invalid_request"),
        (404, "not_found"),
        (429, "rate_limited"),
        (500, "upstream_error"),
    ],
)
async def test_an_error_of_the_model_server_is_an_error_and_not_an_answer(bench: Bench, status: int, code: str) -> None:
    bench.api.script = [Status(status, message="upstream's own words about sk-secret")]
    async with ClaudeCodeProvider(**bench.options(env={"CLAUDE_CODE_MAX_RETRIES": "0"})) as provider:
        error, events = await failure(provider, turn("Hi"))
    assert error.code == code
    assert text_of(events) == ""
    assert "secret" not in str(error)


async def test_a_model_server_that_cannot_be_reached_ends_the_turn(bench: Bench) -> None:
    async with ClaudeCodeProvider(
        **bench.options(base_url="http://127.0.0.1:9", env={"CLAUDE_CODE_MAX_RETRIES": "0"})
    ) as provider:
        error, events = await failure(provider, turn("Hi"))
    assert (error.code, error.retryable, error.refused) == ("connection_failed", True, False)
    assert text_of(events) == ""


async def test_a_cancelled_turn_stops_the_model_call_and_its_process_serves_the_next(
    bench: Bench, provider: ClaudeCodeProvider
) -> None:
    gate = Gate()
    bench.api.queue.append(answer(text("On and ", gate, "on")))
    bench.api.queue.append(answer(text("Again.")))
    session: dict[str, Any] = {}

    def noted(event: Event) -> bool:
        if isinstance(event, SessionUpdated):
            session.update(event.session)
        return is_text(event)

    await cancelled(await begin(provider, turn("Go on"), noted))
    async with asyncio.timeout(5):
        await bench.api.calls[0].closed.wait()
    await there_are(2, bench.mark)  # the supervisor and the program
    before = with_environment(bench.mark)
    events = await collect(provider, turn("Go on", "On and", "And?", session=session))
    assert text_of(events) == "Again."
    assert with_environment(bench.mark) == before


async def test_a_question_that_is_open_when_the_turn_is_cancelled_is_a_no_and_costs_no_further_call(
    bench: Bench, provider: ClaudeCodeProvider
) -> None:
    bench.api.queue.append(tool("Bash", command="touch it", description="Make"))
    person = Approver()
    task = await begin(provider, turn("Make it", approve=person), lambda event: isinstance(event, ToolCall))
    async with asyncio.timeout(10):
        await person.open.wait()
    await cancelled(task)
    assert not (bench.work / "it").exists()
    assert len(bench.api.calls) == 1


async def test_a_program_that_hangs_is_ended_when_its_turn_is_cancelled(bench: Bench) -> None:
    bench.api.script = [*start(), *text("On and ")[:-1], Stall()]
    async with ClaudeCodeProvider(**bench.options()) as provider:
        task = await begin(provider, turn("Go on"), is_text)
        signal_program(bench.mark, signal.SIGSTOP)
        await cancelled(task)
        assert with_environment(bench.mark) == set()


async def test_a_program_that_dies_fails_the_turn_and_the_next_one_resumes(
    bench: Bench, provider: ClaudeCodeProvider
) -> None:
    bench.api.queue.append(answer(text("Noted.")))
    bench.api.queue.append([*start(), *text("On and ")[:-1], Stall()])
    bench.api.queue.append(answer(text("Again.")))
    first = await collect(provider, turn("My colour is blue"))
    wanted = turn("My colour is blue", "Noted.", "Go on", session=session_of(first))
    task = await begin(provider, wanted, is_text)
    signal_program(bench.mark, signal.SIGKILL)
    with pytest.raises(ProviderError) as caught:
        await task
    assert (caught.value.code, caught.value.retryable) == ("disconnected", True)
    third = await collect(provider, turn("My colour is blue", "Noted.", "And?", session=session_of(first)))
    assert text_of(third) == "Again."
    assert "My colour is blue" in bench.sent()


async def test_no_more_processes_live_than_allowed_and_the_longest_idle_one_gives_way(bench: Bench) -> None:
    bench.api.script = answer(text("Noted."))
    async with ClaudeCodeProvider(**bench.options(processes=1)) as provider:
        one = await collect(provider, turn("My colour is blue", thread="one"))
        before = with_environment(bench.mark)
        await collect(provider, turn("Hi", thread="two"))
        assert not any(map(running, before))
        await there_are(2, bench.mark)
        await collect(provider, turn("My colour is blue", "Noted.", "And?", thread="one", session=session_of(one)))
        assert "My colour is blue" in bench.sent()


async def test_neither_key_nor_text_is_logged_or_printed_nor_our_settings_passed_on(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AGENTLINE_AUTH__TOKENS", "hush")
    bench.api.queue.append(answer(text("my diary")))
    servers = {"files": {"command": "/bin/false", "env": {"KEY": "sk-secret"}}}
    async with ClaudeCodeProvider(**bench.options(mcp_servers=servers)) as provider:
        await collect(provider, turn("dear diary"))
        for pid in with_environment(bench.mark):
            assert "sk-secret" not in held(pid, "cmdline")
        assert "AGENTLINE_" not in held(program(bench.mark), "environ")
    shown = capfd.readouterr()
    assert "diary" not in caplog.text + shown.out + shown.err
    assert "sk-secret" not in caplog.text + shown.out + shown.err


async def test_a_gateway_killed_in_the_middle_of_a_turn_leaves_no_process(bench: Bench) -> None:
    bench.api.script = [*start(), *text("up")[:-1], Stall()]
    program = textwrap.dedent(
        f"""
        import asyncio
        from providers.claude_code import ClaudeCodeProvider
        from tests.providers.asking import make_turn

        async def main():
            async with ClaudeCodeProvider(**{bench.options()!r}) as provider:
                async for event in provider.stream(make_turn("Hi", connect_seconds=20)):
                    if getattr(event, "text", "") == "up":
                        print("up", flush=True)

        asyncio.run(main())
        """
    )
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    async with asyncio.timeout(20):
        assert await owner.stdout.readline() == b"up\n"
    await there_are(3, bench.mark)  # the owner, the supervisor, the program
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    await gone(bench.mark)


async def test_leaving_the_provider_in_the_middle_of_nothing_leaves_nothing(bench: Bench) -> None:
    async with ClaudeCodeProvider(**bench.options()) as provider:
        await asyncio.gather(*(collect(provider, turn("Hi", thread=str(number))) for number in range(2)))
        await there_are(4, bench.mark)
        private = provider._private.name  # type: ignore[union-attr]  # entered
        assert os.stat(private).st_mode & 0o077 == 0
    assert with_environment(bench.mark) == set()
    assert not os.access(private, os.F_OK)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cwd": None}, "cwd"),
        ({"cwd": "/no/such/directory"}, "cwd"),
        ({"cwd": "/srv/{thread_id}"}, "user_id"),
        ({"binary": "no-such-claude"}, "no-such-claude"),
        ({"permission_mode": "bypassPermissions"}, "permission_mode"),
        ({"setting_sources": ["hush"]}, "setting_sources"),
        ({"processes": 0}, "processes"),
        ({"env": {"A": 1}}, "env"),
        ({"allowed_tools": "Bash"}, "allowed_tools"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        ClaudeCodeProvider(**{"cwd": str(tmp_path), **options})
    assert "hush" not in str(caught.value)


def test_without_its_extra_the_import_says_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "providers.claude_code")
    monkeypatch.setitem(sys.modules, "claude_agent_sdk", None)
    with pytest.raises(ImportError, match=r"agentline\[claude-code\]"):
        importlib.import_module("providers.claude_code")
