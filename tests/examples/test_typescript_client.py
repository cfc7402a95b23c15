"""The TypeScript client in examples: type-checked, played through the scenarios, and run against a gateway."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.examples.cutting_proxy import Cut, CuttingProxy
from tests.examples.scenarios import EXAMPLES, FOLDER, scenarios
from tests.server import TOKENS, GatewayProcess

SOURCE = EXAMPLES / "typescript"
NODE_20 = "--experimental-websocket"
"""Node has `WebSocket` without it from version 22 on."""

Event = dict[str, Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with its packages installed, compiled."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    project = tmp_path_factory.mktemp("typescript") / "client"
    shutil.copytree(SOURCE, project, ignore=shutil.ignore_patterns("node_modules", "out"))
    install = ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefer-offline")
    run(*install, cwd=project)
    run("npx", "--no-install", "tsc", cwd=project)
    return project


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sabotaged(project: Path, folder: Path, file: str, text: str, instead: str) -> Path:
    """The compiled project with `text` replaced."""
    shutil.copytree(project / "out", folder / "out")
    shutil.copy(project / "package.json", folder)
    path = folder / "out" / "src" / file
    whole = path.read_text("utf-8")
    assert text in whole, "nothing is sabotaged"
    path.write_text(whole.replace(text, instead), "utf-8")
    return folder


def play(project: Path) -> str:
    return run("node", "out/test/scenarios.js", str(FOLDER), cwd=project)


def test_it_plays_every_scenario(project: Path) -> None:
    shared = scenarios()
    assert play(project).strip() == f"{len(shared)} scenarios, {sum(map(len, shared.values()))} steps"


SABOTAGES = [
    ("client.js", "...(cursor ? { cursor } : {})", ""),
    ("client.js", "frame.recovered && frame.cursor !== thread.cursor", "false"),
    ("client.js", "...this.transmit(again)", ""),
    ("client.js", "...this.decisionFrames()", ""),
    ("client.js", "thread.cursor !== null && !this.following.has(thread_id)", "false"),
    ("client.js", "turn.text + frame.content", "frame.content"),
    ("client.js", "for (const _ of text)\n        count++", "count = text.length"),
    ("client.js", "frame.cursor === undefined || ", ""),
    ("client.js", "if (frame.cursor !== undefined)", ""),
    ("client.js", "this.dropOutgoing((message) => message.id", "void ((message) => message.id"),
    ("client.js", "(turns.has(message.turn_id) || !waiting?.has(message.turn_id))", "false"),
    ("client.js", "this.online ? [] : this.catchUp()", "this.catchUp()"),
    ("client.js", "typing: false }]", "}]"),
    ("reconnect.js", "random * most", "most"),
    ("reconnect.js", "code >= 4500 && code <= 4999", "code === 4501"),
]


@pytest.mark.parametrize(("file", "text", "instead"), SABOTAGES, ids=lambda value: value[:40])
def test_the_scenarios_find_out_a_client_without(
    project: Path, tmp_path: Path, file: str, text: str, instead: str
) -> None:
    broken = sabotaged(project, tmp_path, file, text, instead)
    with pytest.raises(AssertionError, match="step"):
        play(broken)


# --- against a gateway ---


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    process = GatewayProcess(tmp_path / "gateway", {"AGENTS": {"codex": None, "claude": None, "demo": {"pace": 200}}})
    await process.start_soon()
    yield process
    process.stop_now()


def after(pieces: int) -> Cut:
    """Cut when so many pieces of text have come."""
    return lambda sent, received: received.count(b'"type":"message"') > pieces


def accepted_is_lost(sent: bytes, received: bytes) -> bool:
    return b'"type":"accepted"' in received


async def converse(
    project: Path,
    url: str,
    script: str,
    on_event: Callable[[Event], Awaitable[bool]] | None = None,
    within: float = 30,
    token: str = TOKENS["alice"],
) -> list[Event]:
    """Run the client until it has its answer. Returns what it said. When `on_event` says so, it is told that the
    network is back."""
    process = await asyncio.create_subprocess_exec(
        *("node", NODE_20, "out/test/live.js", url, token, script),
        cwd=project,
        env={"PATH": os.environ["PATH"], "NODE_NO_WARNINGS": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    events: list[Event] = []
    try:
        async with asyncio.timeout(within):
            while line := await process.stdout.readline():
                events.append(json.loads(line))
                if on_event is not None and await on_event(events[-1]):
                    process.stdin.write(b"wake\n")
            complaints = (await process.stderr.read()).decode()
            assert await process.wait() == 0, complaints
            assert not complaints
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return events


SCRIPT = "/reasoning\n/tool\n/pieces 60\n/reset\n/approval question\n/unicode\n/pieces 200"


async def test_it_gets_the_exact_answer_of_one_turn_over_connections_that_are_cut(
    project: Path, gateway: GatewayProcess
) -> None:
    cuts: list[Cut] = [accepted_is_lost, after(0), after(20), after(1), after(70), after(30)]
    async with CuttingProxy(lambda: gateway.url, iter(cuts)) as proxy:
        events = await converse(project, proxy.url, SCRIPT)
        assert proxy.made == len(cuts) + 1
    end = next(event for event in events if event["event"] == "end")
    assert [event["event"] for event in events].count("offline") >= len(cuts)
    (turn,) = end["turns"]
    assert (turn["status"], turn["user"], end["outbox"], end["decisions"]) == ("completed", SCRIPT, [], [])
    assert [tool["status"] for tool in turn["tools"]] == ["completed"]
    assert turn["reasoning"]
    whole = await gateway.get(f"/api/turns/{turn['turn_id']}")
    assert turn["text"] == whole["content"]
    assert turn["text"].endswith(" 200 ")
    history = await gateway.get("/api/threads/live/messages")
    assert [message["role"] for message in history["messages"]] == ["user", "assistant"], "sent several times, one turn"
    assert (await gateway.get("/api/threads/live"))["unread"] == 0, "it said that it was seen"


async def test_text_shown_by_a_gateway_that_was_killed_is_replaced_by_what_is_durable(
    project: Path, gateway: GatewayProcess
) -> None:
    killed = False

    async def kill_in_mid_answer(event: Event) -> bool:
        nonlocal killed
        if killed or event["event"] != "text" or event["length"] <= 100:
            return False
        killed = True
        await gateway.kill()
        await gateway.restart()
        return True

    async with CuttingProxy(lambda: gateway.url, iter(())) as proxy:
        events = await converse(project, proxy.url, "/pieces 2000 0.01", kill_in_mid_answer)
    end = next(event for event in events if event["event"] == "end")
    (turn,) = end["turns"]
    assert turn["status"] == "interrupted"
    assert turn["text"] == (await gateway.get(f"/api/turns/{turn['turn_id']}"))["content"]
    assert turn["user"] == "/pieces 2000 0.01"


async def test_it_stops_when_its_token_is_refused(project: Path, gateway: GatewayProcess) -> None:
    said = await converse(project, gateway.url, "Hi", token="another token")
    assert said == [{"event": "stop", "code": 4501}]
