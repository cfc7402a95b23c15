"""The programs behind agents, counted: none outlives its gateway or, where it is to live for a turn, its turn."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.backends import BACKENDS, STALL, Backend, children, installed
from tests.e2e.codex_kit import WITHIN, ask
from tests.e2e.conftest import NewClient, NewGateway, reserved_port
from tests.providers.codex_kit import until
from tests.providers.processes import gone, running, with_environment
from tests.server import GatewayProcess

DURABLE_SECONDS = 0.7
"""What is durable is at most half a second old."""


@pytest.fixture
def mark() -> str:
    return f"MARK_{uuid.uuid4().hex}"


@pytest.fixture(params=[installed(kind) for kind in BACKENDS if kind.program])
def backend(request: pytest.FixtureRequest, tmp_path: Path, mark: str) -> Backend:
    made: Backend = request.param(tmp_path / "agents", mark)
    return made


@pytest.fixture
def model_port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture
async def gateway(new_gateway: NewGateway, backend: Backend, model_port: int) -> GatewayProcess:
    agents: dict[str, Any] = {"claude": None, "codex": None, "demo": None}
    agents |= {"agent": backend.agent(model_port), "brief": backend.agent(model_port, idle_seconds=0)}
    made = new_gateway(AGENTS=agents, TURN__CONNECT_SECONDS="30", DRAIN_SECONDS="0")
    await made.start_soon()
    return made


@pytest.mark.parametrize("how", ["SIGTERM", "kill -9"])
async def test_no_program_outlives_the_gateway_and_its_threads_go_on_after_a_restart(
    gateway: GatewayProcess,
    new_client: NewClient,
    backend: Backend,
    model_port: int,
    mark: str,
    how: str,
) -> None:
    phone = new_client(gateway, agent="agent")
    await phone.connect()
    async with backend.model(model_port) as model:
        await ask(phone, "Remember", "idle")
        idle = children(mark, gateway.pid)
        assert len(idle) >= 2  # the supervisor and the program, kept for the next turn
        await ask(phone, "Remember", "busy")
        model.say("Hel", STALL)
        accepted = await phone.message("Speak", thread_id="busy")
        await phone.receive(until=lambda f: f["type"] == "message" and f["content"] == "Hel", within=WITHIN)
        await asyncio.sleep(DURABLE_SECONDS)
        alive = children(mark, gateway.pid)
        assert len(alive) >= 4
        assert idle < alive
        calls = model.count
        if how == "SIGTERM":
            assert await gateway.stop() == 0
            assert with_environment(mark) == set()
        else:
            await gateway.kill()
            await gone(mark)
        assert not [pid for pid in alive if running(pid)]
        await phone.closed()
        await gateway.restart()
        stored = await gateway.get(f"/api/turns/{accepted['turn_id']}")
        assert (stored["status"], stored["content"]) == ("interrupted", "Hel")
        assert model.count == calls  # no turn was begun again by itself
        await phone.connect()
        await phone.attach("busy")
        await phone.receive(until="snapshot")
        answer = await gateway.post(f"/api/turns/{accepted['turn_id']}/retry")
        done = await phone.finish(answer.json()["turn_id"], within=WITHIN)
        assert (done["status"], done["content"]) == ("completed", "ok")
        assert "Remember" in model.heard()


async def test_a_program_that_is_to_live_for_a_turn_is_gone_with_a_cancelled_one(
    gateway: GatewayProcess, new_client: NewClient, backend: Backend, model_port: int, mark: str
) -> None:
    phone = new_client(gateway, agent="brief")
    await phone.connect()
    async with backend.model(model_port) as model:
        model.say("Hel", STALL)
        accepted = await phone.message("Speak", thread_id="t")
        await phone.receive(until="message", within=WITHIN)
        alive = children(mark, gateway.pid)
        assert len(alive) >= 2
        await phone.send("cancel", turn_id=accepted["turn_id"])
        assert (await phone.finish(accepted["turn_id"]))["status"] == "cancelled"
        await until(lambda: children(mark, gateway.pid) == set())
        assert not [pid for pid in alive if running(pid)]
