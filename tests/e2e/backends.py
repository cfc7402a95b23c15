"""Agents of several kinds, driven in the same way: what the model says is scripted, all between is real.

claude_code   the program of the SDK's wheel; its model is the fake Messages API
openai        the OpenAI SDK; its model is the fake Responses API
opencode      a real agent of the Agent Client Protocol, if it is installed; its model as that of `openai`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytest

import tests.fakes.messages_api as messages_api
import tests.fakes.messages_script as messages
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_rules import Refusal
from tests.fakes.responses_api import Call, FunctionCall, Refuse, Reply, ResponsesApi, Text
from tests.fakes.responses_script import DROP, STALL, Fault
from tests.providers.processes import with_environment

Piece: TypeAlias = str | asyncio.Event | Fault
OPENCODE = os.environ.get("AGENTLINE_TEST_OPENCODE") or shutil.which("opencode")
RETRIES = "1"
"""How often Claude Code asks its model again."""


class Model(Protocol):
    """What one test makes the model answer. Without any script it says `ok`."""

    def say(self, *pieces: Piece) -> None:
        """The next answer is this text; events between are waited for."""

    def use(self, tool: str, **arguments: str) -> None:
        """The next answer is a call of a tool: `run` with `command`, or `write` with `path` and `content`."""

    def refuse(self, status: int | None) -> None:
        """All answers are this status; None ends that."""

    def heard(self) -> str:
        """The whole conversation, as the model was told last."""

    async def called(self, count: int = 1) -> asyncio.Event:
        """Wait for the so-manieth call; the event is set when the client has left it, or it is over."""

    @property
    def count(self) -> int:
        """Calls so far."""


class Responses:
    """The Responses API as a `Model`."""

    def __init__(self, api: ResponsesApi, tools: Mapping[str, str]) -> None:
        self._api = api
        self._tools = tools
        self._next: deque[Reply] = deque()
        self._status: int | None = None
        self.calls: list[Call] = []
        self._arrived = asyncio.Condition()
        api.answer = self._answer

    def _answer(self, call: Call) -> Reply | Refuse:
        if "Generate a title" in json.dumps(call.body["input"]):  # an affair of the agent's own
            return Reply(Text("A title"))
        self.calls.append(call)
        if self._status is not None:
            return Refuse(self._status)
        return self._next.popleft() if self._next else Reply(Text("ok"))

    def say(self, *pieces: Piece) -> None:
        self._next.append(Reply(Text(*pieces)))

    def use(self, tool: str, **arguments: str) -> None:
        if "path" in arguments:
            arguments["filePath"] = arguments.pop("path")
        self._next.append(Reply(FunctionCall(self._tools[tool], {**arguments, "description": "It is needed"})))

    def refuse(self, status: int | None) -> None:
        self._status = status

    def heard(self) -> str:
        return json.dumps(self.calls[-1].body["input"])

    async def called(self, count: int = 1) -> asyncio.Event:
        async with asyncio.timeout(30):
            while len(self.calls) < count:
                await self._api.called(len(self._api.calls) + 1)
        return self.calls[count - 1].ended

    @property
    def count(self) -> int:
        return len(self.calls)


class Messages:
    """The Messages API as a `Model`."""

    def __init__(self, api: MessagesApi) -> None:
        self._api = api
        self._numbers = 0
        self.refuse(None)

    def say(self, *pieces: Piece) -> None:
        steps: list[Any] = [*messages.start(), messages.BlockStart({"type": "text", "text": ""})]
        for piece in pieces:
            if isinstance(piece, str):
                steps.append(messages.BlockDelta({"type": "text_delta", "text": piece}))
            elif isinstance(piece, asyncio.Event):
                steps.append(messages.Gate(piece))
            else:
                steps.append(messages.Stall() if piece is STALL else messages.Cut(reset=True))
        self._api.queue.append([*steps, messages.BlockStop(), *messages.end()])

    def use(self, tool: str, **arguments: str) -> None:
        name = {"run": "Bash", "write": "Write"}[tool]
        if tool == "write":
            arguments["file_path"] = arguments.pop("path")
        else:
            arguments["description"] = "It is needed"
        self._numbers += 1
        block = {"type": "tool_use", "id": f"toolu_{time.monotonic_ns()}", "name": name, "input": {}}
        steps = [messages.BlockStart(block), *messages.tool_input(json.dumps(arguments)), messages.BlockStop()]
        self._api.queue.append(messages.answer(steps, stop_reason="tool_use"))

    def refuse(self, status: int | None) -> None:
        self._api.script = [messages.Status(status)] if status else messages.answer(messages.text("ok"))

    def heard(self) -> str:
        return json.dumps(self._api.calls[-1].body["messages"])

    async def called(self, count: int = 1) -> asyncio.Event:
        call = await self._api.called(count, deadline=30)
        return call.closed

    @property
    def count(self) -> int:
        return len(self._api.calls)


class Backend(Protocol):
    """One kind of agent, of which one test module serves one."""

    name: str
    program: bool
    """Whether it is a program with processes of its own, whose tools ask for permission."""
    many: int
    """How many turns at once are tried."""
    codes: Mapping[int, str]
    """How a refusal of the model is told, by status."""

    def agent(self, port: int, **more: Any) -> dict[str, Any]:
        """The agent's entry in the settings, with its model at `port`."""

    def model(self, port: int) -> contextlib.AbstractAsyncContextManager[Model]:
        """Its model."""


class ClaudeCode:
    name = "claude_code"
    program = True
    many = 3
    codes: Mapping[int, str] = {401: "authentication", 429: "rate_limited", 500: "upstream_error"}

    def __init__(self, home: Path, mark: str) -> None:
        self._home = home
        self._mark = mark

    def agent(self, port: int, **more: Any) -> dict[str, Any]:
        home = self._home / f"claude-{port}"
        home.mkdir(parents=True, exist_ok=True)
        env = {"HOME": str(home), "CLAUDE_CODE_MAX_RETRIES": RETRIES, self._mark: "1"}
        return {
            "provider": "claude_code",
            "cwd": str(self._home / "work" / "{user_id}" / "{thread_id}"),
            "api_key": "sk-secret",
            "base_url": f"http://127.0.0.1:{port}",
            "config_dir": str(home / ".claude"),
            "env": env,
            **more,
        }

    @contextlib.asynccontextmanager
    async def model(self, port: int) -> AsyncIterator[Model]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(messages_api, "validate", _accept_claude_code)
            async with MessagesApi(api_key="sk-secret", port=port) as api:
                yield Messages(api)


def _accept_claude_code(
    method: str, target: str, headers: Mapping[str, str], body: bytes, api_key: str | None
) -> dict[str, Any]:
    """Instead of the fake's rules, which are for our own client: Claude Code's requests are its own affair."""
    if method != "POST" or target.partition("?")[0] != "/v1/messages":
        raise Refusal(404, "Not found")
    if headers.get("x-api-key") != api_key:
        raise Refusal(401, "invalid x-api-key")
    data: dict[str, Any] = json.loads(body)
    return data


class OpenAI:
    name = "openai"
    program = False
    many = 50
    codes: Mapping[int, str] = {401: "authentication", 429: "rate_limited", 500: "upstream_error"}

    def __init__(self, home: Path, mark: str) -> None:
        pass

    def agent(self, port: int, **more: Any) -> dict[str, Any]:
        base_url = f"http://127.0.0.1:{port}/v1"
        return {"provider": "openai", "model": "test-model", "base_url": base_url, "api_key": "test-key", **more}

    @contextlib.asynccontextmanager
    async def model(self, port: int) -> AsyncIterator[Model]:
        async with ResponsesApi(port=port) as api:
            yield Responses(api, {})


class OpenCode:
    name = "opencode"
    program = True
    many = 3
    codes: Mapping[int, str] = {401: "upstream_error"}
    """What passes it asks for again by itself, with pauses."""

    def __init__(self, home: Path, mark: str) -> None:
        self._home = home
        self._mark = mark

    def agent(self, port: int, **more: Any) -> dict[str, Any]:
        home = self._home / f"opencode-{port}"
        model = {"name": "Test", "tool_call": True, "limit": {"context": 100_000, "output": 1000}}
        server = {"apiKey": "test-key", "baseURL": f"http://127.0.0.1:{port}/v1"}
        config = {
            "provider": {"openai": {"options": server, "models": {"test-model": model}}},
            "model": "openai/test-model",
            "small_model": "openai/test-model",
            "autoupdate": False,
            "share": "disabled",
            "permission": {"bash": "ask", "edit": "ask"},
        }
        env = {name: str(home / name) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
        env |= {"XDG_STATE_HOME": str(home / "state"), "HOME": str(home), self._mark: "1"}
        env |= {f"OPENCODE_DISABLE_{name}": "1" for name in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "SHARE")}
        env["OPENCODE_CONFIG_CONTENT"] = json.dumps(config)
        cwd = str(self._home / "work" / "{user_id}" / "{thread_id}")
        return {"provider": "acp", "command": [OPENCODE, "acp"], "cwd": cwd, "env": env, **more}

    @contextlib.asynccontextmanager
    async def model(self, port: int) -> AsyncIterator[Model]:
        async with ResponsesApi(port=port) as api:
            yield Responses(api, {"run": "bash", "write": "write"})
            api.violations.clear()  # what the agent sends is its own affair


BACKENDS: tuple[type[ClaudeCode] | type[OpenAI] | type[OpenCode], ...] = (ClaudeCode, OpenAI, OpenCode)


def installed(kind: type[Any]) -> Any:
    """The backend as a parameter of a test that is skipped where its program is missing."""
    missing = kind is OpenCode and OPENCODE is None
    return pytest.param(
        kind, id=kind.name, marks=[pytest.mark.skipif(missing, reason="the opencode program is not installed")]
    )


def children(mark: str, gateway: int) -> set[int]:
    """The processes that agents run in; the gateway's own environment holds the mark too."""
    return with_environment(mark) - {gateway}


__all__ = ["BACKENDS", "DROP", "STALL", "Backend", "Model", "children", "installed"]
