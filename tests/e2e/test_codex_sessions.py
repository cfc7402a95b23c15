"""Work goes from the desk to the phone and back, through the gateway and the real `codex exec`."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.codex_kit import WITHIN, ask, codex_agent
from tests.e2e.conftest import NewClient
from tests.fakes.responses_api import Reply, ResponsesApi, Text
from tests.providers.codex_kit import terminal
from tests.server import GatewayProcess

SESSIONS = "/api/agents/codex/sessions"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codex")


@pytest.fixture(scope="module")
def gateway_environment(home: Path, responses_port: int) -> dict[str, Any]:
    (home / "project").mkdir()
    agents = {
        "codex": codex_agent(home, responses_port, session_users=["alice"]),
        "shared": codex_agent(home, responses_port, cwd=str(home / "project")),
        "demo": {"pace": 0},
    }
    return {"AGENTS": {"claude": None, **agents}, "TURN__CONNECT_SECONDS": "30"}


@pytest.fixture(autouse=True)
def repeating(responses_api: ResponsesApi) -> None:
    responses_api.answer = lambda call: Reply(Text(f"re {call.last_user_text}"))


async def listed(gateway: GatewayProcess, user: str = "alice", agent: str = "codex") -> dict[str, dict[str, Any]]:
    """The sessions that the user may adopt, by their titles."""
    answer = await gateway.get(f"/api/agents/{agent}/sessions", user)
    return {session["title"]: session for session in answer["sessions"]}


def said(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def heard(api: ResponsesApi) -> list[str]:
    """What people said, as the model was told last."""
    return [text for text in api.calls[-1].texts("user") if not text.startswith("<")]


async def test_a_session_from_the_desk_is_adopted_goes_on_from_the_phone_and_is_found_at_the_desk_again(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    await terminal(home, responses_api, "begun at the desk", cwd=home / "project")
    session = (await listed(gateway))["begun at the desk"]
    assert session["cwd"] == str(home / "project")
    assert session["created_at"] <= session["updated_at"]

    list_screen = new_client(gateway, agent="codex")
    await list_screen.connect()
    adopted = await gateway.post(f"{SESSIONS}/{session['id']}")
    assert adopted.status_code == 201
    thread = adopted.json()
    assert (thread["agent"], thread["title"], thread["status"], thread["unread"]) == (
        "codex",
        "begun at the desk",
        "idle",
        0,
    )
    updated = (await list_screen.receive(until="thread_updated"))[-1]
    assert updated["thread_id"] == thread["thread_id"]
    again = await gateway.post(f"{SESSIONS}/{session['id']}")
    assert (again.status_code, again.json()["thread_id"]) == (200, thread["thread_id"])

    history = [("user", "begun at the desk"), ("assistant", "re begun at the desk")]
    page = await gateway.get(f"/api/threads/{thread['thread_id']}/messages")
    assert said(page["messages"]) == history
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    await phone.attach(thread["thread_id"])
    snapshot = (await phone.receive(until="snapshot"))[-1]
    assert (said(snapshot["messages"]), snapshot["turn"]) == (history, None)

    done = await ask(phone, "on the phone", thread["thread_id"])
    assert (done["status"], done["content"]) == ("completed", "re on the phone")
    assert heard(responses_api)[-2:] == ["begun at the desk", "on the phone"]
    assert str(home / "project") in "".join(responses_api.calls[-1].texts("user"))

    assert "re back home" in await terminal(home, responses_api, "resume", session["id"], "back home")
    assert heard(responses_api)[-2:] == ["on the phone", "back home"]
    await ask(phone, "out again", thread["thread_id"])
    assert heard(responses_api)[-2:] == ["back home", "out again"]


async def test_a_thread_of_the_gateway_is_found_by_codex_resume(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    await ask(phone, "begun on the phone", "phones")
    session = (await listed(gateway))["begun on the phone"]
    assert "re at the desk" in await terminal(home, responses_api, "resume", session["id"], "at the desk")
    assert heard(responses_api)[-2:] == ["begun on the phone", "at the desk"]
    await ask(phone, "and back", "phones")
    assert heard(responses_api)[-2:] == ["at the desk", "and back"]


async def test_a_session_that_a_thread_has_already_is_that_thread(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    """Two threads on one session would each show half of what was said in it."""
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    await ask(phone, "a session of its own", "own")
    session = (await listed(gateway))["a session of its own"]
    adopted = await gateway.post(f"{SESSIONS}/{session['id']}")
    assert (adopted.status_code, adopted.json()["thread_id"]) == (200, "own")


async def test_another_user_sees_and_gets_nothing(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    await terminal(home, responses_api, "for alice alone", cwd=home / "project")
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    await ask(phone, "from the phone of alice", "alices")
    mine = await listed(gateway)
    assert {"for alice alone", "from the phone of alice"} <= set(mine)
    assert await listed(gateway, "bob") == {}
    for title in ("for alice alone", "from the phone of alice"):
        refused = await gateway.post(f"{SESSIONS}/{mine[title]['id']}", user="bob")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    thread = (await gateway.post(f"{SESSIONS}/{mine['for alice alone']['id']}")).json()
    async with gateway.http("bob") as http:
        assert (await http.get(f"/api/threads/{thread['thread_id']}/messages")).status_code == 404


async def test_two_users_who_may_both_adopt_a_session_have_threads_of_their_own(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    await terminal(home, responses_api, "for everybody", cwd=home / "project")
    ids = {user: (await listed(gateway, user, "shared"))["for everybody"]["id"] for user in ("alice", "bob")}
    assert ids["alice"] == ids["bob"]
    for user in ids:
        adopted = await gateway.post(f"/api/agents/shared/sessions/{ids[user]}", user=user)
        assert adopted.status_code == 201
        phone = new_client(gateway, agent="shared", user=user)
        await phone.connect()
        done = await ask(phone, f"{user} here", adopted.json()["thread_id"])
        assert done["content"] == f"re {user} here"
    # What the gateway began in a directory that users share is listed for none of them.
    phone = new_client(gateway, agent="shared")
    await phone.connect()
    await ask(phone, "in the shared directory", "shared")
    for user in ids:
        assert "in the shared directory" not in await listed(gateway, user, "shared")


async def test_a_session_that_is_open_at_the_desk_is_said_to_be_so_and_the_message_can_be_tried_again(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    await ask(phone, "soon at the desk", "open")
    session = (await listed(gateway))["soon at the desk"]
    leave = asyncio.Event()
    responses_api.script(Reply(Text("at ", leave, "work")))
    desk = asyncio.create_task(terminal(home, responses_api, "resume", session["id"], "busy"))
    await responses_api.called(2)
    done = await ask(phone, "again", "open")
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", "overloaded", True)
    assert "open in a terminal" in done["error"]["message"]
    leave.set()
    await desk
    answer = await gateway.post(f"/api/turns/{done['turn_id']}/retry")
    done = await phone.finish(answer.json()["turn_id"], within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "re again")


async def test_unknown_sessions_and_agents_without_sessions_are_not_found(gateway: GatewayProcess) -> None:
    for path in (f"{SESSIONS}/019a0000-0000-7000-8000-000000000000", "/api/agents/demo/sessions/x"):
        answer = await gateway.post(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    async with gateway.http(None) as http:
        assert (await http.get(SESSIONS)).status_code == 401
