"""Codex, the gateway, or the model goes away: threads go on afterwards, and no process is left behind."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.e2e.codex_kit import WITHIN, ask, codex_agent, codex_processes, command, directory, escalated
from tests.e2e.conftest import NewClient, NewGateway
from tests.fakes.responses_api import STALL, Reply, ResponsesApi, Text
from tests.providers.codex_kit import processes, until
from tests.providers.processes import running
from tests.server import GatewayProcess

ESCAPES = "(setsid nohup sleep 617 >/dev/null 2>&1 &); sleep 617 & sleep 617"
"""A command that leaves its process group, its terminal and its parent."""
DURABLE_SECONDS = 0.7
"""What is durable is at most half a second old."""


def environment(home: Path, port: int, **more: Any) -> dict[str, Any]:
    bold = {"sandbox": "danger-full-access", "approval_policy": "never"}
    agents = {"codex": codex_agent(home, port), "bold": codex_agent(home, port, **bold)}
    return {"AGENTS": {"claude": None, "demo": None, **agents}, "TURN__CONNECT_SECONDS": "30", **more}


@pytest.fixture
async def gateway(new_gateway: NewGateway, home: Path, responses_port: int) -> GatewayProcess:
    """One of the test's own, because it does not live long."""
    made = new_gateway(**environment(home, responses_port, DRAIN_SECONDS="0"))
    await made.start_soon()
    return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "codex"


@pytest.fixture(autouse=True)
def made_home(home: Path) -> None:
    home.mkdir()


def sleepers(home: Path) -> int:
    return len(set(processes("sleep\000617")) & set(processes(str(home))))


def said(api: ResponsesApi) -> list[str]:
    return [text for text in api.calls[-1].texts("user") if not text.startswith("<")]


async def speaking(phone: Client, thread_id: str) -> str:
    accepted = await phone.message("Speak", thread_id=thread_id)
    await phone.receive(until="message", within=WITHIN)
    return str(accepted["turn_id"])


async def test_when_app_server_is_killed_its_turns_fail_at_once_and_their_threads_go_on(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    await ask(phone, "Remember", "t")
    responses_api.script(Reply(Text("Hel", STALL)))
    turn_id = await speaking(phone, "t")
    (pid,) = codex_processes(home)
    os.kill(pid, signal.SIGKILL)
    done = await phone.finish(turn_id)
    assert (done["status"], done["content"]) == ("failed", "Hel")
    assert (done["error"]["code"], done["error"]["retryable"]) == ("disconnected", True)
    answer = await gateway.post(f"/api/turns/{turn_id}/retry")
    done = await phone.finish(answer.json()["turn_id"], within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "ok")
    assert said(responses_api)[0] == "Remember"
    assert said(responses_api)[-1] == "Speak"
    (after,) = codex_processes(home)
    assert after != pid


@pytest.mark.parametrize("how", ["SIGTERM", "kill -9"])
async def test_a_thread_goes_on_after_the_gateway_was_restarted_and_no_process_outlives_it(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path, how: str
) -> None:
    phone, bold = new_client(gateway, agent="codex"), new_client(gateway, agent="bold")
    await asyncio.gather(phone.connect(), bold.connect())
    await ask(phone, "Remember", "t")
    responses_api.script(command(ESCAPES))
    busy = await bold.message("Run", thread_id="busy")
    await until(lambda: sleepers(home) == 3, WITHIN)
    responses_api.script(Reply(Text("Hel", STALL)))
    turn_id = await speaking(phone, "t")
    await asyncio.sleep(DURABLE_SECONDS)
    alive = set(processes(str(home))) - {gateway.pid}
    assert len(codex_processes(home)) == 2
    assert len(alive) >= 2 * 2 + 3
    if how == "SIGTERM":
        assert await gateway.stop() == 0
        assert processes(str(home)) == []
    else:
        await gateway.kill()
        await until(lambda: processes(str(home)) == [])
    assert not [pid for pid in alive if running(pid)]
    calls = len(responses_api.calls)

    await asyncio.gather(phone.closed(), bold.closed())
    await gateway.restart()
    attached = await phone.resume("t")
    if not attached["recovered"]:
        shown = (await phone.receive(until="snapshot"))[-1]["messages"]
        assert (shown[-1]["status"], shown[-1]["content"]) == ("interrupted", "Hel")
    for turn in (turn_id, busy["turn_id"]):
        stored = await gateway.get(f"/api/turns/{turn}")
        assert (stored["status"], stored["error"]["retryable"]) == ("interrupted", True)
    assert len(responses_api.calls) == calls  # no turn was begun again by itself
    assert codex_processes(home) == []
    answer = await gateway.post(f"/api/turns/{turn_id}/retry")
    done = await phone.finish(answer.json()["turn_id"], within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "ok")
    assert said(responses_api)[0] == "Remember"
    assert said(responses_api)[-1] == "Speak"


async def test_what_codex_had_asked_when_the_gateway_died_is_cancelled_and_nothing_ran(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    responses_api.script(escalated())
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    await phone.message("Go", thread_id="t")
    request = (await phone.receive(until="approval_request", within=WITHIN))[-1]
    await asyncio.sleep(DURABLE_SECONDS)
    await gateway.kill()
    await until(lambda: processes(str(home)) == [])
    await gateway.restart()
    answer = await gateway.post(f"/api/approvals/{request['approval_id']}", {"decision": "approved"})
    assert (answer.status_code, answer.json()["decision"]) == (200, "cancelled")
    await phone.closed()
    await phone.connect()
    await phone.attach("t")
    assert (await phone.receive(until="snapshot"))[-1]["approvals"] == []
    assert not (directory(home, "t") / "made").exists()


async def test_a_turn_that_ends_while_the_gateway_drains_completes(
    new_gateway: NewGateway, responses_api: ResponsesApi, new_client: NewClient, home: Path, responses_port: int
) -> None:
    gateway = new_gateway(**environment(home, responses_port, DRAIN_SECONDS="20"))
    await gateway.start_soon()
    gate = asyncio.Event()
    responses_api.script(Reply(Text("Hel", gate, "lo.")))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id = await speaking(phone, "t")
    gateway.terminate()
    await phone.receive(until="goodbye")
    await phone.send("message", content="One more", thread_id="t", id="late")
    assert (await phone.receive(until="error"))[-1]["code"] == "draining"
    gate.set()
    done = await phone.finish(turn_id, within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "Hello.")
    assert await gateway.exited() == 0
    assert processes(str(home)) == []


async def test_a_turn_that_does_not_end_while_the_gateway_drains_is_interrupted(
    new_gateway: NewGateway, responses_api: ResponsesApi, new_client: NewClient, home: Path, responses_port: int
) -> None:
    gateway = new_gateway(**environment(home, responses_port, DRAIN_SECONDS="0.5"))
    await gateway.start_soon()
    responses_api.script(Reply(Text("Hel", STALL)))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id = await speaking(phone, "t")
    gateway.terminate()
    done = await phone.finish(turn_id)
    assert (done["status"], done["content"], done["error"]["code"]) == ("interrupted", "Hel", "interrupted")
    assert await gateway.exited() == 0
    assert processes(str(home)) == []
    call = await responses_api.called(1)
    assert call.left
