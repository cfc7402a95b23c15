"""Agents, threads, turns and approvals by HTTP, and what sockets hear of it."""

import asyncio
import json
from typing import Any

import pytest

from gateway.asyncapi import asyncapi
from tests.client import Client
from tests.contracts import DOCUMENT
from tests.e2e.conftest import NewClient, NewGateway
from tests.server import GatewayProcess


@pytest.fixture(scope="module")
def gateway_environment() -> dict[str, Any]:
    return {
        "DRAIN_SECONDS": 0,
        "AGENTS": {
            "codex": None,
            "demo": {"pace": 0},
            "claude": {"api_key": ""},
            "other": {"provider": "demo", "pace": 0},
        },
    }


async def ran(gateway: GatewayProcess, content: str, agent: str = "demo", **body: Any) -> dict[str, Any]:
    """Send a message by HTTP, and wait for the end of its turn; the turn."""
    answer = await gateway.post(f"/api/{agent}/messages", {"content": content, **body})
    assert answer.status_code == 202, answer.text
    return await ended(gateway, answer.json()["turn_id"])


async def ended(gateway: GatewayProcess, turn_id: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            turn: dict[str, Any] = await gateway.get(f"/api/turns/{turn_id}")
            if turn["finished_at"] is not None:
                return turn
            await asyncio.sleep(0.01)


async def listener(gateway: GatewayProcess, new_client: NewClient) -> Client:
    client = new_client(gateway)
    await client.connect()
    return client


# Agents and messages


async def test_every_agent_is_listed_also_one_that_cannot_start(gateway: GatewayProcess) -> None:
    agents = {agent["name"]: agent for agent in (await gateway.get("/api/agents"))["agents"]}
    assert set(agents) == {"demo", "other", "claude"}
    assert agents["demo"]["configured"] is True
    assert agents["demo"]["reason"] is None
    assert "tools" in agents["demo"]["capabilities"]
    assert agents["other"]["provider"] == "demo"
    assert agents["claude"]["configured"] is False
    assert "api_key" in agents["claude"]["reason"] or "key" in agents["claude"]["reason"]


async def test_a_message_by_http_is_a_turn_in_the_background(gateway: GatewayProcess) -> None:
    body = {"content": "/echo Hello", "id": "http-1", "thread_id": "http-1"}
    answer = await gateway.post("/api/demo/messages", body)
    assert answer.status_code == 202
    accepted = answer.json()
    assert (accepted["thread_id"], accepted["id"], accepted["duplicate"], accepted["queued"]) == (
        "http-1",
        "http-1",
        False,
        0,
    )
    turn = await ended(gateway, accepted["turn_id"])
    assert (turn["status"], turn["content"], turn["stop_reason"], turn["error"]) == (
        "completed",
        "Hello",
        "end_turn",
        None,
    )
    said = {"message_id": accepted["message_id"], "id": "http-1", "content": "/echo Hello", "attachments": []}
    assert turn["user_message"] == said
    again = (await gateway.post("/api/demo/messages", body)).json()
    assert (again["turn_id"], again["duplicate"]) == (accepted["turn_id"], True)


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "field"),
    [
        ("/api/demo/messages", {}, 400, "bad_request", "content"),
        ("/api/demo/messages", {"content": " "}, 400, "bad_request", "content"),
        ("/api/demo/messages", {"content": "x", "thread_id": "a b"}, 400, "bad_request", "thread_id"),
        ("/api/demo/messages", {"content": "x", "id": 1}, 400, "bad_request", "id"),
        ("/api/nobody/messages", {"content": "x"}, 404, "no_such_agent", None),
        ("/api/claude/messages", {"content": "x"}, 503, "agent_unavailable", None),
        ("/api/turns/u-none/retry", None, 404, "not_found", "turn_id"),
        ("/api/turns/u-none/cancel", None, 404, "not_found", "turn_id"),
        ("/api/approvals/p-none", {}, 400, "bad_request", "decision"),
        ("/api/approvals/p-none", {"decision": "approved"}, 404, "not_found", "approval_id"),
    ],
)
async def test_a_refusal_says_why_in_one_form(
    gateway: GatewayProcess, path: str, body: Any, status: int, code: str, field: str | None
) -> None:
    answer = await gateway.post(path, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error.get("field")) == (code, field)
    assert error["message"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe\xfa", b'"x"', b"[" * 100_000, b'{"content":NaN}'])
async def test_a_body_that_is_no_json_object_is_refused(gateway: GatewayProcess, body: bytes) -> None:
    async with gateway.http() as http:
        answer = await http.post("/api/demo/messages", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


async def test_a_body_that_is_too_large_is_refused(gateway: GatewayProcess) -> None:
    async with gateway.http() as http:
        answer = await http.post("/api/demo/messages", content=b'{"content":"' + b"x" * (1024 * 1024) + b'"}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_unknown_paths_and_methods_are_told_in_the_same_form(gateway: GatewayProcess) -> None:
    async with gateway.http() as http:
        for method, path, status, code in (
            ("GET", "/api/nothing/here", 404, "not_found"),
            ("GET", "/nothing", 404, "not_found"),
            ("POST", "/api/threads", 405, "method_not_allowed"),
            ("DELETE", "/api/agents", 405, "method_not_allowed"),
        ):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), path


# Threads


async def test_threads_come_newest_first_and_page_by_page(gateway: GatewayProcess) -> None:
    for number in range(7):
        await ran(gateway, f"/echo {number}", thread_id=f"page-{number}")
    await ran(gateway, "/echo elsewhere", agent="other", thread_id="page-other")
    await ran(gateway, "/echo again", thread_id="page-2")
    seen: list[str] = []
    before = ""
    for _ in range(20):
        page = await gateway.get(f"/api/threads?agent=demo&limit=3&before={before}")
        seen += [thread["thread_id"] for thread in page["threads"]]
        if page["before"] is None:
            break
        before = page["before"]
    assert [thread for thread in seen if thread.startswith("page-")] == [
        "page-2",
        "page-6",
        "page-5",
        "page-4",
        "page-3",
        "page-1",
        "page-0",
    ]
    assert len(set(seen)) == len(seen)
    newest = (await gateway.get("/api/threads?limit=1"))["threads"]
    assert [thread["thread_id"] for thread in newest] == ["page-2"]
    others = (await gateway.get("/api/threads?agent=other"))["threads"]
    assert [thread["agent"] for thread in others] == ["other"] * len(others)
    assert "page-other" in [thread["thread_id"] for thread in others]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=1.5", "limit=٣", "before=x", f"limit={10**20}"]
)
async def test_a_bad_number_in_a_query_is_named(gateway: GatewayProcess, query: str) -> None:
    async with gateway.http() as http:
        answer = await http.get(f"/api/threads?{query}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, query.partition("=")[0])


async def test_a_thread_shows_its_last_message_and_what_is_unread(gateway: GatewayProcess) -> None:
    first = await ran(gateway, "/echo one", thread_id="shown")
    second = await ran(gateway, "/echo two", thread_id="shown")
    thread = await gateway.get("/api/threads/shown")
    assert (thread["agent"], thread["title"], thread["status"], thread["unread"]) == ("demo", "/echo one", "idle", 2)
    assert thread["read_message_id"] is None
    assert thread["last_message"]["content"] == "two"
    assert thread["last_message"]["message_id"] == second["message_id"]
    assert first["message_id"] != second["message_id"]


async def test_messages_come_in_pages_in_both_directions(gateway: GatewayProcess) -> None:
    for number in range(5):
        await ran(gateway, f"/echo {number}", thread_id="history")
    path = "/api/threads/history/messages"
    everything = (await gateway.get(path))["messages"]
    assert [m["content"] for m in everything] == [t for n in range(5) for t in (f"/echo {n}", str(n))]
    assert {(m["role"], m.get("status")) for m in everything} == {("user", None), ("assistant", "completed")}
    ids = [message["message_id"] for message in everything]

    async def page(query: str) -> list[str]:
        return [message["message_id"] for message in (await gateway.get(f"{path}?{query}"))["messages"]]

    assert await page("limit=3") == ids[-3:]
    assert await page(f"limit=3&before={ids[-3]}") == ids[4:7]
    assert await page(f"limit=3&after={ids[1]}") == ids[2:5]
    assert await page(f"after={ids[-1]}") == []
    assert await page(f"before={ids[0]}") == []
    async with gateway.http() as http:
        for query, status, field in (
            (f"before={ids[0]}&after={ids[1]}", 400, "after"),
            ("before=m-none", 404, "before"),
            ("limit=none", 400, "limit"),
        ):
            answer = await http.get(f"{path}?{query}")
            assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


async def test_a_renamed_thread_is_shown_so_to_all_sockets(gateway: GatewayProcess, new_client: NewClient) -> None:
    await ran(gateway, "/echo x", thread_id="renamed")
    screen = await listener(gateway, new_client)
    async with gateway.http() as http:
        answer = await http.patch("/api/threads/renamed", json={"title": " Über alles  "})
        assert (answer.status_code, answer.json()["title"]) == (200, "Über alles")
        for title in ("", "  ", "x" * 201, 7, None):
            answer = await http.patch("/api/threads/renamed", json={"title": title})
            assert (answer.status_code, answer.json()["error"]["field"]) == (400, "title")
        assert (await http.patch("/api/threads/none", json={"title": "x"})).status_code == 404
    updated = (await screen.receive(until="thread_updated"))[-1]
    assert (updated["thread_id"], updated["title"]) == ("renamed", "Über alles")


async def test_a_deleted_thread_is_gone_for_followers_list_screens_and_http(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    follower, screen = await listener(gateway, new_client), await listener(gateway, new_client)
    accepted = await follower.message("/hang", thread_id="deleted")
    await follower.receive(until="typing")
    queued = await follower.message("/echo waits", thread_id="deleted")
    async with gateway.http() as http:
        assert (await http.delete("/api/threads/deleted")).status_code == 204
        for path in ("/api/threads/deleted", f"/api/turns/{accepted['turn_id']}", f"/api/turns/{queued['turn_id']}"):
            assert (await http.get(path)).status_code == 404
        assert (await http.delete("/api/threads/deleted")).status_code == 404
    await follower.receive(until="detached")
    gone = await screen.receive(until=lambda f: f["type"] == "thread_updated" and f["status"] == "deleted")
    assert gone[-1]["thread_id"] == "deleted"
    await follower.send("attach", thread_id="deleted")
    assert (await follower.receive(until="error"))[-1]["code"] == "not_found"
    old = follower.cursors["deleted"]
    await follower.message("/echo anew", thread_id="deleted")
    await follower.receive(until="done")
    await screen.attach("deleted", old)  # a cursor of the thread that is gone vouches for nothing
    assert screen.frames[-1]["recovered"] is False
    shown = (await screen.receive(until="snapshot"))[-1]["messages"]
    assert [message["content"] for message in shown] == ["/echo anew", "anew"]


async def test_list_screens_are_told_when_a_thread_runs_and_when_it_rests(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    screen = await listener(gateway, new_client)
    await ran(gateway, "/pieces 20 0.01", thread_id="listed")
    told = await screen.receive(
        until=lambda f: f["type"] == "thread_updated" and f["status"] == "idle" and f["unread"] == 1
    )
    states = [(f["status"], f["unread"]) for f in told if f["thread_id"] == "listed"]
    assert states[0] == ("running", 0)
    assert states[-1] == ("idle", 1)
    assert told[-1]["preview"].startswith("1 2 3")


# Read marks


async def test_seen_moves_the_read_mark_forward_only_and_tells_the_other_devices(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    turns = [await ran(gateway, f"/echo {number}", thread_id="read") for number in range(3)]
    phone, tablet = await listener(gateway, new_client), await listener(gateway, new_client)
    for turn, unread in ((turns[1], 1), (turns[0], 1), (turns[2], 0)):
        await phone.send("seen", thread_id="read", message_id=turn["message_id"])
        await phone.quiet()
        assert (await gateway.get("/api/threads/read"))["unread"] == unread
    told = await tablet.quiet()
    assert [f["message_id"] for f in told if f["type"] == "read"] in (
        [turns[1]["message_id"], turns[2]["message_id"]],
        [turns[2]["message_id"]],  # a newer notice takes the place of one that was not sent yet
    )
    assert not [f for f in phone.frames if f["type"] == "read"]
    assert (await gateway.get("/api/threads/read"))["read_message_id"] == turns[2]["message_id"]
    await phone.send("seen", thread_id="read", message_id="m-none")
    assert (await phone.receive(until="error"))[-1]["field"] == "message_id"


# Turns


async def test_a_turn_is_cancelled_by_http_and_once_more_changes_nothing(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = await listener(gateway, new_client)
    accepted = await phone.message("/echo kept\n/hang")
    await phone.receive(until="message")
    running = await gateway.get(f"/api/turns/{accepted['turn_id']}")
    assert (running["status"], running["content"]) == ("running", "kept")
    for _ in range(2):
        assert (await gateway.post(f"/api/turns/{accepted['turn_id']}/cancel")).status_code == 204
        turn = await ended(gateway, accepted["turn_id"])
        assert (turn["status"], turn["content"], turn["error"]) == ("cancelled", "kept", None)


async def test_a_failed_turn_is_retried_as_a_new_one(gateway: GatewayProcess) -> None:
    failed = await ran(gateway, "/error overloaded after", thread_id="retried")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "overloaded")
    answer = await gateway.post(f"/api/turns/{failed['turn_id']}/retry")
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted["retry_of"] == failed["turn_id"]
    again = await ended(gateway, accepted["turn_id"])
    assert (again["retry_of"], again["user_message"]["content"]) == (failed["turn_id"], "/error overloaded after")
    assert again["thread_id"] == "retried"
    completed = await ran(gateway, "/echo fine")
    answer = await gateway.post(f"/api/turns/{completed['turn_id']}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_retryable")


async def test_a_running_turn_cannot_be_retried(gateway: GatewayProcess) -> None:
    accepted = (await gateway.post("/api/demo/messages", {"content": "/hang"})).json()
    answer = await gateway.post(f"/api/turns/{accepted['turn_id']}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_retryable")
    await gateway.post(f"/api/turns/{accepted['turn_id']}/cancel")


async def test_an_answer_too_long_for_a_frame_is_whole_by_http(new_gateway: NewGateway, new_client: NewClient) -> None:
    gateway = new_gateway(LIMITS__SERVER_FRAME_BYTES="4096")
    await gateway.start_soon()
    phone = await listener(gateway, new_client)
    accepted = await phone.message("/long 3000")
    done = await phone.finish(accepted["turn_id"])
    assert done["truncated"] is True
    turn = await gateway.get(f"/api/turns/{accepted['turn_id']}")
    assert len(turn["content"]) == done["length"] > 4096
    assert turn["content"].startswith(done["content"])
    assert turn["content"] == phone.texts[accepted["turn_id"]]


async def test_a_thread_belongs_to_the_agent_it_was_begun_with(gateway: GatewayProcess) -> None:
    await ran(gateway, "/echo x", thread_id="of-demo")
    answer = await gateway.post("/api/other/messages", {"content": "Hi", "thread_id": "of-demo"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "wrong_agent")


async def test_only_so_many_messages_wait_in_a_thread(gateway: GatewayProcess) -> None:
    accepted = []
    for _ in range(9):
        accepted.append((await gateway.post("/api/demo/messages", {"content": "/hang", "thread_id": "full"})).json())
    assert [one["queued"] for one in accepted] == list(range(9))
    answer = await gateway.post("/api/demo/messages", {"content": "Hi", "thread_id": "full"})
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["retryable"]) == (
        429,
        "busy",
        True,
    )
    async with gateway.http() as http:
        assert (await http.delete("/api/threads/full")).status_code == 204


# Health


async def test_health_is_open_and_counts_connections(gateway: GatewayProcess, new_client: NewClient) -> None:
    before = (await gateway.get("/api/health", user=None))["connections"]["demo"]
    await listener(gateway, new_client)
    health = await gateway.get("/health", user=None)
    assert (health["status"], health["connections"]["demo"]) == ("ok", before + 1)
    assert set(health["connections"]) == {"demo", "other", "claude"}
    assert "checks" not in health
    assert "checks" not in await gateway.get("/api/health")  # Alice is no owner
    for path in ("/api/health/live", "/api/health/ready"):
        assert await gateway.get(path, user=None) == {"status": "ok"}


# Contracts


async def test_the_contracts_are_served_to_everybody(gateway: GatewayProcess) -> None:
    for _ in range(2):
        assert await gateway.get("/openapi.json", user=None) == DOCUMENT
        assert await gateway.get("/asyncapi.json", user=None) == json.loads(json.dumps(asyncapi()))
