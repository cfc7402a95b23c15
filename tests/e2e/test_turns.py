"""The turns of a thread, one at a time: queueing, cancelling, and asking a person in between."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.e2e.conftest import NewClient, agents_for
from tests.e2e.rules import hanging, kinds
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import answer, text
from tests.server import GatewayProcess

IDLE_SECONDS = 1.0


@pytest.fixture(scope="module")
def gateway_environment(upstream_port: int) -> dict[str, Any]:
    hasty = {"provider": "demo", "pace": 0, "turn": {"idle_seconds": IDLE_SECONDS}}
    return {"AGENTS": agents_for(upstream_port, hasty=hasty)}


# --- the queue ---


async def test_eight_messages_wait_behind_a_turn_the_ninth_is_refused_and_all_run_in_order(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    paced = Paced().say(["first"]).finish()
    messages_api.queue.append(paced.script)
    messages_api.script = lambda call: answer(text(f"answer to {call.question}"))
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    accepted = [await phone.message("0", thread_id="queue")]
    for number in range(1, 9):
        accepted.append(await phone.message(str(number), thread_id="queue"))
        assert accepted[-1]["queued"] == number
    await phone.send("message", content="9", thread_id="queue", id="ninth")
    error = (await phone.receive(until="error"))[-1]
    assert (error["code"], error["id"], error["retryable"]) == ("busy", "ninth", True)
    paced.open_all()
    await phone.finish(accepted[-1]["turn_id"])
    order = [f["turn_id"] for f in phone.frames if f["type"] == "done"]
    assert order == [frame["turn_id"] for frame in accepted]
    assert [phone.done[turn_id]["content"] for turn_id in order[1:]] == [f"answer to {n}" for n in range(1, 9)]
    runs = [(f["type"], f["turn_id"]) for f in phone.frames if f["type"] in ("user_message", "done")]
    assert runs == [(kind, turn_id) for turn_id in order for kind in ("user_message", "done")], "one at a time"
    history = [m["content"] for m in messages_api.calls[-1].body["messages"] if m["role"] == "user"]
    assert [h if isinstance(h, str) else h[0]["text"] for h in history] == [str(n) for n in range(9)]


async def test_when_busy_reject_is_refused_while_a_turn_runs_and_taken_when_none_does(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    running = await hanging(phone, "reject")
    await phone.send("message", content="/echo now", thread_id="reject", when_busy="reject", id="r1")
    error = (await phone.receive(until="error"))[-1]
    assert (error["code"], error["id"]) == ("busy", "r1")
    await phone.send("cancel", thread_id="reject")
    await phone.finish(running["turn_id"])
    accepted = await phone.message("/echo now", thread_id="reject", when_busy="reject", id="r1")
    assert (await phone.finish(accepted["turn_id"]))["content"] == "now"


async def test_cancelling_a_turn_keeps_its_text_and_starts_the_next(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    running = await hanging(phone, "cancel-one")
    waiting = await phone.message("/echo next", thread_id="cancel-one")
    await phone.send("cancel", turn_id=running["turn_id"])
    done = await phone.finish(running["turn_id"])
    assert (done["status"], done["content"]) == ("cancelled", "begun")
    assert (await phone.finish(waiting["turn_id"]))["content"] == "next"


async def test_cancelling_a_queued_turn_ends_it_and_leaves_the_others(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    running = await hanging(phone, "cancel-queued")
    dropped = await phone.message("/echo dropped", thread_id="cancel-queued")
    kept = await phone.message("/echo kept", thread_id="cancel-queued")
    await phone.send("cancel", turn_id=dropped["turn_id"])
    done = await phone.finish(dropped["turn_id"])
    assert (done["status"], done["content"]) == ("cancelled", "")
    assert running["turn_id"] not in phone.done
    await phone.send("cancel", turn_id=running["turn_id"])
    assert (await phone.finish(kept["turn_id"]))["content"] == "kept"
    await phone.send("cancel", turn_id=dropped["turn_id"])
    assert kinds(await phone.quiet()) == [], "a turn that has ended stays as it is"


async def test_cancelling_a_thread_ends_the_running_turn_and_every_queued_one(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone, tablet = new_client(gateway), new_client(gateway)
    await phone.connect()
    await tablet.connect()
    running = await hanging(phone, "cancel-all")
    await tablet.attach("cancel-all", running["cursor"])
    turns = [running] + [await phone.message(f"/echo {n}", thread_id="cancel-all") for n in range(3)]
    await phone.send("cancel", thread_id="cancel-all")
    for client in (phone, tablet):
        for turn in turns:
            assert (await client.finish(turn["turn_id"]))["status"] == "cancelled"
    listed = await gateway.get("/api/threads/cancel-all")
    assert listed["status"] == "idle"


# --- approvals ---


async def test_the_first_answer_to_an_approval_wins_and_a_later_one_gets_what_stands(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone, tablet = new_client(gateway, device_id="phone"), new_client(gateway, device_id="tablet")
    await phone.connect()
    await tablet.connect()
    accepted = await phone.message("/approval command", thread_id="approval")
    asked = (await phone.receive(until="approval_request"))[-1]
    await tablet.attach("approval")
    snapshot = await tablet.next()
    assert [a["approval_id"] for a in snapshot["approvals"]] == [asked["approval_id"]]
    await tablet.send("approval", approval_id=asked["approval_id"], decision="nonsense")
    assert (await tablet.receive(until="error"))[-1]["code"] == "bad_frame"
    await tablet.send("approval", approval_id=asked["approval_id"], decision="approved")
    for client in (phone, tablet):
        resolved = (await client.receive(until="approval_resolved"))[-1]
        assert (resolved["decision"], resolved["by"]) == ("approved", "tablet")
    await phone.send("approval", approval_id=asked["approval_id"], decision="declined")
    await phone.finish(accepted["turn_id"])
    standing = [f for f in [*phone.frames, *await phone.quiet()] if f["type"] == "approval_resolved"][-1]
    assert (standing["decision"], "cursor" in standing) == ("approved", False)
    assert "so I did it" in phone.texts[accepted["turn_id"]]


async def test_the_idle_deadline_stands_still_while_a_person_is_asked_and_goes_on_afterwards(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway, agent="hasty")
    await phone.connect()
    accepted = await phone.message("/approval question\n/hang")
    asked = (await phone.receive(until="approval_request"))[-1]
    await asyncio.sleep(2.5 * IDLE_SECONDS)  # the person thinks for longer than the agent may
    assert accepted["turn_id"] not in phone.done
    began = time.monotonic()
    await phone.send("approval", approval_id=asked["approval_id"], decision="blue")
    done = await phone.finish(accepted["turn_id"], within=IDLE_SECONDS + 4)
    assert (done["status"], done["error"]["code"]) == ("failed", "timeout")
    assert done["content"] == "You chose blue."
    assert time.monotonic() - began >= IDLE_SECONDS


async def test_cancelling_a_turn_resolves_its_approval_and_its_tool_call(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/tool open\n/approval command")
    await phone.receive(until="approval_request")
    await phone.send("cancel", turn_id=accepted["turn_id"])
    frames = await phone.receive(until="done")
    assert [f["decision"] for f in frames if f["type"] == "approval_resolved"] == ["cancelled"]
    assert [f["status"] for f in frames if f["type"] == "tool_result"] == ["failed", "failed"]
    assert frames[-1]["status"] == "cancelled"


async def test_accepted_comes_before_anything_of_its_turn_also_in_a_thread_that_is_followed(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    first = await phone.message("/echo one")
    await phone.finish(first["turn_id"])
    for number in range(20):
        behind = len(phone.frames)
        accepted = await phone.message(f"/echo {number}", thread_id=first["thread_id"])
        await phone.finish(accepted["turn_id"])
        of_turn = [frame["type"] for frame in phone.frames[behind:] if frame.get("turn_id") == accepted["turn_id"]]
        assert of_turn[:2] == ["accepted", "user_message"]
