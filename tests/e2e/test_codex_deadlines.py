"""What Codex or a person would wait for for ever ends at a deadline of the gateway's."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.codex_kit import WITHIN, ask, codex_agent, directory, escalated
from tests.e2e.conftest import NewClient
from tests.fakes.responses_api import STALL, Reply, ResponsesApi, Text
from tests.server import GatewayProcess

IDLE = 2.0
APPROVAL = 1.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codex")


@pytest.fixture(scope="module")
def gateway_environment(home: Path, responses_port: int, dead_port: int) -> dict[str, Any]:
    limits = {"turn": {"idle_seconds": IDLE}}
    agents = {
        "codex": codex_agent(home / "live", responses_port) | limits,
        "dead": codex_agent(home / "dead", dead_port) | limits,
    }
    return {
        "AGENTS": {"claude": None, "demo": None, **agents},
        "TURN__CONNECT_SECONDS": "30",
        "APPROVAL__TIMEOUT_SECONDS": APPROVAL,
    }


async def test_a_model_that_cannot_be_reached_ends_the_turn_at_our_deadline(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    """Codex itself would try for ever."""
    phone = new_client(gateway, agent="dead")
    await phone.connect()
    began = time.monotonic()
    done = await ask(phone, "Hi", "dead")
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", "timeout", True)
    assert IDLE <= time.monotonic() - began < IDLE + 8


async def test_a_model_that_falls_silent_ends_the_turn_at_our_deadline_and_the_request_with_it(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    responses_api.script(Reply(Text("Hel", STALL)))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    done = await ask(phone, "Hi", "silent")
    assert (done["status"], done["content"], done["error"]["code"]) == ("failed", "Hel", "timeout")
    call = await responses_api.called(1)
    async with asyncio.timeout(5):
        await call.ended.wait()
    assert call.left
    assert (await ask(phone, "Again", "silent"))["content"] == "ok"


async def test_an_approval_that_nobody_answers_expires_as_a_no_and_the_agent_goes_on(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    responses_api.script(escalated(), Reply(Text("A pity.")))
    phone, tablet = new_client(gateway, agent="codex"), new_client(gateway, agent="codex")
    await asyncio.gather(phone.connect(), tablet.connect())
    accepted = await phone.message("Go", thread_id="expired")
    await tablet.attach("expired", accepted["cursor"])
    request = (await phone.receive(until="approval_request", within=WITHIN))[-1]
    for device in (phone, tablet):
        resolved = (await device.receive(until="approval_resolved"))[-1]
        assert (resolved["approval_id"], resolved["decision"], resolved["by"]) == (
            request["approval_id"],
            "expired",
            None,
        )
        done = await device.finish(accepted["turn_id"], within=WITHIN)
        assert (done["status"], done["content"]) == ("completed", "A pity.")
    assert not (directory(home / "live", "expired") / "made").exists()
    late = await gateway.post(f"/api/approvals/{request['approval_id']}", {"decision": "approved"})
    assert late.json()["decision"] == "expired"


async def test_the_idle_deadline_stands_still_while_a_person_is_asked(
    new_gateway: Any, responses_api: ResponsesApi, new_client: NewClient, home: Path, responses_port: int
) -> None:
    agent = codex_agent(home / "patient", responses_port) | {"turn": {"idle_seconds": 1.0}}
    gateway = new_gateway(AGENTS={"claude": None, "demo": None, "codex": agent}, TURN__CONNECT_SECONDS="30")
    await gateway.start_soon()
    responses_api.script(escalated(), Reply(Text("Done.")))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    accepted = await phone.message("Go", thread_id="patient")
    request = (await phone.receive(until="approval_request", within=WITHIN))[-1]
    await asyncio.sleep(2.0)  # twice as long as the backend may be silent
    await phone.send("approval", approval_id=request["approval_id"], decision="approved")
    done = await phone.finish(accepted["turn_id"], within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "Done.")
