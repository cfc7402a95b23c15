"""Every provider with a backend to ask: one function each, which yields what the conformance kit needs.

To join, a provider adds a function here and a line to `BACKENDS`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from providers import Provider, Turn
from providers.acp import AcpProvider
from providers.claude import ClaudeProvider
from providers.claude_code import ClaudeCodeProvider
from providers.codex import CodexProvider
from providers.demo import DemoProvider
from providers.openai import OpenAIProvider
from providers.testing import Limits, message
from tests.fakes import messages_api, messages_script, responses_api
from tests.fakes.elsewhere import elsewhere
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import answer, server_tool, text, thinking, web_search
from tests.fakes.responses_api import FunctionCall, Reasoning, Reply, ResponsesApi
from tests.fakes.responses_stream import ResponsesFake, serving, text_answer
from tests.providers import codex_kit, test_acp, test_claude_code

__all__ = ["BACKENDS", "Backend"]


@dataclass(frozen=True, slots=True)
class Backend:
    """What is asked of which provider."""

    provider: Callable[[], Provider]
    turn: Turn
    limits: Limits | None = None
    must_ask: bool = False
    """The turn asks for an approval: otherwise the rules about approvals would be kept without being looked at."""


@contextmanager
def demo(script: str, folder: Path) -> Iterator[Backend]:
    yield Backend(lambda: DemoProvider(pace=0), message(script), must_ask="/approval" in script)


@contextmanager
def claude(folder: Path) -> Iterator[Backend]:
    script = answer(
        thinking("Hm."), text("Hel", "lo"), server_tool("web_search", '{"query": "x"}'), web_search("T"), text("Bye")
    )
    with elsewhere(lambda: MessagesApi(script, api_key="sk-secret")) as api:
        yield Backend(lambda: ClaudeProvider(api_key="sk-secret", base_url=api.url), message("Hi"))
        assert not api.refusals


@contextmanager
def codex(folder: Path) -> Iterator[Backend]:
    """A command that needs approval, and, when that was declined, an answer."""
    command = {
        "cmd": "touch made",
        "login": False,
        "sandbox_permissions": "require_escalated",
        "justification": "It must be made.",
    }

    def reply(call: responses_api.Call) -> Reply:
        if any(str(item.get("type", "")).endswith("_output") for item in call.input):
            return Reply(responses_api.Text("Hel", "lo"))
        return Reply(Reasoning("Hm."), FunctionCall("exec_command", command, "c1"))

    @asynccontextmanager
    async def api() -> AsyncIterator[ResponsesApi]:
        async with ResponsesApi() as server:
            server.answer = reply
            yield server

    (folder / "work").mkdir(exist_ok=True)
    with elsewhere(api) as server:
        options = codex_kit.options(folder, server)
        yield Backend(
            lambda: CodexProvider(**options),
            message("Hi", connect_seconds=20.0),
            Limits(answer=30.0, stop=5.0),
            must_ask=True,
        )
    assert not (folder / "work" / "made").exists()


@contextmanager
def openai(folder: Path) -> Iterator[Backend]:
    @asynccontextmanager
    async def api() -> AsyncIterator[ResponsesFake]:
        async with serving() as fake:
            fake.answer_always(text_answer("Hel", "lo"))
            yield fake

    with elsewhere(api) as fake:
        yield Backend(lambda: OpenAIProvider(model="m", base_url=fake.base_url, api_key="test-key"), message("Hi"))


@contextmanager
def acp(folder: Path) -> Iterator[Backend]:
    """A program that thinks, speaks, asks and accepts a no."""
    options = test_acp.Bench(folder).options(idle_seconds=0)
    steps = (
        ["thought", "hm"],
        ["text", "Hel"],
        ["permission", {"toolCall": test_acp.EDIT, "options": test_acp.OFFER}],
        ["update", {"sessionUpdate": "tool_call_update", "toolCallId": "c1", "status": "failed"}],
        ["text", "lo"],
    )
    turn = message(test_acp.script(*steps), connect_seconds=20.0)
    yield Backend(lambda: AcpProvider(**options), turn, Limits(answer=30.0, stop=5.0), must_ask=True)


@contextmanager
def claude_code(folder: Path) -> Iterator[Backend]:
    """The real program: it wants to run a command, and answers when that was declined."""

    def reply(call: messages_api.Call) -> messages_script.Script:
        if "tool_result" in json.dumps(call.body["messages"][-1]):
            return answer(text("Hel", "lo"))
        return test_claude_code.tool("Bash", command="touch it", description="Make")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages_api, "validate", test_claude_code.accept_claude_code)
        with elsewhere(lambda: MessagesApi(reply, api_key="sk-secret")) as api:
            options = test_claude_code.Bench(folder, api).options(idle_seconds=0)
            yield Backend(
                lambda: ClaudeCodeProvider(**options),
                message("Hi", connect_seconds=20.0),
                Limits(answer=30.0, stop=5.0),
                must_ask=True,
            )


BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Backend]]] = {
    "demo-text": partial(demo, "Hello"),
    "demo-everything": partial(demo, "/reasoning; /tool; /tool failed; /session; /usage; /reset; /echo done"),
    "demo-approvals": partial(demo, "/approval command; /approval file_change; /approval tool; /approval question"),
    "demo-long": partial(demo, "/long 20000"),
    "claude": claude,
    "codex": codex,
    "openai": openai,
    "acp": acp,
    "claude_code": claude_code,
}
