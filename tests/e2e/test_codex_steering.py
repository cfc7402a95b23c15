"""`when_busy: steer`: a further message reaches the turn that runs, once, in its place."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.e2e.codex_kit import WITHIN, ask, codex_agent, escalated
from tests.e2e.conftest import NewClient, NewGateway
from tests.fakes.responses_api import STALL, Refuse, Reply, ResponsesApi, Text
from tests.server import GatewayProcess


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codex")


@pytest.fixture(scope="module")
def gateway_environment(home: Path, responses_port: int) -> dict[str, Any]:
    agents = {"codex": codex_agent(home, responses_port), "demo": {"pace": 0}}
    return {"AGENTS": {"claude": None, **agents}, "TURN__CONNECT_SECONDS": "30"}


async def speaking(phone: Client, content: str, thread_id: str) -> str:
    """A turn that has begun to speak; its id."""
    accepted = await phone.message(content, thread_id=thread_id)
    await phone.receive(until=lambda f: f["type"] == "message" and f["turn_id"] == accepted["turn_id"], within=WITHIN)
    return str(accepted["turn_id"])


def told(api: ResponsesApi, text: str) -> int:
    """How often the model was told it, in the last request."""
    return api.calls[-1].texts("user").count(text)


async def test_a_steering_message_reaches_the_running_turn_and_stands_in_its_place(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    gate = asyncio.Event()
    # Codex breaks the answer off that it steers, and asks the model again.
    responses_api.script(Reply(Text("First", gate, " thoughts.")), Reply(Text("With that", gate, " in mind.")))
    phone, tablet = new_client(gateway, agent="codex"), new_client(gateway, agent="codex")
    await asyncio.gather(phone.connect(), tablet.connect())
    turn_id = await speaking(phone, "Begin", "steered")

    steered = await tablet.message("Mind this", thread_id="steered", when_busy="steer", id="steer-1")
    assert (steered["turn_id"], steered["queued"], steered["duplicate"]) == (turn_id, 0, False)
    shown = (await phone.receive(until="user_message"))[-1]
    assert (shown["turn_id"], shown["message_id"], shown["content"], shown["id"]) == (
        turn_id,
        steered["message_id"],
        "Mind this",
        "steer-1",
    )
    again = await phone.message("Mind this", thread_id="steered", when_busy="steer", id="steer-1")
    assert (again["turn_id"], again["message_id"], again["duplicate"]) == (turn_id, steered["message_id"], True)
    await phone.send("message", content="Mind that", thread_id="steered", when_busy="steer", id="steer-1")
    assert (await phone.receive(until="error"))[-1]["code"] == "id_conflict"

    snapshot = new_client(gateway, agent="codex")
    await snapshot.connect()
    await snapshot.attach("steered")
    seen = (await snapshot.receive(until="snapshot"))[-1]
    assert [(m["role"], m["content"]) for m in seen["messages"]] == [("user", "Begin"), ("user", "Mind this")]
    assert seen["turn"]["turn_id"] == turn_id

    gate.set()
    for device in (phone, tablet):
        done = await device.finish(turn_id, within=WITHIN)
        assert done["status"] == "completed"
        assert done["content"].endswith("With that in mind.")
    assert told(responses_api, "Mind this") == 1
    history = (await gateway.get("/api/threads/steered/messages"))["messages"]
    assert [(m["role"], m["content"]) for m in history] == [
        ("user", "Begin"),
        ("user", "Mind this"),
        ("assistant", done["content"]),
    ]
    late = await phone.message("Mind this", thread_id="steered", when_busy="queue", id="steer-1")
    assert (late["turn_id"], late["duplicate"]) == (turn_id, True)
    assert len(responses_api.calls) == 2

    following = await ask(phone, "And then?", "steered")
    assert following["content"] == "ok"
    heard = [t for t in responses_api.calls[-1].texts("user") if t in ("Begin", "Mind this", "And then?")]
    assert heard == ["Begin", "Mind this", "And then?"]


async def test_a_steering_message_reaches_a_turn_that_waits_for_a_person(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    responses_api.script(escalated(), Reply(Text("As you wish.")), Reply(Text("As you wish.")))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    accepted = await phone.message("Begin", thread_id="waiting")
    request = (await phone.receive(until="approval_request", within=WITHIN))[-1]
    steered = await phone.message("Rather not", thread_id="waiting", when_busy="steer")
    assert steered["turn_id"] == accepted["turn_id"]
    await phone.send("approval", approval_id=request["approval_id"], decision="declined")
    assert (await phone.finish(accepted["turn_id"], within=WITHIN))["status"] == "completed"
    assert "Rather not" in responses_api.calls[-1].texts("user")


async def test_steering_a_thread_in_which_nothing_runs_starts_a_turn(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    done = await ask(phone, "Hi", "idle", when_busy="steer")
    again = await ask(phone, "Again", "idle", when_busy="steer")
    assert (done["content"], again["content"]) == ("ok", "ok")
    assert done["turn_id"] != again["turn_id"]


async def test_a_provider_that_cannot_be_steered_gets_the_message_as_the_next_turn(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway, agent="demo")
    await phone.connect()
    assert "steer" not in phone.ready["capabilities"]
    running = await phone.message("/echo begun\n/hang", thread_id="demo")
    await phone.receive(until="message")
    queued = await phone.message("Hi", thread_id="demo", when_busy="steer")
    assert queued["turn_id"] != running["turn_id"]
    assert queued["queued"] == 1
    await phone.send("cancel", turn_id=running["turn_id"])
    assert (await phone.finish(queued["turn_id"]))["status"] == "completed"


async def steer_at_the_end(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, times: int
) -> None:
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    for number in range(times):
        gate, thread_id = asyncio.Event(), f"race-{times}-{number}"
        responses_api.script(Reply(Text("Say", gate, "ing.")))
        turn_id = await speaking(phone, "Begin", thread_id)
        gate.set()
        await asyncio.sleep(number % 12 * 0.002)  # somewhere around the end of the turn
        accepted = await phone.message(f"Late {number}", thread_id=thread_id, when_busy="steer")
        done = await phone.finish(accepted["turn_id"], within=WITHIN)
        assert done["status"] == "completed"
        assert (await phone.finish(turn_id))["status"] == "completed"
        assert told(responses_api, f"Late {number}") == 1
        history = (await gateway.get(f"/api/threads/{thread_id}/messages"))["messages"]
        asked = [m["content"] for m in history if m["role"] == "user"]
        assert asked == ["Begin", f"Late {number}"]
        await phone.send("detach", thread_id=thread_id)
        await phone.receive(until="detached")


async def test_messages_that_steer_at_the_very_end_are_neither_lost_nor_doubled(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    """Sent while the turn ends: each is answered, in this turn or in one of its own."""
    await steer_at_the_end(gateway, responses_api, new_client, 24)


@pytest.mark.soak
async def test_of_many_messages_that_steer_at_the_very_end_none_is_lost_or_doubled(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    await steer_at_the_end(gateway, responses_api, new_client, 200)


async def test_a_turn_that_failed_is_tried_again_with_what_it_was_told_while_it_ran(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    gate = asyncio.Event()
    responses_api.script(Reply(Text("Say", gate)))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id = await speaking(phone, "Begin", "failed")
    steered = await phone.message("Mind this", thread_id="failed", when_busy="steer")
    assert steered["turn_id"] == turn_id
    ready, responses_api.answer = responses_api.answer, lambda call: Refuse(401, "invalid_api_key")
    gate.set()
    assert (await phone.finish(turn_id, within=WITHIN))["status"] == "failed"
    responses_api.answer = ready
    answer = await gateway.post(f"/api/turns/{turn_id}/retry")
    done = await phone.finish(answer.json()["turn_id"], within=WITHIN)
    assert done["status"] == "completed"
    assert "Mind this" in responses_api.calls[-1].texts("user")


async def test_a_steered_turn_can_be_cancelled(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    responses_api.answer = lambda call: Reply(Text("Say", STALL))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id = await speaking(phone, "Begin", "stopped")
    await phone.message("Mind this", thread_id="stopped", when_busy="steer")
    await phone.send("cancel", turn_id=turn_id)
    assert (await phone.finish(turn_id, within=WITHIN))["status"] == "cancelled"
    responses_api.answer = lambda call: Reply(Text("ok"))
    assert (await ask(phone, "Go on", "stopped"))["content"] == "ok"
    assert {"Begin", "Go on"} <= set(responses_api.calls[-1].texts("user"))


async def test_what_a_turn_was_told_before_the_gateway_died_is_told_again_by_its_retry(
    new_gateway: NewGateway, responses_api: ResponsesApi, new_client: NewClient, home: Path, responses_port: int
) -> None:
    agents = {"claude": None, "demo": None, "codex": codex_agent(home / "mortal", responses_port)}
    gateway = new_gateway(AGENTS=agents, TURN__CONNECT_SECONDS="30")
    await gateway.start_soon()
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    responses_api.answer = lambda call: Reply(Text("Say", STALL))
    turn_id = await speaking(phone, "Begin", "killed")
    await phone.message("Mind this", thread_id="killed", when_busy="steer")
    await gateway.kill()
    await phone.closed()
    await gateway.restart()
    responses_api.answer = lambda call: Reply(Text("ok"))
    await phone.connect()
    await phone.attach("killed")
    shown = (await phone.receive(until="snapshot"))[-1]["messages"]
    assert [(m["role"], m["content"]) for m in shown[:2]] == [("user", "Begin"), ("user", "Mind this")]
    answer = await gateway.post(f"/api/turns/{turn_id}/retry")
    done = await phone.finish(answer.json()["turn_id"], within=WITHIN)
    assert done["status"] == "completed"
    heard = "\n".join(responses_api.calls[-1].texts("user"))
    assert "Begin" in heard
    assert "Mind this" in heard


async def test_a_message_by_http_steers_too(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    gate = asyncio.Event()
    responses_api.script(Reply(Text("Say", gate)))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id = await speaking(phone, "Begin", "by-http")
    body = {"content": "Mind this", "thread_id": "by-http", "when_busy": "steer", "id": "by-http-1"}
    for duplicate in (False, True):
        answer = await gateway.post("/api/codex/messages", body)
        assert (answer.status_code, answer.json()["turn_id"], answer.json()["duplicate"]) == (202, turn_id, duplicate)
    gate.set()
    assert (await phone.finish(turn_id, within=WITHIN))["status"] == "completed"
    assert told(responses_api, "Mind this") == 1
