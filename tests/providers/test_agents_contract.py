"""The contract's rules, for the providers that drive other agents and the Responses API."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import tests.fakes.messages_api as messages_api
from providers import Provider, Turn
from providers.acp import AcpProvider
from providers.claude_code import ClaudeCodeProvider
from providers.openai import OpenAIProvider
from providers.testing import RULES, message, require
from tests.fakes import messages_script
from tests.fakes.messages_api import MessagesApi
from tests.fakes.responses_stream import ResponsesFake, serving, text_answer
from tests.providers.test_acp import EDIT, OFFER, script
from tests.providers.test_acp import Bench as AcpBench
from tests.providers.test_claude_code import Bench as ClaudeCodeBench
from tests.providers.test_claude_code import accept_claude_code, tool


@contextmanager
def elsewhere(server: Callable[[], AbstractAsyncContextManager[Any]]) -> Iterator[Any]:
    """Run a fake in a thread with a loop of its own, so that its tasks are not taken for the provider's."""
    ready: list[Any] = []
    up = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        async with server() as made:
            ready.append(made)
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert up.wait(5)
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


@pytest.mark.parametrize("rule", RULES)
async def test_openai_keeps_the_contract(rule: str) -> None:
    @asynccontextmanager
    async def server() -> AsyncIterator[ResponsesFake]:
        async with serving() as fake:
            fake.answer_always(text_answer("Hel", "lo"))
            yield fake

    with elsewhere(server) as fake:
        await require(
            rule, lambda: OpenAIProvider(model="m", base_url=fake.base_url, api_key="test-key"), message("Hi")
        )


@pytest.mark.parametrize("rule", RULES)
async def test_acp_keeps_the_contract(rule: str, tmp_path: Path) -> None:
    options = AcpBench(tmp_path).options(idle_seconds=0)
    steps = (
        ["thought", "hm"],
        ["text", "Hel"],
        ["permission", {"toolCall": EDIT, "options": OFFER}],
        ["update", {"sessionUpdate": "tool_call_update", "toolCallId": "c1", "status": "failed"}],
        ["text", "lo"],
    )

    def factory() -> Provider:
        return AcpProvider(**options)

    await require(rule, factory, message(script(*steps)))


def claude_code_turn() -> Turn:
    return message("Hi", connect_seconds=20.0)


@pytest.mark.parametrize("rule", RULES)
async def test_claude_code_keeps_the_contract(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_api, "validate", accept_claude_code)

    def answer(call: messages_api.Call) -> messages_script.Script:
        if "tool_result" in json.dumps(call.body["messages"][-1]):
            return messages_script.answer(messages_script.text("Hel", "lo"))
        return tool("Bash", command="touch it", description="Make")

    with elsewhere(lambda: MessagesApi(answer, api_key="sk-secret")) as api:
        options = ClaudeCodeBench(tmp_path, api).options(idle_seconds=0)

        def factory() -> Provider:
            return ClaudeCodeProvider(**options)

        await require(rule, factory, claude_code_turn())
