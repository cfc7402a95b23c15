"""What Codex asks a person, and that nothing but their yes is one. Against the real binary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from providers import APPROVED, DECLINED, ApprovalRequest, Decision, ProviderError, ToolResult, Turn, Usage
from providers.codex.approvals import no
from tests.fakes.responses_api import Call, FunctionCall, Reply, ResponsesApi, Text
from tests.providers.codex_kit import SECONDS, Person, Wait, codex, of, run, session, text, turn

PATCH = "*** Begin Patch\n*** Add File: hello.txt\n+hi there\n*** End Patch\n"


@pytest.fixture
async def api() -> AsyncIterator[ResponsesApi]:
    async with ResponsesApi() as server:
        yield server


def command(cmd: str = "touch made", *, call_id: str = "c1", **more: Any) -> Reply:
    return Reply(FunctionCall("exec_command", {"cmd": cmd, "login": False, **more}, call_id))


def escalated(cmd: str = "touch made", **more: Any) -> Reply:
    return command(cmd, sandbox_permissions="require_escalated", justification="It must be made.", **more)


async def test_an_accepted_command_runs_and_its_request_shows_exactly_what_where_and_why(
    api: ResponsesApi, tmp_path: Path
) -> None:
    api.script(escalated(), Reply(Text("ok")))
    person = Person()
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("go", approve=person))
    (request,) = person.asked
    assert (request.kind, request.title, request.call_id) == ("command", "Run touch made?", "c1")
    assert request.detail["command"].endswith("-c 'touch made'")
    assert request.detail["cwd"] == str(tmp_path / "work")
    assert request.detail["reason"] == "It must be made."
    assert {"approved", "declined"} <= {option.id for option in request.options}
    assert not request.free_text
    assert (tmp_path / "work" / "made").exists()
    assert of(ToolResult, events) == [ToolResult("c1", "completed", "")]


@pytest.mark.parametrize(
    "decision",
    [
        Decision("declined"),
        Decision("declined", expired=True),
        Decision("approved_for_session"),  # not offered for this command
        Decision("something else"),
    ],
)
async def test_whatever_is_not_an_offered_yes_declines_and_the_agent_goes_on(
    api: ResponsesApi, tmp_path: Path, decision: Decision
) -> None:
    api.script(escalated(), Reply(Text("A pity.")))
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("go", approve=Person(lambda request: decision)))
    assert not (tmp_path / "work" / "made").exists()
    assert of(ToolResult, events) == [ToolResult("c1", "failed", "Declined.")]
    assert "reject" in api.calls[1].output("c1").lower()
    assert text(events) == "A pity."


async def test_without_a_person_everything_is_declined(api: ResponsesApi, tmp_path: Path) -> None:
    api.script(escalated(), Reply(Text("ok")))
    async with codex(tmp_path, api) as provider:
        await run(provider, turn("go"))
    assert not (tmp_path / "work" / "made").exists()


async def test_always_allow_names_the_commands_it_covers_and_holds_in_the_next_turn(
    api: ResponsesApi, tmp_path: Path
) -> None:
    api.script(escalated(prefix_rule=["touch"]), Reply(Text("ok")), escalated("touch again"), Reply(Text("ok")))
    person = Person(lambda request: Decision("approved_always"))
    async with codex(tmp_path, api) as provider:
        first = await run(provider, turn("go", approve=person))
        await run(provider, turn("go on", approve=person, session=session(first)))
    (request,) = person.asked
    assert request.detail["always_allow"] == ["touch"]
    assert [option.label for option in request.options if option.id == "approved_always"] == ["Always allow: touch"]
    assert (tmp_path / "work" / "again").exists()


@pytest.mark.parametrize("option", ["approved", "approved_for_session", "declined"])
async def test_a_patch_is_applied_only_when_its_diff_was_accepted(
    api: ResponsesApi, tmp_path: Path, option: str
) -> None:
    api.script(command(f"apply_patch <<'EOF'\n{PATCH}EOF\n"), Reply(Text("ok")))
    person = Person(lambda request: Decision(option))
    async with codex(tmp_path, api) as provider:
        await run(provider, turn("go", approve=person))
    (request,) = person.asked
    target = tmp_path / "work" / "hello.txt"
    assert (request.kind, request.title, request.call_id) == ("file_change", "Change hello.txt?", "c1")
    assert request.detail["diff"] == f"--- /dev/null\n+++ {target}\n+hi there\n"
    assert [o.id for o in request.options] == ["approved", "approved_for_session", "declined"]
    assert target.exists() == (option != "declined")


async def test_cancelling_while_a_person_is_asked_ends_the_asking_and_runs_nothing(
    api: ResponsesApi, tmp_path: Path
) -> None:
    api.script(escalated())
    person = Wait()
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):

        async def reading(what: Turn) -> None:
            async with contextlib.aclosing(provider.stream(what)) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(reading(turn("go", approve=person)))
        await person.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert person.cancelled
    assert not (tmp_path / "work" / "made").exists()
    assert len(api.calls) == 1


async def test_when_asking_a_person_fails_the_turn_fails_and_nothing_runs(api: ResponsesApi, tmp_path: Path) -> None:
    async def broken(request: ApprovalRequest) -> Decision:
        raise ProviderError("provider_fault", "cannot ask")

    api.script(escalated())
    async with codex(tmp_path, api) as provider:
        with pytest.raises(ProviderError, match="cannot ask"):
            await run(provider, turn("go", approve=broken))
    assert not (tmp_path / "work" / "made").exists()


async def test_text_goes_on_while_a_person_is_asked_in_another_turn(api: ResponsesApi, tmp_path: Path) -> None:
    api.answer = lambda call: escalated() if call.last_user_text == "ask" else Reply(Text("meanwhile"))
    person = Wait()
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):
        asking = asyncio.create_task(run(provider, turn("ask", approve=person)))
        await person.asked.wait()
        other = await run(provider, turn("hello", thread_id="t2"))
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    assert text(other) == "meanwhile"


@pytest.mark.parametrize("waits", [True, False])
async def test_a_sub_agent_asks_the_same_person_and_ends_with_the_turn(
    api: ResponsesApi, tmp_path: Path, waits: bool
) -> None:
    """It works in a thread of its own, which nobody else follows."""
    stuck = asyncio.Event()

    def answer(call: Call) -> Reply:
        known = {str(item.get("call_id")) for item in call.input}
        if call.texts("user")[-1] == "the subtask" or "sub" in known:
            return escalated("touch made-below", call_id="sub") if "sub" not in known else Reply(Text("did it"))
        if "spawn" not in known:
            return Reply(FunctionCall("spawn_agent", {"message": "the subtask"}, "spawn", "multi_agent_v1"))
        if waits and "wait" not in known:
            target = json.loads(call.output("spawn"))["agent_id"]
            return Reply(FunctionCall("wait_agent", {"targets": [target]}, "wait", "multi_agent_v1"))
        return Reply(stuck, Text("all done"))

    asked = asyncio.Event()

    async def person(request: ApprovalRequest) -> Decision:
        asked.set()
        stuck.set()
        if not waits:
            await asyncio.Event().wait()
        return Decision(APPROVED.id if request.title == "Run touch made-below?" else DECLINED.id)

    api.answer = answer
    async with codex(tmp_path, api) as provider:
        events = await run(provider, turn("go", approve=person))
        client = await provider.server.client(1.0)
        assert (await client.request("thread/loaded/list", {}))["data"] == []
    assert asked.is_set()
    assert text(events) == "all done"
    assert (tmp_path / "work" / "made-below").exists() == waits
    if waits:
        assert of(Usage, events)[-1].output_tokens == 5 * 7  # three answers above, two below


QUESTIONS = {
    "questions": [
        {
            "id": "colour",
            "header": "Colour",
            "question": "Which colour?",
            "options": [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}],
        },
        {
            "id": "size",
            "header": "Size",
            "question": "Which size?",
            "options": [{"label": "Small", "description": "s"}, {"label": "Large", "description": "l"}],
        },
    ]
}


async def test_questions_are_asked_one_by_one_with_choices_and_free_text(api: ResponsesApi, tmp_path: Path) -> None:
    api.script(Reply(FunctionCall("request_user_input", QUESTIONS, "q")), Reply(Text("ok")))
    decisions = iter((Decision("choice_2"), Decision("approved", text="Medium")))
    person = Person(lambda request: next(decisions))
    flags = {"features.default_mode_request_user_input": True}
    async with codex(tmp_path, api, config=flags) as provider:
        await run(provider, turn("go", approve=person))
    first, second = person.asked
    assert (first.kind, first.title, first.free_text) == ("question", "Which colour?", True)
    assert [(o.id, o.label) for o in first.options] == [
        ("choice_1", "Red"),
        ("choice_2", "Blue"),
        ("approved", "Answer"),
        ("declined", "Skip"),
    ]
    assert first.detail["choices"] == {"Red": "warm", "Blue": "cold"}
    assert second.title == "Which size?"
    answers = json.loads(api.calls[1].output("q"))["answers"]
    assert answers == {"colour": {"answers": ["Blue"]}, "size": {"answers": ["Medium"]}}


@pytest.mark.parametrize(("option", "scope"), [("approved", "turn"), ("declined", None)])
async def test_permissions_are_granted_as_asked_or_not_at_all(
    api: ResponsesApi, tmp_path: Path, option: str, scope: str | None
) -> None:
    asked = {"reason": "to fetch", "permissions": {"network": {"enabled": True}}}
    api.script(Reply(FunctionCall("request_permissions", asked, "p")), Reply(Text("ok")))
    person = Person(lambda request: Decision(option))
    async with codex(tmp_path, api, config={"features.request_permissions_tool": True}) as provider:
        await run(provider, turn("go", approve=person))
    (request,) = person.asked
    assert request.kind == "tool"
    assert request.detail["permissions"] == {"network": {"enabled": True}}
    granted = json.loads(api.calls[1].output("p"))["permissions"]["network"]
    assert (granted is not None and granted.get("enabled") is True) == (scope is not None)


SERVER = """
import json, sys

def say(message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

FORM = {
    "type": "object",
    "required": ["who", "many"],
    "properties": {
        "who": {"type": "string", "enum": ["ada", "bob"]},
        "many": {"type": "integer"},
        "sure": {"type": "boolean"},
    },
}
pending = None
for line in sys.stdin:
    message = json.loads(line)
    method, number = message.get("method"), message.get("id")
    if method == "initialize":
        say({"id": number, "result": {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "desk", "version": "1"},
        }})
    elif method == "tools/list":
        tool = {"name": "greet", "description": "greets", "inputSchema": {"type": "object", "properties": {}}}
        say({"id": number, "result": {"tools": [tool]}})
    elif method == "tools/call":
        pending = number
        say({"id": 900, "method": "elicitation/create", "params": {
            "message": "Whom shall I greet?", "requestedSchema": FORM,
        }})
    elif method is None and number == 900:
        text = json.dumps(message["result"], sort_keys=True)
        say({"id": pending, "result": {"content": [{"type": "text", "text": text}]}})
    elif number is not None:
        say({"id": number, "error": {"code": -32601, "message": "no"}})
"""


async def test_a_form_of_an_mcp_server_is_asked_field_by_field(api: ResponsesApi, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(SERVER))
    answers = {"who": Decision("choice_1"), "many": Decision("approved", text="3"), "sure": Decision("declined")}

    def choose(request: ApprovalRequest) -> Decision:
        return answers[request.detail["field"]] if request.kind == "question" else Decision(APPROVED.id)

    api.script(Reply(FunctionCall("greet", {}, "m1", "mcp__desk")), Reply(Text("ok")))
    person = Person(choose)
    flags = {"mcp_servers.desk": {"command": sys.executable, "args": [str(script)], "required": True}}
    async with codex(tmp_path, api, config=flags) as provider:
        events = await run(provider, turn("go", approve=person))
    (allowed,) = [request for request in person.asked if request.kind == "tool"]
    assert "greet" in allowed.title
    assert allowed.detail["server"] == "desk"
    questions = [request for request in person.asked if request.kind == "question"]
    assert [request.detail["field"] for request in questions] == ["many", "sure", "who"]  # Codex sorts them
    assert [o.label for o in questions[2].options] == ["ada", "bob", "Skip"]
    (result,) = of(ToolResult, events)
    assert json.loads(result.summary) == {"action": "accept", "content": {"many": 3, "who": "ada"}}


@pytest.mark.parametrize(
    "method",
    [
        "item/commandExecution/requestApproval",
        "item/fileChange/requestApproval",
        "item/permissions/requestApproval",
        "item/tool/requestUserInput",
        "mcpServer/elicitation/request",
        "something/new",
    ],
)
def test_the_answer_of_nobody_grants_nothing(method: str) -> None:
    said = json.dumps(no(method))
    assert "accept" not in said
    assert not no(method).get("permissions")
