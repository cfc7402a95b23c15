"""One list of what must hold, for every kind of agent that stands behind the gateway."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client, Frame
from tests.e2e.backends import BACKENDS, DROP, STALL, Backend, Model, children, installed
from tests.e2e.codex_kit import WITHIN, ask
from tests.e2e.conftest import NewClient, reserved_port
from tests.providers.codex_kit import until
from tests.server import GatewayProcess

IDLE = 5.0
APPROVAL = 4.0


@pytest.fixture(scope="module")
def mark() -> str:
    return f"MARK_{uuid.uuid4().hex}"


@pytest.fixture(scope="module", params=[installed(kind) for kind in BACKENDS])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mark: str) -> Backend:
    made: Backend = request.param(tmp_path_factory.mktemp("agents"), mark)
    return made


@pytest.fixture(scope="module")
def model_port(backend: Backend) -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def gateway_environment(backend: Backend, model_port: int, dead_port: int) -> dict[str, Any]:
    dead = backend.agent(dead_port) | {"turn": {"idle_seconds": IDLE, "first_event_seconds": IDLE}}
    agents: dict[str, Any] = {"claude": None, "codex": None, "demo": None, "dead": dead}
    agents["agent"] = backend.agent(model_port)
    return {"AGENTS": agents, "TURN__CONNECT_SECONDS": "30", "APPROVAL__TIMEOUT_SECONDS": APPROVAL}


@pytest.fixture
async def model(backend: Backend, model_port: int) -> AsyncIterator[Model]:
    async with backend.model(model_port) as made:
        yield made


@pytest.fixture
async def phone(gateway: GatewayProcess, new_client: NewClient) -> Client:
    made = new_client(gateway, agent="agent", device_id="phone")
    await made.connect()
    return made


@pytest.fixture
def thread() -> str:
    """One of the test's own."""
    return uuid.uuid4().hex


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory, gateway_environment: dict[str, Any], thread: str) -> Path:
    """Where the agent works in that thread."""
    return Path(gateway_environment["AGENTS"]["agent"]["cwd"].format(user_id="alice", thread_id=thread))


@pytest.fixture
def program(backend: Backend) -> None:
    if not backend.program:
        pytest.skip("it runs nothing, and has no process")


async def asked(phone: Client, thread: str) -> tuple[str, Frame]:
    accepted = await phone.message("Go", thread_id=thread)
    return accepted["turn_id"], (await phone.receive(until="approval_request", within=WITHIN))[-1]


async def test_text_reaches_the_phone_while_the_model_still_speaks(model: Model, phone: Client, thread: str) -> None:
    gate = asyncio.Event()
    model.say("Hel", gate, "lo.")
    accepted = await phone.message("Say hello", thread_id=thread)
    assert (await phone.receive(until="message", within=WITHIN))[-1]["content"] == "Hel"
    gate.set()
    done = await phone.finish(accepted["turn_id"], within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "Hello.")
    assert done["usage"]["output_tokens"] > 0
    model.say("Again.")
    assert (await ask(phone, "Once more", thread))["content"] == "Again."
    assert "Say hello" in model.heard()


@pytest.mark.parametrize("decision", ["approved", "declined", "expired"])
@pytest.mark.usefixtures("program")
async def test_a_command_runs_when_a_person_says_so_and_only_then(
    model: Model, phone: Client, thread: str, work: Path, decision: str
) -> None:
    model.use("run", command="touch made")
    model.say("So be it.")
    turn_id, request = await asked(phone, thread)
    assert (request["kind"], request["detail"]["command"]) == ("command", "touch made")
    assert {"approved", "declined"} <= {option["id"] for option in request["options"]}
    assert not (work / "made").exists()
    if decision != "expired":
        await phone.send("approval", approval_id=request["approval_id"], decision=decision)
    resolved = (await phone.receive(until="approval_resolved", within=APPROVAL + 5))[-1]
    assert resolved["decision"] == decision
    assert (await phone.finish(turn_id, within=WITHIN))["status"] == "completed"
    assert (work / "made").exists() == (decision == "approved")
    results = [f["status"] for f in phone.frames if f["type"] == "tool_result"]
    assert results == (["completed"] if decision == "approved" else ["failed"])


@pytest.mark.usefixtures("program")
async def test_a_second_device_decides_about_a_file_while_the_first_is_away(
    gateway: GatewayProcess, new_client: NewClient, model: Model, phone: Client, thread: str, work: Path
) -> None:
    model.use("write", path=str(work / "new.txt"), content="hello")
    model.say("Written.")
    turn_id, request = await asked(phone, thread)
    assert request["kind"] == "file_change"
    assert "hello" in str(request["detail"])
    await phone.abort()
    tablet = new_client(gateway, agent="agent", device_id="tablet")
    await tablet.connect()
    await tablet.attach(thread)
    (shown,) = (await tablet.receive(until="snapshot"))[-1]["approvals"]
    assert (shown["approval_id"], shown["detail"]) == (request["approval_id"], request["detail"])
    assert (await phone.resume(thread))["recovered"] is True
    answer = await gateway.post(f"/api/approvals/{shown['approval_id']}", {"decision": "approved"})
    assert (answer.status_code, answer.json()["decision"]) == (200, "approved")
    for device in (phone, tablet):
        assert (await device.receive(until="approval_resolved"))[-1]["decision"] == "approved"
        assert (await device.finish(turn_id, within=WITHIN))["status"] == "completed"
    assert (work / "new.txt").read_text().strip() == "hello"


async def test_cancel_ends_the_request_upstream_and_the_thread_goes_on(
    model: Model, phone: Client, thread: str
) -> None:
    model.say("Hel", STALL)
    accepted = await phone.message("Speak", thread_id=thread)
    await phone.receive(until="message", within=WITHIN)
    await phone.send("cancel", turn_id=accepted["turn_id"])
    done = await phone.finish(accepted["turn_id"])
    assert (done["status"], done["content"]) == ("cancelled", "Hel")
    left = await model.called(1)
    async with asyncio.timeout(5):
        await left.wait()
    done = await ask(phone, "And now?", thread)
    assert (done["status"], done["content"]) == ("completed", "ok")
    assert "Speak" in model.heard()


@pytest.mark.usefixtures("program")
async def test_a_cancelled_approval_is_a_no(model: Model, phone: Client, thread: str, work: Path) -> None:
    model.use("run", command="touch made")
    turn_id, request = await asked(phone, thread)
    await phone.send("cancel", turn_id=turn_id)
    resolved = (await phone.receive(until="approval_resolved"))[-1]
    assert (resolved["approval_id"], resolved["decision"]) == (request["approval_id"], "cancelled")
    assert (await phone.finish(turn_id))["status"] == "cancelled"
    assert not (work / "made").exists()


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_a_refusal_upstream_fails_the_turn_by_its_code_and_a_retry_succeeds(
    gateway: GatewayProcess, backend: Backend, model: Model, phone: Client, thread: str, status: int
) -> None:
    if status not in backend.codes:
        pytest.skip("it asks again by itself until it is answered")
    model.refuse(status)
    done = await ask(phone, "Hi", thread)
    assert (done["status"], done["error"]["code"]) == ("failed", backend.codes[status])
    assert "sk-secret" not in str(done)
    assert "refuses" not in done["content"]
    model.refuse(None)
    answer = await gateway.post(f"/api/turns/{done['turn_id']}/retry")
    done = await phone.finish(answer.json()["turn_id"], within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "ok")


async def test_an_answer_that_is_dropped_is_said_anew_or_fails_openly(
    backend: Backend, model: Model, phone: Client, thread: str
) -> None:
    shown = asyncio.Event()
    model.say("Wrong", shown, DROP)
    model.say("Right.")
    accepted = await phone.message("Hi", thread_id=thread)
    await phone.receive(until="message", within=WITHIN)
    shown.set()
    done = await phone.finish(accepted["turn_id"], within=WITHIN)
    if backend.program:  # it asks again by itself
        assert done["status"] == "completed"
        assert done["content"].endswith("Right.")
    else:  # a broken answer was paid for: only a person may have it said again
        assert (done["status"], done["content"]) == ("failed", "Wrong")
        assert (done["error"]["code"], done["error"]["retryable"]) == ("disconnected", True)
        assert model.count == 1


async def test_a_model_that_cannot_be_reached_ends_the_turn_within_our_deadlines(
    gateway: GatewayProcess, new_client: NewClient, thread: str
) -> None:
    phone = new_client(gateway, agent="dead")
    await phone.connect()
    began = time.monotonic()
    done = await ask(phone, "Hi", thread)
    assert done["status"] == "failed"
    assert done["error"]["code"] in ("timeout", "connection_failed")
    assert done["error"]["retryable"] is True
    assert time.monotonic() - began < 2 * IDLE + 10


async def test_turns_at_once_are_told_apart(
    gateway: GatewayProcess, new_client: NewClient, backend: Backend, model: Model
) -> None:
    together = asyncio.Event()
    for _ in range(backend.many):
        model.say("re ", together, "you")
    devices = [new_client(gateway, agent="agent", user=user) for user in ("alice", "bob")]
    await asyncio.gather(*(device.connect() for device in devices))
    turns = []
    for number in range(backend.many):
        device = devices[number % 2]
        accepted = await device.message(f"Hi {number}", thread_id=uuid.uuid4().hex)
        turns.append((device, accepted["turn_id"]))
    await model.called(backend.many)
    together.set()
    for device, turn_id in turns:
        done = await device.finish(turn_id, within=WITHIN)
        assert (done["status"], done["content"]) == ("completed", "re you")


@pytest.mark.usefixtures("program")
async def test_a_program_that_is_killed_fails_its_turn_and_the_thread_goes_on(
    gateway: GatewayProcess, model: Model, phone: Client, thread: str, mark: str
) -> None:
    before = children(mark, gateway.pid)
    await ask(phone, "Remember", thread)
    model.say("Hel", STALL)
    accepted = await phone.message("Speak", thread_id=thread)
    await phone.receive(until=lambda f: f["type"] == "message" and f["content"] == "Hel", within=WITHIN)
    own = children(mark, gateway.pid) - before
    for pid in own:
        if "supervisor" not in Path(f"/proc/{pid}/cmdline").read_text():  # noqa: ASYNC240 - a file of the kernel does not block
            os.kill(pid, signal.SIGKILL)
    done = await phone.finish(accepted["turn_id"], within=WITHIN)
    assert (done["status"], done["content"]) == ("failed", "Hel")
    assert (done["error"]["code"], done["error"]["retryable"]) == ("disconnected", True)
    await until(lambda: not own & children(mark, gateway.pid))
    assert (await ask(phone, "And now?", thread))["content"] == "ok"
    assert "Remember" in model.heard()
