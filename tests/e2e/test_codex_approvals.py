"""What the real Codex asks is put to people, and nothing but their yes lets it act."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client, Frame
from tests.e2e.codex_kit import WITHIN, codex_agent, directory, escalated, patch
from tests.e2e.conftest import NewClient
from tests.fakes.responses_api import FunctionCall, Reply, ResponsesApi, Text
from tests.server import GatewayProcess


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codex")


@pytest.fixture(scope="module")
def gateway_environment(home: Path, responses_port: int) -> dict[str, Any]:
    asks = {"features.default_mode_request_user_input": True}
    agents = {"codex": codex_agent(home, responses_port, config=asks)}
    return {"AGENTS": {"claude": None, "demo": None, **agents}, "TURN__CONNECT_SECONDS": "30"}


async def asked(phone: Client, thread_id: str) -> tuple[str, Frame]:
    """A turn in which Codex asks; its id and the request."""
    accepted = await phone.message("Go", thread_id=thread_id)
    return accepted["turn_id"], (await phone.receive(until="approval_request", within=WITHIN))[-1]


@pytest.mark.parametrize("decision", ["approved", "declined"])
async def test_a_command_runs_when_a_person_says_so_and_only_then(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path, decision: str
) -> None:
    thread_id = f"command-{decision}"
    responses_api.script(escalated(), Reply(Text("So be it.")))
    phone = new_client(gateway, agent="codex", device_id="phone")
    await phone.connect()
    turn_id, request = await asked(phone, thread_id)
    work = directory(home, thread_id)
    assert (request["kind"], request["title"], request["call_id"]) == ("command", "Run touch made?", "c1")
    assert request["detail"]["command"].endswith("-c 'touch made'")
    assert (request["detail"]["cwd"], request["detail"]["reason"]) == (str(work), "It must be made.")
    assert {"approved", "declined"} <= {option["id"] for option in request["options"]}
    assert not (work / "made").exists()
    await phone.send("approval", approval_id=request["approval_id"], decision=decision)
    resolved = (await phone.receive(until="approval_resolved"))[-1]
    assert (resolved["decision"], resolved["by"]) == (decision, "phone")
    done = await phone.finish(turn_id, within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "So be it.")
    assert (work / "made").exists() == (decision == "approved")
    (result,) = (f for f in phone.frames if f["type"] == "tool_result")
    assert result["status"] == ("completed" if decision == "approved" else "failed")


@pytest.mark.parametrize("decision", ["approved", "declined"])
async def test_a_file_is_changed_when_a_person_accepts_its_diff_and_only_then(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path, decision: str
) -> None:
    thread_id = f"patch-{decision}"
    responses_api.script(patch(), Reply(Text("So be it.")))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id, request = await asked(phone, thread_id)
    target = directory(home, thread_id) / "hello.txt"
    assert (request["kind"], request["title"]) == ("file_change", "Change hello.txt?")
    assert request["detail"]["diff"] == f"--- /dev/null\n+++ {target}\n+hi there\n"
    assert [option["id"] for option in request["options"]] == ["approved", "approved_for_session", "declined"]
    await phone.send("approval", approval_id=request["approval_id"], decision=decision)
    assert (await phone.finish(turn_id, within=WITHIN))["status"] == "completed"
    assert target.exists() == (decision == "approved")


async def test_a_second_device_decides_while_the_first_is_away_and_both_are_told(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    responses_api.script(escalated(), Reply(Text("Done.")))
    phone, tablet = new_client(gateway, agent="codex"), new_client(gateway, agent="codex", device_id="tablet")
    await asyncio.gather(phone.connect(), tablet.connect())
    turn_id, request = await asked(phone, "devices")
    await phone.abort()

    attached = await tablet.attach("devices")
    assert [turn["turn_id"] for turn in attached["turns"]] == [turn_id]
    (shown,) = (await tablet.receive(until="snapshot"))[-1]["approvals"]
    for name in ("approval_id", "turn_id", "kind", "title", "detail", "options", "free_text", "expires_at"):
        assert shown[name] == request[name]
    again = await phone.resume("devices")
    assert again["recovered"] is True

    await tablet.send("approval", approval_id=shown["approval_id"], decision="approved")
    for device in (phone, tablet):
        resolved = (await device.receive(until="approval_resolved"))[-1]
        assert (resolved["approval_id"], resolved["decision"], resolved["by"]) == (
            shown["approval_id"],
            "approved",
            "tablet",
        )
        assert (await device.finish(turn_id, within=WITHIN))["content"] == "Done."
    assert (directory(home, "devices") / "made").exists()
    later = new_client(gateway, agent="codex")
    await later.connect()
    await later.attach("devices")
    assert (await later.receive(until="snapshot"))[-1]["approvals"] == []


async def test_a_decision_by_http_counts_and_a_strangers_does_not(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    responses_api.script(escalated(), Reply(Text("Done.")))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id, request = await asked(phone, "by-http")
    path = f"/api/approvals/{request['approval_id']}"
    foreign = await gateway.post(path, {"decision": "approved"}, user="bob")
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "not_found")
    assert not (directory(home, "by-http") / "made").exists()
    answer = await gateway.post(path, {"decision": "approved"})
    assert (answer.status_code, answer.json()["decision"]) == (200, "approved")
    assert (await phone.finish(turn_id, within=WITHIN))["status"] == "completed"
    assert (directory(home, "by-http") / "made").exists()
    late = await gateway.post(path, {"decision": "declined"})
    assert (late.status_code, late.json()["decision"]) == (200, "approved")


async def test_a_cancelled_turn_resolves_what_it_asked_and_nothing_runs(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    responses_api.script(escalated())
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id, request = await asked(phone, "cancelled")
    await phone.send("cancel", turn_id=turn_id)
    resolved = (await phone.receive(until="approval_resolved"))[-1]
    assert (resolved["approval_id"], resolved["decision"]) == (request["approval_id"], "cancelled")
    assert (await phone.finish(turn_id))["status"] == "cancelled"
    answer = await gateway.post(f"/api/approvals/{request['approval_id']}", {"decision": "approved"})
    assert answer.json()["decision"] == "cancelled"
    assert not (directory(home, "cancelled") / "made").exists()
    assert len(responses_api.calls) == 1


async def test_further_options_are_offered_and_what_is_always_allowed_is_not_asked_again(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    made = [escalated(f"mkdir {n}", call_id=f"c{n}", prefix_rule=["mkdir"]) for n in (1, 2)]
    responses_api.script(patch(), *made, Reply(Text("Done.")))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id, request = await asked(phone, "always")
    await phone.send("approval", approval_id=request["approval_id"], decision="approved_for_session")
    request = (await phone.receive(until="approval_request", within=WITHIN))[-1]
    assert request["detail"]["always_allow"] == ["mkdir"]
    labels = {option["id"]: option["label"] for option in request["options"]}
    assert labels["approved_always"] == "Always allow: mkdir"
    assert "approved_for_session" not in labels
    await phone.send("approval", approval_id=request["approval_id"], decision="approved_for_session")
    assert (await phone.receive(until="error"))[-1]["field"] == "decision"
    await phone.send("approval", approval_id=request["approval_id"], decision="approved_always")
    assert (await phone.finish(turn_id, within=WITHIN))["content"] == "Done."
    assert len([f for f in phone.frames if f["type"] == "approval_request"]) == 2
    assert {path.name for path in directory(home, "always").iterdir()} == {"1", "2", "hello.txt"}


async def test_a_question_of_the_agent_is_answered_by_choice_and_in_words(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    options = [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}]
    question = {"header": "Colour", "id": "colour", "question": "Which colour?", "options": options}
    call = FunctionCall("request_user_input", {"questions": [question]}, "q1")
    responses_api.script(Reply(call), Reply(Text("Good.")), Reply(call), Reply(Text("Good.")))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    turn_id, request = await asked(phone, "question")
    assert (request["kind"], request["title"], request["free_text"]) == ("question", "Which colour?", True)
    labels = {option["id"]: option["label"] for option in request["options"]}
    assert (labels["choice_1"], labels["choice_2"]) == ("Red", "Blue")
    await phone.send("approval", approval_id=request["approval_id"], decision="choice_2")
    assert (await phone.finish(turn_id, within=WITHIN))["content"] == "Good."
    assert "Blue" in responses_api.calls[1].output("q1")

    turn_id, request = await asked(phone, "question")
    await phone.send("approval", approval_id=request["approval_id"], decision="approved", text="Green, rather")
    assert (await phone.finish(turn_id, within=WITHIN))["content"] == "Good."
    assert "Green, rather" in responses_api.calls[3].output("q1")
