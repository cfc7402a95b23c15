"""The ACP provider with a real agent: OpenCode (npm package `opencode-ai`), its model a local Responses API.

Runs when `opencode` is on PATH or `AGENTLINE_TEST_OPENCODE` names the binary.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from providers import Completed, Decision, Event, ProviderError, SessionUpdated, TextDelta, ToolCall, ToolResult, Usage
from providers.acp import AcpProvider
from tests.fakes.responses_stream import Call, Hangup, ResponsesFake, Script, function_call, serving, text_answer
from tests.providers.asking import Approver, answers, collect, make_turn, text_of
from tests.providers.processes import gone, with_environment

BINARY = os.environ.get("AGENTLINE_TEST_OPENCODE") or shutil.which("opencode")
pytestmark = pytest.mark.skipif(BINARY is None, reason="the opencode program is not installed")


class Bench:
    """A home of its own for OpenCode, and the model server behind it."""

    def __init__(self, path: Path, fake: ResponsesFake) -> None:
        self.fake = fake
        self.mark = f"MARK_{uuid.uuid4().hex}"
        self.work = path / "work"
        self.work.mkdir()
        self._home = path / "home"
        self._answers: list[Script] = []
        fake.answer_always(self._answer)
        fake.checks_parameters = False

    def answer(self, *scripts: Script) -> None:
        """Answers to the agent's own requests; those for a title are answered aside."""
        self._answers.extend(scripts)

    def clear(self) -> None:
        """Forget answers that nobody asked for: a declined command may end the agent's turn."""
        self._answers.clear()

    async def _answer(self, call: Call) -> None:
        if "Generate a title" in json.dumps(call.body["input"]):
            await text_answer("A title")(call)
        else:
            await self._answers.pop(0)(call)

    def options(self) -> dict[str, Any]:
        model = {"name": "Test", "tool_call": True, "limit": {"context": 100_000, "output": 1000}}
        server = {"apiKey": "test-key", "baseURL": self.fake.base_url}
        config = {
            "provider": {"openai": {"options": server, "models": {"test-model": model}}},
            "model": "openai/test-model",
            "small_model": "openai/test-model",
            "autoupdate": False,
            "share": "disabled",
            "permission": {"bash": "ask", "edit": "ask"},
        }
        env = {name: str(self._home / name) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
        env |= {"XDG_STATE_HOME": str(self._home / "state"), "HOME": str(self._home), self.mark: "1"}
        env |= {f"OPENCODE_DISABLE_{name}": "1" for name in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "SHARE")}
        env["OPENCODE_CONFIG_CONTENT"] = json.dumps(config)
        return {"command": [BINARY, "acp"], "cwd": str(self.work), "env": env}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with serving() as fake:
        made = Bench(tmp_path, fake)
        yield made
        await gone(made.mark)


def turn(*contents: str, **more: Any) -> Any:
    return make_turn(*contents, connect_seconds=20.0, **more)


async def test_a_turn_streams_and_its_session_is_loaded_again_by_a_new_process(bench: Bench) -> None:
    bench.answer(text_answer("Hel", "lo."), text_answer("Again."))
    async with AcpProvider(**bench.options()) as provider:
        first = await collect(provider, turn("Say hello"))
    assert text_of(first) == "Hello."
    assert len(answers(first, TextDelta)) == 2
    assert answers(first, Usage)[-1].output_tokens > 0
    assert first[-1] == Completed("end_turn")
    assert with_environment(bench.mark) == set()
    session = answers(first, SessionUpdated)[-1].session
    async with AcpProvider(**bench.options()) as provider:
        second = await collect(provider, turn("Say hello", "Hello.", "And now?", session=session))
    assert text_of(second) == "Again."  # and nothing of the replay
    assert answers(second, SessionUpdated)[-1].session == session
    sent = json.dumps(bench.fake.calls[-1].body["input"])
    assert "Say hello" in sent
    assert "began earlier" not in sent


async def test_a_command_runs_only_when_a_person_allows_it(bench: Bench) -> None:
    decisions = {
        "approved": Decision("approved"),
        "declined": Decision("declined"),
        "expired": Decision("declined", expired=True),
    }
    async with AcpProvider(**bench.options()) as provider:
        for name, decision in decisions.items():
            command = function_call("bash", command=f"touch {name}", description="Make a file")
            bench.answer(command, text_answer("Done."))
            person = Approver(decision)
            events: list[Event] = []
            await collect(provider, turn("Make a file", thread=name, approve=person), events)
            assert (bench.work / name).exists() == (name == "approved")
            request = person.asked[0]
            assert request.kind == "command"
            assert request.detail["command"] == f"touch {name}"
            assert {"approved", "declined"} <= {option.id for option in request.options}
            assert answers(events, ToolCall)[0].call_id == request.call_id
            statuses = [result.status for result in answers(events, ToolResult)]
            assert statuses == (["completed"] if name == "approved" else ["failed"])
            bench.clear()


async def test_a_cancelled_turn_stops_the_model_call_and_the_process_serves_on(bench: Bench) -> None:
    async def endless(call: Call) -> None:
        await call.send("response.output_item.added", output_index=0, item=MESSAGE)
        await call.text("going on")
        await call.gone.wait()

    bench.answer(endless, text_answer("Again."))
    shown = asyncio.Event()
    session: dict[str, Any] = {}

    async def iterate() -> None:
        async with aclosing(provider.stream(turn("Go on"))) as stream:
            async for event in stream:
                if isinstance(event, SessionUpdated):
                    session.update(event.session)
                if isinstance(event, TextDelta):
                    shown.set()

    async with AcpProvider(**bench.options()) as provider:
        task = asyncio.create_task(iterate())
        async with asyncio.timeout(20):
            await shown.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            before = with_environment(bench.mark)
            events = await collect(provider, turn("Go on", "going on", "And?", session=session))
        assert text_of(events) == "Again."
        assert before & with_environment(bench.mark)


async def test_a_refused_key_fails_the_turn_in_our_words(bench: Bench) -> None:
    bench.answer(lambda call: call.status(401, {"error": {"message": "secret words", "code": "invalid_api_key"}}))
    async with AcpProvider(**bench.options()) as provider:
        with pytest.raises(ProviderError) as caught:
            await collect(provider, turn("Hi"))
    assert "secret" not in str(caught.value)


async def test_a_model_server_that_is_in_trouble_is_asked_again_by_the_agent(bench: Bench) -> None:
    async def drops(call: Call) -> None:
        await call.begin()
        raise Hangup

    bench.answer(lambda call: call.status(500, {"error": {"message": "x"}}), drops, text_answer("At last."))
    async with AcpProvider(**bench.options()) as provider:
        events = await collect(provider, turn("Hi"))
    assert text_of(events) == "At last."


MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
