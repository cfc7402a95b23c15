"""The ACP provider against a strict scripted agent, a real process over real pipes."""

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
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from providers import (
    Completed,
    Decision,
    Event,
    ProviderError,
    ReasoningDelta,
    SessionUpdated,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from providers.acp import AcpProvider
from tests.fakes.acp_agent import check
from tests.providers.asking import Approver, answers, collect, make_turn, text_of
from tests.providers.processes import gone, running, there_are, with_environment

ROOT = Path(__file__).parents[2]
FAKE = [sys.executable, str(ROOT / "tests/fakes/acp_agent.py")]

EDIT = {
    "toolCallId": "c1",
    "title": "Edit a.txt",
    "kind": "edit",
    "rawInput": {"path": "a.txt"},
    "locations": [{"path": "/w/a.txt"}],
    "content": [{"type": "diff", "path": "/w/a.txt", "oldText": "a", "newText": "b"}],
}
OFFER = [
    {"optionId": "yes!", "name": "Allow", "kind": "allow_once"},
    {"optionId": "yes!!", "name": "Always", "kind": "allow_always"},
    {"optionId": "no!", "name": "Reject", "kind": "reject_once"},
]


class Bench:
    """Where the agents of one test live, and what they reported."""

    def __init__(self, path: Path) -> None:
        self.mark = f"MARK_{uuid.uuid4().hex}"
        self.report = path / "report"
        self.report.touch()
        self.home = path / "home"
        self.home.mkdir()
        self.work = path / "work"
        self.work.mkdir()

    def options(self, **more: Any) -> dict[str, Any]:
        env = {"FAKE_ACP_REPORT": str(self.report), "FAKE_ACP_HOME": str(self.home), self.mark: "1"}
        return {"command": FAKE, "cwd": str(self.work), **more, "env": env | more.get("env", {})}

    def reported(self, kind: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.report.read_text().splitlines())
        return [line for line in lines if line["kind"] == kind]

    def methods(self) -> list[str]:
        return [line["method"] for line in self.reported("request")]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await gone(made.mark)
    assert check([json.loads(line) for line in made.report.read_text().splitlines()]) == []


@pytest.fixture
async def provider(bench: Bench) -> AsyncIterator[AcpProvider]:
    async with AcpProvider(**bench.options()) as made:
        yield made


def script(*steps: Any) -> str:
    return json.dumps([step if isinstance(step, list) else [step] for step in steps])


def session_of(events: list[Event]) -> Any:
    return answers(events, SessionUpdated)[-1].session


def told(events: list[Event]) -> Any:
    return json.loads(text_of(events))


async def failure(provider: AcpProvider, *steps: Any, **turn: Any) -> tuple[ProviderError, list[Event]]:
    events: list[Event] = []
    with pytest.raises(ProviderError) as caught:
        await collect(provider, make_turn(script(*steps), **turn), events)
    return caught.value, events


async def test_text_and_thoughts_stream_and_the_turn_completes(provider: AcpProvider) -> None:
    usage = {"usage": {"totalTokens": 12, "inputTokens": 7, "outputTokens": 5, "thoughtTokens": 2}}
    steps = (["thought", "hm"], ["text", "Hel"], ["text", "lo"], ["stop", "end_turn", usage])
    events = await collect(provider, make_turn(script(*steps)))
    assert [event.text for event in answers(events, TextDelta)] == ["Hel", "lo"]
    assert [event.text for event in answers(events, ReasoningDelta)] == ["hm"]
    assert events[-2:] == [Usage(input_tokens=7, output_tokens=5, reasoning_tokens=2), Completed("end_turn")]
    assert set(session_of(events)) == {"session_id", "cwd"}


@pytest.mark.parametrize("reason", ["max_tokens", "refusal", "max_turn_requests"])
async def test_the_agents_stop_reason_is_the_turns(provider: AcpProvider, reason: str) -> None:
    events = await collect(provider, make_turn(script(["stop", reason])))
    assert events[-1] == Completed(reason)


async def test_a_thread_keeps_its_process_and_session_from_turn_to_turn(provider: AcpProvider) -> None:
    first = await collect(provider, make_turn(script("tell")))
    second = await collect(provider, make_turn(script("tell"), "a", script("tell"), session=session_of(first)))
    assert told(first)["pid"] == told(second)["pid"]
    assert (told(first)["turns"], told(second)["turns"]) == (1, 2)
    assert "began earlier" not in told(second)["prompt"]


async def test_threads_have_processes_of_their_own(provider: AcpProvider) -> None:
    turns = [make_turn(script("tell"), thread="a"), make_turn(script("tell"), thread="b")]
    turns.append(make_turn(script("tell"), thread="a", user="other"))
    results = await asyncio.gather(*(collect(provider, turn) for turn in turns))
    assert len({told(events)["pid"] for events in results}) == 3


@pytest.mark.parametrize("can", ["load", "resume"])
async def test_a_session_is_opened_again_in_a_new_process_and_its_replay_is_not_shown(bench: Bench, can: str) -> None:
    options = bench.options(env={"FAKE_ACP_CAN": can})
    async with AcpProvider(**options) as provider:
        first = await collect(provider, make_turn(script("tell")))
    async with AcpProvider(**options) as provider:
        second = await collect(provider, make_turn("x", "y", script("tell"), session=session_of(first)))
    assert told(second)["turns"] == 2
    assert session_of(second) == session_of(first)
    assert f"session/{can}" in bench.methods()


@pytest.mark.parametrize("gone_how", ["the agent cannot", "the session is gone"])
async def test_a_session_that_cannot_be_opened_again_is_replaced_by_one_that_knows_the_conversation(
    bench: Bench, gone_how: str
) -> None:
    can = "nothing" if gone_how == "the agent cannot" else "load"
    async with AcpProvider(**bench.options(env={"FAKE_ACP_CAN": can})) as provider:
        turn = make_turn("What is up?", "Not much.", script("tell"), session={"session_id": "lost"})
        events = await collect(provider, turn)
    prompt = told(events)["prompt"]
    assert prompt.index("What is up?") < prompt.index("Not much.") < prompt.index("tell")
    assert session_of(events)["session_id"] != "lost"


async def test_tool_calls_are_shown_once_with_their_arguments_and_results(provider: AcpProvider) -> None:
    begin = {"sessionUpdate": "tool_call", "toolCallId": "c1", "title": "bash", "kind": "execute", "status": "pending"}
    step = {"sessionUpdate": "tool_call_update", "toolCallId": "c1"}
    events = await collect(
        provider,
        make_turn(
            script(
                ["text", "before"],
                ["update", begin],
                ["update", step | {"status": "in_progress", "rawInput": {"command": "ls"}, "title": "ls"}],
                ["update", step | {"content": [{"type": "content", "content": {"type": "text", "text": "a.txt"}}]}],
                ["update", step | {"status": "completed"}],
                ["update", step | {"status": "completed"}],
                ["text", "after"],
            )
        ),
    )
    assert answers(events, ToolCall) == [ToolCall("c1", "execute", title="ls", arguments={"command": "ls"})]
    assert answers(events, ToolResult) == [ToolResult("c1", "completed", "a.txt")]
    assert text_of(events) == "before\n\nafter"


async def test_a_plan_is_shown_as_a_tool_of_that_name(provider: AcpProvider) -> None:
    entries = [
        {"content": "look", "priority": "high", "status": "completed"},
        {"content": "act", "priority": "low", "status": "pending"},
    ]
    events = await collect(provider, make_turn(script(["update", {"sessionUpdate": "plan", "entries": entries}])))
    assert answers(events, ToolCall)[0].title == "1 of 2 done"
    assert answers(events, ToolResult) == [ToolResult("plan-1", "completed", "[x] look\n[ ] act")]


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [
        (Decision("approved"), {"outcome": "selected", "optionId": "yes!"}),
        (Decision("approved_for_session"), {"outcome": "selected", "optionId": "yes!!"}),
        (Decision("declined"), {"outcome": "selected", "optionId": "no!"}),
        (Decision("declined", expired=True), {"outcome": "selected", "optionId": "no!"}),
        (Decision("something else"), {"outcome": "cancelled"}),
    ],
)
async def test_a_permission_is_what_a_person_decides(
    provider: AcpProvider, decision: Decision, outcome: dict[str, str]
) -> None:
    person = Approver(decision)
    events = await collect(
        provider, make_turn(script(["permission", {"toolCall": EDIT, "options": OFFER}]), approve=person)
    )
    assert told(events) == outcome
    request = person.asked[0]
    assert (request.kind, request.title, request.call_id) == ("file_change", "Edit a.txt", "c1")
    assert request.detail["diffs"] == [{"path": "/w/a.txt", "old": "a", "new": "b", "cut": False}]
    assert [option.id for option in request.options] == ["approved", "approved_for_session", "declined"]
    # The call that waits is on the screen before the question about it.
    assert answers(events, ToolCall)[0].call_id == "c1"


async def test_nothing_is_approved_when_nobody_is_there_to_ask(provider: AcpProvider) -> None:
    events = await collect(provider, make_turn(script(["permission", {"toolCall": EDIT, "options": OFFER}])))
    assert told(events) == {"outcome": "selected", "optionId": "no!"}


async def test_an_agent_that_offers_no_plain_no_can_still_be_told_no(provider: AcpProvider) -> None:
    person = Approver("declined")
    offer = [OFFER[0] | {"optionId": "1"}, OFFER[0] | {"optionId": "2", "name": "Allow otherwise"}]
    events = await collect(
        provider, make_turn(script(["permission", {"toolCall": EDIT, "options": offer}]), approve=person)
    )
    assert told(events) == {"outcome": "cancelled"}
    assert [option.id for option in person.asked[0].options] == ["approved", "approved_2", "declined"]


async def test_text_goes_on_streaming_while_a_permission_waits(provider: AcpProvider) -> None:
    # The agent asks without waiting itself, as agents with parallel tools do.
    request = {"jsonrpc": "2.0", "id": 77, "method": "session/request_permission"}
    person = Approver()
    shown = asyncio.Event()

    async def turn() -> None:
        steps = (["text", "a"], ["raw", "SID"], ["text", "still here"], "until_cancel")
        text = script(*steps)
        first = await collect(provider, make_turn(script(["text", "hi"])))
        session = session_of(first)
        params = {"sessionId": session["session_id"], "toolCall": EDIT, "options": OFFER}
        text = text.replace('"SID"', json.dumps(json.dumps(request | {"params": params})))
        async with aclosing(provider.stream(make_turn("x", "y", text, session=session, approve=person))) as stream:
            async for event in stream:
                if isinstance(event, TextDelta) and event.text == "still here":
                    shown.set()

    task = asyncio.create_task(turn())
    async with asyncio.timeout(10):
        await shown.wait()
        await person.open.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("method", ["fs/read_text_file", "fs/write_text_file", "terminal/create", "elicitation/create"])
async def test_what_was_not_offered_is_refused(provider: AcpProvider, method: str) -> None:
    events = await collect(provider, make_turn(script(["call", method, {"path": "/etc/passwd", "command": "ls"}])))
    assert told(events) == -32601


async def start(provider: AcpProvider, turn: Any, until: Callable[[Event], bool]) -> asyncio.Task[None]:
    """A task that iterates the turn; returns when an event satisfied `until`."""
    reached = asyncio.Event()

    async def iterate() -> None:
        async with aclosing(provider.stream(turn)) as stream:
            async for event in stream:
                if until(event):
                    reached.set()

    task = asyncio.create_task(iterate())
    async with asyncio.timeout(10):
        await reached.wait()
    return task


def is_text(event: Event) -> bool:
    return isinstance(event, TextDelta)


async def test_a_cancelled_turn_is_cancelled_at_the_agent_and_its_process_serves_the_next(
    provider: AcpProvider, bench: Bench
) -> None:
    first = await collect(provider, make_turn(script("tell")))
    turn = make_turn("x", "y", script(["text", "on"], "until_cancel"), session=session_of(first))
    task = await start(provider, turn, is_text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [line["method"] for line in bench.reported("notification")] == ["session/cancel"]
    third = await collect(provider, make_turn("x", "y", script("tell"), session=session_of(first)))
    assert told(third)["pid"] == told(first)["pid"]


async def test_an_agent_that_ignores_the_cancel_is_ended_with_all_it_started(
    provider: AcpProvider, bench: Bench
) -> None:
    steps = (["daemon", "1000"], ["text", "on"], "ignore_cancel")
    task = await start(provider, make_turn(script(*steps)), is_text)
    await there_are(3, bench.mark)  # the supervisor, the agent, its daemon
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert with_environment(bench.mark) == set()
    assert told(await collect(provider, make_turn(script("tell"))))["turns"] == 1


async def test_a_permission_that_is_open_when_the_turn_is_cancelled_is_answered_as_cancelled(
    provider: AcpProvider, bench: Bench
) -> None:
    person = Approver()
    steps = (["permission", {"toolCall": EDIT, "options": OFFER}],)
    task = await start(provider, make_turn(script(*steps), approve=person), lambda event: isinstance(event, ToolCall))
    await person.open.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The agent went on and ended its prompt: it was answered.
    assert told(await collect(provider, make_turn(script("tell"))))["pid"] in with_environment(bench.mark)
    assert len({line["pid"] for line in bench.reported("request")}) == 1


async def test_closing_the_generator_early_is_a_cancel_too(provider: AcpProvider, bench: Bench) -> None:
    async with asyncio.timeout(10), aclosing(provider.stream(make_turn(script(["text", "a"], "until_cancel")))) as it:
        async for event in it:
            if is_text(event):
                break
    assert [line["method"] for line in bench.reported("notification")] == ["session/cancel"]


async def test_an_agent_that_dies_fails_the_turn_and_the_next_one_gets_a_new_process(provider: AcpProvider) -> None:
    error, events = await failure(provider, ["text", "partial"], ["exit", 3])
    assert (error.code, error.retryable, error.refused) == ("disconnected", True, False)
    assert text_of(events) == "partial"
    again = await collect(provider, make_turn("x", "y", script("tell"), session=session_of(events)))
    assert told(again)["turns"] == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [(-32000, "authentication"), (-32002, "not_found"), (-32602, "invalid_request"), (-32603, "upstream_error")],
)
async def test_an_agents_error_is_named_in_our_own_words(provider: AcpProvider, code: int, kind: str) -> None:
    error, _ = await failure(provider, ["error", code])
    assert error.code == kind
    assert "secret" not in f"{error} {error.__cause__}"


async def test_junk_on_standard_output_does_no_harm_and_is_not_logged(
    provider: AcpProvider, caplog: pytest.LogCaptureFixture
) -> None:
    junk = [
        "hush",
        "[]",
        "3",
        '{"id":[1]}',
        '{"method":7}',
        '{"method":"session/update","params":{"sessionId":"hush"}}',
    ]
    junk.append('{"method":"session/request_permission","id":5,"params":{"hush":1}}')
    junk.append('{"method":"session/update","params":[]}')
    junk.append('{"method":"hush/hush","params":{"hush":"hush"}}')
    odd = [
        ["update", {"sessionUpdate": "agent_message_chunk", "content": "hush"}],
        ["update", {"sessionUpdate": "new"}],
    ]
    events = await collect(provider, make_turn(script(*(["raw", line] for line in junk), *odd, ["text", "ok"])))
    assert text_of(events) == "ok"
    assert "hush" not in caplog.text


async def test_a_line_without_end_ends_the_agent_and_not_our_memory(provider: AcpProvider) -> None:
    error, _ = await failure(provider, ["raw", "x" * 100], ["flood", 1, 40_000_000])
    assert error.code == "disconnected"


async def test_a_flooding_agent_waits_for_its_reader(provider: AcpProvider) -> None:
    turn = make_turn(script(["flood", 2000, 1000]))
    async with asyncio.timeout(20), aclosing(provider.stream(turn)) as stream:
        async for event in stream:
            if is_text(event):
                break
        inbox = next(iter(provider._pool._places.values())).resident._pipes.inbox  # type: ignore[union-attr]
        assert inbox is not None
        while len(inbox) < 256:  # noqa: ASYNC110 - it is full when the agent has written enough
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # it stays so, however long nobody reads
        assert len(inbox) == 256
        rest = [event async for event in stream]
    assert isinstance(rest[-1], Completed)
    assert len(answers(rest, TextDelta)) == 1999


async def test_no_more_processes_live_than_allowed_and_the_longest_idle_one_gives_way(bench: Bench) -> None:
    async with AcpProvider(**bench.options(processes=2)) as provider:
        one = await collect(provider, make_turn(script("tell"), thread="one"))
        two = await collect(provider, make_turn(script("tell"), thread="two"))
        await collect(provider, make_turn(script("tell"), thread="three"))
        assert not running(told(one)["pid"])
        assert running(told(two)["pid"])
        await there_are(4, bench.mark)
        back = await collect(provider, make_turn("x", "y", script("tell"), thread="one", session=session_of(one)))
        assert told(back)["turns"] == 2


async def test_a_turn_for_which_there_is_no_process_is_told_so(bench: Bench) -> None:
    async with AcpProvider(**bench.options(processes=1)) as provider:
        task = await start(provider, make_turn(script(["text", "on"], "until_cancel"), thread="one"), is_text)
        error, _ = await failure(provider, "tell", thread="two", connect_seconds=0.2)
        assert (error.code, error.refused, error.retryable) == ("overloaded", True, True)
        waiting = asyncio.create_task(collect(provider, make_turn(script("tell"), thread="two")))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert told(await waiting)["turns"] == 1


async def test_an_agent_that_says_nothing_ends_at_the_turns_deadline(bench: Bench) -> None:
    async with AcpProvider(**bench.options(env={"FAKE_ACP_MUTE": "1"})) as provider:
        error, _ = await failure(provider, "tell", connect_seconds=0.5)
        assert (error.code, error.refused) == ("timeout", True)
        assert with_environment(bench.mark) == set()


async def test_a_program_that_is_no_agent_is_said_to_be_none(bench: Bench) -> None:
    for command, code in ((["true"], "connection_failed"), (["sh", "-c", "echo hello; cat >/dev/null"], "timeout")):
        async with AcpProvider(**bench.options(command=command)) as provider:
            error, _ = await failure(provider, "tell", connect_seconds=1.0)
            assert error.code == code


async def test_another_version_of_the_protocol_is_refused(bench: Bench) -> None:
    async with AcpProvider(**bench.options(env={"FAKE_ACP_VERSION": "2"})) as provider:
        error, _ = await failure(provider, "tell")
        assert (error.code, error.retryable) == ("upstream_error", False)


async def test_an_agent_that_wants_a_login_says_so_and_gets_the_one_that_is_set(bench: Bench) -> None:
    async with AcpProvider(**bench.options(env={"FAKE_ACP_LOGIN": "1"})) as provider:
        error, _ = await failure(provider, "tell")
        assert error.code == "authentication"
    async with AcpProvider(**bench.options(env={"FAKE_ACP_LOGIN": "1"}, auth_method="fake-login")) as provider:
        assert told(await collect(provider, make_turn(script("tell"))))["turns"] == 1


async def test_mode_config_and_servers_reach_the_session(bench: Bench) -> None:
    servers = [
        {"name": "files", "command": "/bin/files", "env": {"A": "b"}},
        {"name": "web", "type": "http", "url": "https://mcp.example", "headers": {"X-Key": "hush"}},
    ]
    options = bench.options(mode="plan", config={"model": "small"}, mcp_servers=servers)
    async with AcpProvider(**options) as provider:
        await collect(provider, make_turn(script("tell")))
    asked = {line["method"]: line["params"] for line in bench.reported("request")}
    assert asked["session/set_mode"]["modeId"] == "plan"
    assert asked["session/set_config_option"]["value"] == "small"
    assert asked["session/new"]["mcpServers"][0]["env"] == [{"name": "A", "value": "b"}]
    assert asked["session/new"]["mcpServers"][1]["headers"] == [{"name": "X-Key", "value": "hush"}]
    assert asked["initialize"]["clientCapabilities"]["fs"] == {"readTextFile": False, "writeTextFile": False}


async def test_each_thread_works_in_its_own_directory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTLINE_AUTH__TOKENS", "hush")
    async with AcpProvider(**bench.options(cwd=f"{bench.work}/{{user_id}}/{{thread_id}}")) as provider:
        events = await collect(
            provider, make_turn(script(["tell", "AGENTLINE_AUTH__TOKENS"]), user="../eve", thread="t")
        )
    assert told(events)["cwd"] == str(bench.work / "..%2Feve" / "t")
    assert told(events)["env"] == {"AGENTLINE_AUTH__TOKENS": None}


async def test_standard_error_goes_to_the_log_file_and_nowhere_else(
    bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "agent.log"
    async with AcpProvider(**bench.options(log_path=str(log))) as provider:
        await collect(provider, make_turn(script(["stderr", "my diary"])))
    assert "my diary" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    assert "diary" not in capfd.readouterr().err


async def test_no_text_of_a_conversation_is_logged(provider: AcpProvider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await failure(provider, ["text", "hush hush"], ["error", -32603])
    assert "hush" not in caplog.text
    assert "secret" not in caplog.text


async def test_leaving_the_provider_leaves_no_process(bench: Bench) -> None:
    async with AcpProvider(**bench.options()) as provider:
        turns = (make_turn(script(["daemon", "1000"], "tell"), thread=str(number)) for number in range(4))
        await asyncio.gather(*(collect(provider, turn) for turn in turns))
        await there_are(12, bench.mark)
    assert with_environment(bench.mark) == set()


async def test_a_gateway_killed_in_the_middle_of_turns_leaves_no_process(bench: Bench) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio
        from providers.acp import AcpProvider
        from tests.providers.asking import make_turn

        async def turn(provider, number):
            steps = {script(["daemon", "1000"], ["text", "up"], "ignore_cancel")!r}
            async for event in provider.stream(make_turn(steps, thread=str(number))):
                if getattr(event, "text", "") == "up":
                    print("up", flush=True)

        async def main():
            async with AcpProvider(**{bench.options()!r}) as provider:
                await asyncio.gather(*(turn(provider, number) for number in range(3)))

        asyncio.run(main())
        """
    )
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=dict(os.environ)
    )
    assert owner.stdout is not None
    async with asyncio.timeout(20):
        for _ in range(3):
            assert await owner.stdout.readline() == b"up\n"
    await there_are(10, bench.mark)  # the owner's command line has the mark too
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    await gone(bench.mark)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"command": None}, "command"),
        ({"command": "opencode acp"}, "command"),
        ({"command": ["no-such-agent"]}, "no-such-agent"),
        ({"cwd": None}, "cwd"),
        ({"cwd": "/no/such/directory"}, "cwd"),
        ({"cwd": "/srv/{thread_id}"}, "user_id"),
        ({"processes": 0}, "processes"),
        ({"env": {"A": 1}}, "env"),
        ({"mcp_servers": [{"name": "hush"}]}, "mcp_servers"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        AcpProvider(**{"command": ["true"], "cwd": str(tmp_path), **options})
    assert "hush" not in str(caught.value)


def test_without_its_extra_the_import_says_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "providers.acp")
    monkeypatch.setitem(sys.modules, "acp", None)
    with pytest.raises(ImportError, match=r"agentline\[acp\]"):
        importlib.import_module("providers.acp")
