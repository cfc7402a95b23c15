"""An agent of the Agent Client Protocol behind the gateway: a strict scripted program over real pipes."""

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.e2e.backends import children
from tests.e2e.codex_kit import WITHIN
from tests.e2e.conftest import NewClient, NewGateway
from tests.fakes.acp_agent import check
from tests.providers.codex_kit import until
from tests.providers.processes import gone, running
from tests.server import ROOT, GatewayProcess

APPROVAL = 2.0
TURNS = 3
EDIT = {
    "toolCallId": "c1",
    "title": "Edit a.txt",
    "kind": "edit",
    "rawInput": {"path": "a.txt"},
    "content": [{"type": "diff", "path": "/w/a.txt", "oldText": "a", "newText": "b"}],
}
OFFER = [
    {"optionId": "yes!", "name": "Allow", "kind": "allow_once"},
    {"optionId": "yes!!", "name": "Always", "kind": "allow_always"},
    {"optionId": "no!", "name": "Reject", "kind": "reject_once"},
]


@pytest.fixture
def mark() -> str:
    return f"MARK_{uuid.uuid4().hex}"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """What the agents were asked."""
    path = tmp_path / "report"
    path.touch()
    return path


@pytest.fixture
async def gateway(new_gateway: NewGateway, tmp_path: Path, report: Path, mark: str) -> GatewayProcess:
    (tmp_path / "sessions").mkdir()
    agent = {
        "provider": "acp",
        "command": [sys.executable, str(ROOT / "tests/fakes/acp_agent.py")],
        "cwd": str(tmp_path / "work" / "{user_id}" / "{thread_id}"),
        "env": {"FAKE_ACP_REPORT": str(report), "FAKE_ACP_HOME": str(tmp_path / "sessions"), mark: "1"},
    }
    agents = {"claude": None, "codex": None, "demo": None, "agent": agent}
    made = new_gateway(AGENTS=agents, TURN__CONNECT_SECONDS="20", APPROVAL__TIMEOUT_SECONDS=APPROVAL, DRAIN_SECONDS="0")
    await made.start_soon()
    return made


def script(*steps: Any) -> str:
    return json.dumps([step if isinstance(step, list) else [step] for step in steps])


def wrong(report: Path) -> list[str]:
    return check([json.loads(line) for line in report.read_text().splitlines()])


async def asked(phone: Client, thread_id: str) -> tuple[str, dict[str, Any]]:
    steps = script(["permission", {"toolCall": EDIT, "options": OFFER}])
    accepted = await phone.message(steps, thread_id=thread_id)
    return accepted["turn_id"], (await phone.receive(until="approval_request", within=WITHIN))[-1]


async def test_a_permission_is_what_a_person_decides_on_whichever_device(
    gateway: GatewayProcess, new_client: NewClient, report: Path
) -> None:
    phone = new_client(gateway, agent="agent", device_id="phone")
    await phone.connect()
    chosen = {"approved": "yes!", "approved_for_session": "yes!!", "declined": "no!", "expired": "no!"}
    for decision, option in chosen.items():
        turn_id, request = await asked(phone, decision)
        assert (request["kind"], request["title"]) == ("file_change", "Edit a.txt")
        assert [o["id"] for o in request["options"]] == ["approved", "approved_for_session", "declined"]
        if decision != "expired":
            await phone.send("approval", approval_id=request["approval_id"], decision=decision)
        resolved = (await phone.receive(until="approval_resolved"))[-1]
        assert resolved["decision"] == decision
        done = await phone.finish(turn_id, within=WITHIN)
        assert json.loads(done["content"]) == {"outcome": "selected", "optionId": option}

    turn_id, request = await asked(phone, "devices")
    await phone.abort()
    tablet = new_client(gateway, agent="agent", device_id="tablet")
    await tablet.connect()
    await tablet.attach("devices")
    (shown,) = (await tablet.receive(until="snapshot"))[-1]["approvals"]
    assert shown["approval_id"] == request["approval_id"]
    await phone.resume("devices")
    await tablet.send("approval", approval_id=shown["approval_id"], decision="approved")
    for device in (phone, tablet):
        resolved = (await device.receive(until="approval_resolved"))[-1]
        assert (resolved["decision"], resolved["by"]) == ("approved", "tablet")
        await device.finish(turn_id, within=WITHIN)
    assert wrong(report) == []


@pytest.mark.parametrize("how", ["SIGTERM", "kill -9", "cancel"])
async def test_programs_that_ignore_a_cancel_and_their_daemons_are_all_ended(
    gateway: GatewayProcess, new_client: NewClient, report: Path, mark: str, how: str
) -> None:
    phone = new_client(gateway, agent="agent")
    await phone.connect()
    turns = []
    for number in range(TURNS):
        steps = script(["daemon", "1000"], ["text", "up"], "ignore_cancel")
        turns.append((await phone.message(steps, thread_id=f"t{number}"))["turn_id"])
    for turn_id in turns:
        if not phone.texts.get(turn_id):
            await phone.receive(until=lambda f, t=turn_id: f["type"] == "message" and f["turn_id"] == t, within=WITHIN)
    # Of each: the supervisor, the agent, and what it left its group for. One that just starts has no name yet.
    await until(lambda: len(children(mark, gateway.pid)) == 3 * TURNS, within=10)
    alive = children(mark, gateway.pid)
    if how == "cancel":
        for turn_id in turns:
            await phone.send("cancel", turn_id=turn_id)
        for turn_id in turns:
            assert (await phone.finish(turn_id, within=WITHIN))["status"] == "cancelled"
        await until(lambda: not alive & children(mark, gateway.pid), within=15)
    elif how == "SIGTERM":
        assert await gateway.stop() == 0
        assert children(mark, 0) == set()
    else:
        await gateway.kill()
        await gone(mark)
    await until(lambda: not [pid for pid in alive if running(pid)], within=5)  # one that ends is not gone at once
    assert wrong(report) == []
    if how != "cancel":
        async with asyncio.timeout(10):
            await phone.closed()
