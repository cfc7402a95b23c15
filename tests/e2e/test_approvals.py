"""A person decides, from whichever device, once."""

import asyncio
from typing import Any

import pytest

from tests.client import Client
from tests.e2e.conftest import NewClient
from tests.server import GatewayProcess


@pytest.fixture(scope="module")
def gateway_environment() -> dict[str, Any]:
    return {"DRAIN_SECONDS": 0}


async def two_devices(gateway: GatewayProcess, new_client: NewClient) -> tuple[Client, Client, dict[str, Any]]:
    """Two devices of Alice's that follow a turn which waits for her decision; the request."""
    phone, tablet = new_client(gateway, device_id="phone"), new_client(gateway, device_id="tablet")
    await asyncio.gather(phone.connect(), tablet.connect())
    accepted = await phone.message("/approval command")
    request = (await phone.receive(until="approval_request"))[-1]
    await tablet.attach(accepted["thread_id"], accepted["cursor"])
    await tablet.receive(until="approval_request")
    return phone, tablet, request


async def test_a_decision_of_one_device_goes_on_for_all(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone, tablet, request = await two_devices(gateway, new_client)
    assert {"approved", "declined"} <= {option["id"] for option in request["options"]}
    await tablet.send("approval", approval_id=request["approval_id"], decision="approved")
    for client in (phone, tablet):
        resolved = (await client.receive(until="approval_resolved"))[-1]
        assert (resolved["decision"], resolved["by"]) == ("approved", "tablet")
        assert (await client.finish(request["turn_id"]))["status"] == "completed"


async def test_the_first_of_two_answers_at_once_stands_and_both_are_told(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    for _ in range(10):
        phone, tablet, request = await two_devices(gateway, new_client)
        await asyncio.gather(
            phone.send("approval", approval_id=request["approval_id"], decision="approved"),
            tablet.send("approval", approval_id=request["approval_id"], decision="declined"),
        )
        decisions = set()
        for client in (phone, tablet):
            await client.finish(request["turn_id"])
            told = await client.quiet()
            assert not [f for f in client.frames if f["type"] == "error"], told
            decisions |= {f["decision"] for f in client.frames if f["type"] == "approval_resolved"}
        assert len(decisions) == 1
        late = [f for c in (phone, tablet) for f in c.frames if f["type"] == "approval_resolved" and "cursor" not in f]
        assert len(late) == 1
        await asyncio.gather(phone.close(), tablet.close())


async def test_a_late_decision_gets_the_one_that_stands_at_once_and_long_after(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone, _, request = await two_devices(gateway, new_client)
    await phone.send("approval", approval_id=request["approval_id"], decision="declined")
    await phone.send("approval", approval_id=request["approval_id"], decision="approved")
    await phone.finish(request["turn_id"])
    await phone.send("approval", approval_id=request["approval_id"], decision="approved")
    await phone.receive(until="approval_resolved")
    stood = [f["decision"] for f in phone.frames if f["type"] == "approval_resolved"]
    assert stood == ["declined"] * 3
    answer = await gateway.post(f"/api/approvals/{request['approval_id']}", {"decision": "approved"})
    assert (answer.status_code, answer.json()["decision"]) == (200, "declined")


async def test_an_option_that_was_not_offered_is_refused_and_the_approval_stays_open(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone, _, request = await two_devices(gateway, new_client)
    await phone.send("approval", approval_id=request["approval_id"], decision="perhaps")
    error = (await phone.receive(until="error"))[-1]
    assert (error["code"], error["field"]) == ("bad_frame", "decision")
    answer = await gateway.post(f"/api/approvals/{request['approval_id']}", {"decision": "expired"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "decision")
    await phone.send("approval", approval_id=request["approval_id"], decision="approved")
    assert (await phone.receive(until="approval_resolved"))[-1]["decision"] == "approved"
    await phone.finish(request["turn_id"])


async def test_a_notification_decides_by_http(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone, _, request = await two_devices(gateway, new_client)
    answer = await gateway.post(f"/api/approvals/{request['approval_id']}", {"decision": "approved"})
    assert answer.status_code == 200
    assert answer.json() == {
        "approval_id": request["approval_id"],
        "thread_id": request["thread_id"],
        "turn_id": request["turn_id"],
        "decision": "approved",
        "by": "alice",
    }
    assert (await phone.finish(request["turn_id"]))["status"] == "completed"


async def test_an_answer_in_ones_own_words_reaches_the_agent(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone = new_client(gateway)
    await phone.connect()
    await phone.message("/approval question")
    request = (await phone.receive(until="approval_request"))[-1]
    assert request["free_text"] is True
    option = request["options"][0]["id"]
    await phone.send("approval", approval_id=request["approval_id"], decision=option, text="the blue one")
    assert "the blue one" in (await phone.finish(request["turn_id"]))["content"]


async def test_a_snapshot_shows_what_is_open_and_can_be_decided_from_there(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    _, _, request = await two_devices(gateway, new_client)
    later = new_client(gateway)
    await later.connect()
    await later.attach(request["thread_id"])
    (shown,) = (await later.receive(until="snapshot"))[-1]["approvals"]
    for name in ("approval_id", "turn_id", "kind", "title", "detail", "options", "free_text", "expires_at"):
        assert shown[name] == request[name]
    await later.send("approval", approval_id=shown["approval_id"], decision="declined")
    assert (await later.finish(request["turn_id"]))["status"] == "completed"


async def test_a_cancelled_turn_cancels_what_it_asked(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone, tablet, request = await two_devices(gateway, new_client)
    await phone.send("cancel", turn_id=request["turn_id"])
    for client in (phone, tablet):
        resolved = (await client.receive(until="approval_resolved"))[-1]
        assert (resolved["decision"], resolved["by"]) == ("cancelled", None)
        assert (await client.finish(request["turn_id"]))["status"] == "cancelled"
    await phone.send("approval", approval_id=request["approval_id"], decision="approved")
    assert (await phone.receive(until="approval_resolved"))[-1]["decision"] == "cancelled"


@pytest.mark.parametrize("decision", ["approved", "declined"])
async def test_an_expired_approval_counts_as_declined_and_cannot_be_decided(
    new_gateway: Any, new_client: NewClient, decision: str
) -> None:
    gateway = new_gateway(APPROVAL__TIMEOUT_SECONDS="0.3", AGENTS={"codex": None, "claude": None, "demo": {"pace": 0}})
    await gateway.start_soon()
    phone = new_client(gateway)
    await phone.connect()
    await phone.message("/approval command")
    request = (await phone.receive(until="approval_request"))[-1]
    resolved = (await phone.receive(until="approval_resolved"))[-1]
    assert resolved["decision"] == "expired"
    assert (await phone.finish(request["turn_id"]))["status"] == "completed"
    await phone.send("approval", approval_id=request["approval_id"], decision=decision)
    assert (await phone.receive(until="approval_resolved"))[-1]["decision"] == "expired"


async def test_what_was_open_when_the_process_died_is_cancelled(new_gateway: Any, new_client: NewClient) -> None:
    gateway = new_gateway(AGENTS={"codex": None, "claude": None, "demo": {"pace": 0}})
    await gateway.start_soon()
    phone = new_client(gateway)
    await phone.connect()
    await phone.message("/approval command", thread_id="t")
    request = (await phone.receive(until="approval_request"))[-1]
    await asyncio.sleep(0.6)  # what is durable is at most half a second old
    await gateway.kill()
    await gateway.restart()
    later = new_client(gateway)
    await later.connect()
    await later.attach("t", phone.cursors["t"])
    snapshot = (await later.receive(until="snapshot"))[-1]
    assert snapshot["approvals"] == []
    answer = await gateway.post(f"/api/approvals/{request['approval_id']}", {"decision": "approved"})
    assert (answer.status_code, answer.json()["decision"]) == (200, "cancelled")
