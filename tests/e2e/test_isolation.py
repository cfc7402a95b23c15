"""Who may come in, and that nobody sees anything of anybody else."""

import asyncio
import base64
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.client import Client
from tests.e2e.conftest import NewClient
from tests.server import TOKENS, GatewayProcess


@pytest.fixture(scope="module")
def gateway_environment() -> dict[str, Any]:
    return {"AUTH_SECONDS": 1, "DRAIN_SECONDS": 0, "ALLOWED_ORIGINS": "https://app.example.org"}


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


# What belongs to somebody else


@pytest.fixture
async def of_alice(gateway: GatewayProcess, new_client: NewClient) -> dict[str, str]:
    """A finished turn of Alice's, and one that waits for her approval."""
    alice = new_client(gateway)
    await alice.connect()
    accepted = await alice.message("/echo private")
    done = await alice.finish(accepted["turn_id"])
    asking = await alice.message("/approval command")
    request = (await alice.receive(until="approval_request"))[-1]
    return {
        "thread": accepted["thread_id"],
        "turn": accepted["turn_id"],
        "message": done["message_id"],
        "approval": request["approval_id"],
        "running": asking["turn_id"],
        "busy": asking["thread_id"],
        "cursor": accepted["cursor"],
    }


UNKNOWN = {
    "thread": "t-unknown",
    "turn": "u-unknown",
    "message": "m-unknown",
    "approval": "p-unknown",
    "running": "u-unknown",
    "busy": "t-unknown",
    "cursor": "1:1",
}


def frames_about(ids: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"type": "attach", "thread_id": ids["thread"]},
        {"type": "attach", "thread_id": ids["thread"], "cursor": ids["cursor"]},
        {"type": "attach", "thread_id": ids["busy"]},
        {"type": "detach", "thread_id": ids["thread"]},
        {"type": "cancel", "thread_id": ids["busy"]},
        {"type": "cancel", "turn_id": ids["running"]},
        {"type": "cancel", "turn_id": ids["turn"]},
        {"type": "approval", "approval_id": ids["approval"], "decision": "approved"},
        {"type": "approval", "approval_id": ids["approval"], "decision": "no such option"},
        {"type": "seen", "thread_id": ids["thread"], "message_id": ids["message"]},
    ]


def requests_about(ids: dict[str, str]) -> list[tuple[str, str, Any]]:
    return [
        ("GET", f"/api/threads/{ids['thread']}", None),
        ("PATCH", f"/api/threads/{ids['thread']}", {"title": "mine now"}),
        ("DELETE", f"/api/threads/{ids['thread']}", None),
        ("GET", f"/api/threads/{ids['thread']}/messages", None),
        ("GET", f"/api/threads/{ids['thread']}/messages?after={ids['message']}", None),
        ("GET", f"/api/turns/{ids['turn']}", None),
        ("GET", f"/api/turns/{ids['running']}", None),
        ("POST", f"/api/turns/{ids['running']}/cancel", None),
        ("POST", f"/api/turns/{ids['turn']}/retry", None),
        ("POST", f"/api/approvals/{ids['approval']}", {"decision": "approved"}),
        ("POST", f"/api/approvals/{ids['approval']}", {"decision": "no such option"}),
    ]


async def test_what_is_another_user_s_is_not_found_on_the_socket_exactly_as_what_is_not_there(
    gateway: GatewayProcess, new_client: NewClient, of_alice: dict[str, str]
) -> None:
    bob = new_client(gateway, user="bob")
    await bob.connect()
    for foreign, unknown in zip(frames_about(of_alice), frames_about(UNKNOWN), strict=True):
        answers = []
        for frame in (foreign, unknown):
            await bob.send_text(json.dumps(frame))
            answers.append((await bob.receive(until="error"))[-1])
            assert answers[-1].pop("thread_id", None) == frame.get("thread_id"), "what was asked for, and no more"
        assert answers[0]["code"] == "not_found", foreign
        assert without(answers[0], "timestamp") == without(answers[1], "timestamp")
    assert {frame["type"] for frame in bob.frames} == {"ready", "error"}


async def test_what_is_another_user_s_is_not_found_by_http_exactly_as_what_is_not_there(
    gateway: GatewayProcess, of_alice: dict[str, str]
) -> None:
    async with gateway.http("bob") as http:
        for foreign, unknown in zip(requests_about(of_alice), requests_about(UNKNOWN), strict=True):
            answers = [await http.request(method, path, json=body) for method, path, body in (foreign, unknown)]
            assert answers[0].status_code == 404, foreign
            assert answers[0].json()["error"]["code"] == "not_found"
            assert answers[0].content == answers[1].content
        assert (await http.get("/api/threads")).json()["threads"] == []


async def test_nothing_that_a_stranger_tried_changed_anything(
    gateway: GatewayProcess, new_client: NewClient, of_alice: dict[str, str]
) -> None:
    bob = new_client(gateway, user="bob")
    await bob.connect()
    for frame in frames_about(of_alice):
        await bob.send_text(json.dumps(frame))
    await bob.quiet()
    async with gateway.http("bob") as http:
        for method, path, body in requests_about(of_alice):
            await http.request(method, path, json=body)
    turn = await gateway.get(f"/api/turns/{of_alice['running']}")
    assert turn["status"] == "running"
    thread = await gateway.get(f"/api/threads/{of_alice['thread']}")
    assert (thread["title"], thread["unread"], thread["last_message"]["content"]) == ("/echo private", 1, "private")


async def test_one_thread_id_chosen_by_two_users_is_two_threads(gateway: GatewayProcess, new_client: NewClient) -> None:
    alice, bob = new_client(gateway), new_client(gateway, user="bob")
    await asyncio.gather(alice.connect(), bob.connect())
    # The same client id, too: it is unique per user only.
    sent = await asyncio.gather(
        alice.message("/echo of alice", thread_id="ours", id="same"),
        bob.message("/echo of bob", thread_id="ours", id="same"),
    )
    assert sent[0]["turn_id"] != sent[1]["turn_id"]
    assert (await alice.finish(sent[0]["turn_id"]))["content"] == "of alice"
    assert (await bob.finish(sent[1]["turn_id"]))["content"] == "of bob"
    for user, text in (("alice", "of alice"), ("bob", "of bob")):
        messages = (await gateway.get("/api/threads/ours/messages", user))["messages"]
        assert [message["content"] for message in messages] == [f"/echo {text}", text]
    assert not any("alice" in json.dumps(frame) for frame in bob.frames)
    async with gateway.http("bob") as http:
        assert (await http.delete("/api/threads/ours")).status_code == 204
    assert len((await gateway.get("/api/threads/ours/messages"))["messages"]) == 2
    assert [f for f in await alice.quiet() if f["type"] == "detached"] == []


async def test_notices_go_to_the_user_s_own_sockets_only(gateway: GatewayProcess, new_client: NewClient) -> None:
    alice, second, bob = new_client(gateway), new_client(gateway), new_client(gateway, user="bob")
    await asyncio.gather(alice.connect(), second.connect(), bob.connect())
    accepted = await alice.message("/echo noticed", thread_id="noticed")
    done = await alice.finish(accepted["turn_id"])
    shown = await second.receive(
        until=lambda f: f["type"] == "thread_updated" and f["status"] == "idle" and f["preview"] == "noticed"
    )
    assert {frame["type"] for frame in shown} == {"thread_updated"}
    await alice.send("seen", thread_id="noticed", message_id=done["message_id"])
    read = (await second.receive(until="read"))[-1]
    assert (read["thread_id"], read["message_id"]) == ("noticed", done["message_id"])
    assert await bob.quiet() == []


# Tokens


def socket_url(gateway: GatewayProcess, path: str = "/api/demo/ws") -> str:
    return gateway.url.replace("http", "ws", 1) + path


async def refused(gateway: GatewayProcess, path: str = "/api/demo/ws", **options: Any) -> tuple[int, dict[str, Any]]:
    """The status and body with which the upgrade is refused."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(socket_url(gateway, path), proxy=None, **options)
    response = caught.value.response
    return response.status_code, json.loads(response.body or b"{}")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def subprotocols(token: str) -> list[Any]:
    return ["agentline.v1", "bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")]


@pytest.mark.parametrize("token", ["wrong", "", "token-of-alic", "token-of-alice2", "TOKEN-OF-ALICE"])
async def test_a_bad_token_in_the_header_is_refused_without_an_upgrade(gateway: GatewayProcess, token: str) -> None:
    status, body = await refused(gateway, additional_headers=bearer(token))
    assert (status, body["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    "offered", [subprotocols("wrong"), ["agentline.v1", "bearer.!!!"], ["agentline.v1", "bearer."]]
)
async def test_a_bad_token_in_the_subprotocol_is_accepted_and_closed(
    gateway: GatewayProcess, offered: list[Any]
) -> None:
    async with connect(socket_url(gateway), proxy=None, subprotocols=offered) as socket:
        assert socket.subprotocol == "agentline.v1"
        await socket.wait_closed()
        assert socket.close_code == 4501


async def test_a_good_token_in_the_subprotocol_is_answered_without_repeating_it(gateway: GatewayProcess) -> None:
    async with connect(socket_url(gateway), proxy=None, subprotocols=subprotocols(TOKENS["alice"])) as socket:
        assert socket.subprotocol == "agentline.v1"
        ready = json.loads(await socket.recv())
        assert (ready["type"], ready["user_id"]) == ("ready", "alice")


async def test_a_bad_token_in_the_header_counts_even_beside_a_good_subprotocol(gateway: GatewayProcess) -> None:
    status, _ = await refused(gateway, additional_headers=bearer("wrong"), subprotocols=subprotocols(TOKENS["alice"]))
    assert status == 401


async def test_a_bad_token_in_a_frame_closes(gateway: GatewayProcess) -> None:
    client = Client(gateway.url)
    await client.connect(wait_ready=False)
    await client.send("auth", token="wrong")
    closed = await client.closed()
    assert closed.code == 4501
    assert client.frames == []


async def test_no_token_in_time_closes(gateway: GatewayProcess) -> None:
    client = Client(gateway.url)
    await client.connect(wait_ready=False)
    assert (await client.closed(within=4)).code == 4501


async def test_before_ready_every_frame_but_auth_is_refused_and_nothing_happens(gateway: GatewayProcess) -> None:
    client = Client(gateway.url)
    await client.connect(wait_ready=False)
    for frame in (
        {"type": "message", "content": "/echo too early", "thread_id": "too-early"},
        {"type": "ping"},
        {"type": "attach"},
        {"type": "juggle"},
        {},
        *frames_about(UNKNOWN),
    ):
        await client.send_text(json.dumps(frame))
        error = await client.next()
        assert (error["type"], error["code"]) == ("error", "unauthorized")
    await client.send_text("{")
    assert (await client.next())["code"] == "bad_frame"
    await client.socket.send(b"{}")
    assert (await client.next())["code"] == "bad_frame"
    await client.send("auth", token=TOKENS["alice"])
    await client.expect_ready()
    assert client.ready["user_id"] == "alice"
    await client.send("attach", thread_id="too-early")
    assert (await client.next())["code"] == "not_found"
    await client.close()


async def test_a_token_in_the_query_string_is_ignored(gateway: GatewayProcess) -> None:
    query = f"?token={TOKENS['alice']}&access_token={TOKENS['alice']}&auth={TOKENS['alice']}"
    async with connect(socket_url(gateway, f"/api/demo/ws{query}"), proxy=None) as socket:
        await socket.wait_closed()
        assert socket.close_code == 4501
    async with gateway.http(None) as http:
        assert (await http.get(f"/api/threads{query}")).status_code == 401
    assert TOKENS["alice"] not in gateway.log


async def test_authorising_again_gives_a_fresh_ready_and_keeps_what_is_followed(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    client = new_client(gateway)
    first = await client.connect()
    accepted = await client.message("/pieces 60 0.005")
    await client.send("auth", token=TOKENS["alice"])
    again = (await client.receive(until="ready"))[-1]
    assert without(again, "timestamp") == without(first, "timestamp")
    assert (await client.finish(accepted["turn_id"]))["status"] == "completed"


async def test_authorising_again_as_another_user_is_refused_and_as_nobody_closes(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    client = new_client(gateway)
    await client.connect()
    await client.send("auth", token=TOKENS["bob"])
    error = (await client.receive(until="error"))[-1]
    assert (error["code"], error["field"]) == ("unauthorized", "token")
    accepted = await client.message("/echo still alice", thread_id="still")
    await client.finish(accepted["turn_id"])
    await client.send("auth", token="wrong")
    assert (await client.closed()).code == 4501


async def test_http_wants_a_good_token_on_every_route(gateway: GatewayProcess) -> None:
    routes = [*requests_about(UNKNOWN), ("GET", "/api/threads", None), ("GET", "/api/agents", None)]
    routes.append(("POST", "/api/demo/messages", {"content": "Hi"}))
    async with gateway.http(None) as http:
        for method, path, body in routes:
            for headers in ({}, bearer("wrong"), {"Authorization": "Basic dG9rZW4="}):
                answer = await http.request(method, path, json=body, headers=headers)
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["code"] == "unauthorized"
                assert answer.headers["www-authenticate"] == "Bearer"


# Origins and agents


async def test_a_foreign_origin_is_refused_whatever_its_token(gateway: GatewayProcess) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "file://",
        "https://app.example.org.evil.example",
        "http://localhost",
    ):
        options: Any = {"additional_headers": bearer(TOKENS["alice"]), "origin": origin}
        status, body = await refused(gateway, **options)
        assert (status, body["error"]["code"]) == (403, "forbidden"), origin
        status, _ = await refused(gateway, **{**options, "additional_headers": bearer("wrong")})
        assert status == 403
        async with gateway.http() as http:
            answer = await http.get("/api/threads", headers={"Origin": origin})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_the_own_host_under_any_scheme_and_the_allowed_origins_may_come_in(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    own = gateway.url.removeprefix("http://")
    for origin in (f"http://{own}", f"https://{own}", "https://app.example.org"):
        client = new_client(gateway, origin=origin, browser=True)
        assert (await client.connect())["type"] == "ready"


async def test_an_agent_that_there_is_not_closes_after_the_token_was_seen(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    client = new_client(gateway, agent="nobody")
    await client.connect(wait_ready=False)
    assert (await client.closed()).code == 4504
    stranger = Client(gateway.url, agent="nobody")
    await stranger.connect(wait_ready=False)
    await stranger.send("auth", token="wrong")
    assert (await stranger.closed()).code == 4501
