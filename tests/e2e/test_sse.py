"""Turns and threads as server-sent events."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.client import LOGGED, place
from tests.e2e.conftest import NewClient, NewGateway, agents_for
from tests.e2e.eventsource import Event, EventSource, events
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import Pieces, end, server_tool, start, web_search
from tests.server import TOKENS, GatewayProcess
from tests.shapes import check_server_frame

HEARTBEAT_SECONDS, SEND_SECONDS = 0.3, 1.0
PAGE = "https://chat.example"


@pytest.fixture(scope="module")
def gateway_environment(upstream_port: int) -> dict[str, Any]:
    agents = agents_for(upstream_port, unready={"provider": "claude", "api_key": ""})
    return {
        "AGENTS": agents,
        "ALLOWED_ORIGINS": f"{PAGE},http://127.0.0.1:3000",
        "HEARTBEAT_SECONDS": HEARTBEAT_SECONDS,
        "SEND_SECONDS": SEND_SECONDS,
    }


async def ended(gateway: GatewayProcess, turn_id: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            turn: dict[str, Any] = await gateway.get(f"/api/turns/{turn_id}")
            if turn["finished_at"] is not None:
                return turn
            await asyncio.sleep(0.02)


async def no_connections(gateway: GatewayProcess) -> None:
    async with asyncio.timeout(10):
        while sum((await gateway.get("/api/health", None))["connections"].values()):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


def text_of(frames: list[dict[str, Any]]) -> str:
    text = ""
    for frame in frames:
        if frame["type"] in ("message", "reset"):
            text = frame["content"] if frame["type"] == "reset" else text + frame["content"]
    return text


def logged(seen: list[Event]) -> list[Event]:
    return [event for event in seen if event.frame["type"] in LOGGED]


# One turn


async def test_a_turn_is_streamed_from_accepted_to_done_in_the_frames_of_the_protocol(gateway: GatewayProcess) -> None:
    body = {"content": "/reasoning\n/tool\n/echo Grüße 👋🏽\n/unicode", "id": "sse-1", "thread_id": "sse-1"}
    async with events(gateway, "/api/demo/stream", body) as stream:
        seen = await stream.rest()
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-accel-buffering"] == "no"
    frames = [event.frame for event in seen]
    for frame in frames:
        check_server_frame(frame)
    assert frames[0]["type"] == "accepted"
    assert (frames[0]["id"], frames[0]["thread_id"], frames[0]["duplicate"]) == ("sse-1", "sse-1", False)
    assert [frame["type"] for frame in frames].count("done") == 1
    assert frames[-1]["type"] == "done"
    assert text_of(frames) == frames[-1]["content"]
    for event in seen:
        assert event.id == (event.frame["cursor"] if event.frame["type"] in LOGGED else None)
    cursors = [place(event.id)[1] for event in seen if event.id is not None]
    assert cursors == sorted(set(cursors))
    assert place(frames[0]["cursor"])[1] + 1 == cursors[0]


async def test_text_arrives_while_the_upstream_is_still_sending(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    paced = Paced().say(["one ", "two ", "three"]).finish()
    messages_api.script = paced.script
    async with events(gateway, "/api/claude/stream", {"content": "Hi"}) as stream:
        for gate, piece in zip(paced.gates, ["one ", "two ", "three"], strict=False):
            gate.opened.set()
            assert (await stream.until("message"))["content"] == piece
        paced.open_all()
        assert (await stream.until("done"))["content"] == "one two three"
        assert await stream.rest() == []


async def test_a_client_cut_off_after_any_event_gets_exactly_the_rest_by_last_event_id(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    paced = Paced().think(["hm ", "so "]).block(server_tool("web_search", '{"query":', '"x"}'), web_search("A page"))
    paced.say([f"{n} 👍🏽 é " for n in range(12)]).say(["x", "y"]).finish()
    messages_api.script = paced.script
    body = {"content": "Hi", "id": "cut-after-every-event"}
    got: list[Event] = []
    gates = iter(paced.gates)
    while not got or got[-1].frame["type"] != "done":
        async with events(gateway, "/api/claude/stream", body, last=got[-1].id if got else None) as stream:
            accepted = (await stream.next()).frame  # type: ignore[union-attr]  # None would fail the test as well
            assert accepted["type"] == "accepted"
            assert accepted["duplicate"] is bool(got)
            if got and (gate := next(gates, None)) is not None:
                gate.opened.set()
            while (event := await stream.next()) is not None and event.id is None:
                assert event.frame["type"] == "typing"
            assert event is not None
            got.append(event)  # and the connection is cut
    async with events(gateway, "/api/claude/stream", body) as stream:
        whole = logged(await stream.rest())
    places = [place(event.frame["cursor"]) for event in got]
    assert places == [(places[0][0], places[0][1] + n) for n in range(len(paced.gates) + 1)], (
        "each event, once, in order"
    )
    assert text_of([event.frame for event in got]) == text_of([event.frame for event in whole]) == paced.text
    assert (whole[0], whole[-1]) == (got[0], got[-1])
    assert len(messages_api.calls) == 1, "no second turn"


async def test_the_same_id_again_replays_a_finished_turn_and_only_that(gateway: GatewayProcess) -> None:
    thread = {"thread_id": "replayed"}
    async with events(gateway, "/api/demo/stream", {"content": "/echo first", **thread}) as stream:
        before = logged(await stream.rest())
    body = {"content": "/echo second", "id": "replayed", **thread}
    async with events(gateway, "/api/demo/stream", body) as stream:
        first = await stream.rest()
    async with events(gateway, "/api/demo/stream", {"content": "/echo third", **thread}) as stream:
        after = logged(await stream.rest())
    async with events(gateway, "/api/demo/stream", body) as stream:
        again = await stream.rest()
    assert again[0].frame["duplicate"] is True
    assert logged(again) == logged(first)
    # A place before the turn, or behind its end, moves nothing: of another turn nothing is shown.
    async with events(gateway, "/api/demo/stream", body, last=before[0].id) as stream:
        assert logged(await stream.rest()) == logged(first)
    for place_behind in (logged(first)[-1].id, after[0].id, after[-1].id):
        async with events(gateway, "/api/demo/stream", body, last=place_behind) as stream:
            assert [event.frame["type"] for event in await stream.rest()] == ["accepted"]


@pytest.mark.parametrize("last", ["nonsense", "1:1", "9999999999999999:1"])
async def test_a_place_that_the_log_cannot_vouch_for_is_answered_with_a_snapshot(
    gateway: GatewayProcess, last: str
) -> None:
    body = {"content": "/echo Hello", "id": f"bad-{last}", "thread_id": f"bad-{last.replace(':', '-')}"}
    async with events(gateway, "/api/demo/stream", body, last=last) as stream:  # a first try has nothing to resume
        assert (await stream.until("done"))["content"] == "Hello"
    async with events(gateway, "/api/demo/stream", body, last=last) as stream:
        frames = [event.frame for event in await stream.rest()]
    assert [frame["type"] for frame in frames] == ["accepted", "attached", "snapshot"]
    assert frames[1]["recovered"] is False
    assert frames[2]["messages"][-1]["content"] == "Hello"


async def test_a_queued_turns_stream_shows_nothing_of_the_turn_before_it(gateway: GatewayProcess) -> None:
    first = (await gateway.post("/api/demo/messages", {"content": "/hang", "thread_id": "queued"})).json()
    async with events(gateway, "/api/demo/stream", {"content": "/echo mine", "thread_id": "queued"}) as stream:
        accepted = (await stream.next()).frame  # type: ignore[union-attr]  # as above
        assert accepted["queued"] == 1
        assert (await gateway.post(f"/api/turns/{first['turn_id']}/cancel")).status_code == 204
        frames = [event.frame for event in await stream.rest()]
    assert {frame["turn_id"] for frame in frames} == {accepted["turn_id"]}
    assert frames[-1]["content"] == "mine"


async def test_a_turn_that_is_cancelled_while_it_waits_ends_its_stream(gateway: GatewayProcess) -> None:
    await gateway.post("/api/demo/messages", {"content": "/hang", "thread_id": "gives-up"})
    async with events(gateway, "/api/demo/stream", {"content": "/echo", "thread_id": "gives-up"}) as stream:
        accepted = (await stream.next()).frame  # type: ignore[union-attr]  # as above
        await gateway.post(f"/api/turns/{accepted['turn_id']}/cancel")
        assert (await stream.rest())[-1].frame["status"] == "cancelled"


async def test_a_closed_page_leaves_the_turn_running(gateway: GatewayProcess, messages_api: MessagesApi) -> None:
    paced = Paced().say(["one ", "two"]).finish()
    messages_api.script = paced.script
    async with events(gateway, "/api/claude/stream", {"content": "Hi"}) as stream:
        turn_id = (await stream.until("accepted"))["turn_id"]
        paced.gates[0].opened.set()
        await stream.until("message")
    await no_connections(gateway)
    paced.open_all()
    turn = await ended(gateway, turn_id)
    assert (turn["status"], turn["content"]) == ("completed", "one two")


async def test_a_deleted_thread_ends_its_streams(gateway: GatewayProcess) -> None:
    async with events(gateway, "/api/demo/stream", {"content": "/hang", "thread_id": "doomed"}) as stream:
        await stream.until("typing")
        async with events(gateway, "/api/threads/doomed/events") as follower:
            await follower.until("snapshot")
            async with gateway.http() as http:
                assert (await http.delete("/api/threads/doomed")).status_code == 204
            assert (await follower.rest())[-1].frame["type"] == "detached"
        assert (await stream.rest())[-1].frame["type"] in ("done", "detached")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "user"),
    [
        ("/api/demo/stream", {"content": "x"}, 401, "unauthorized", None),
        ("/api/demo/stream", {}, 400, "bad_request", "alice"),
        ("/api/nobody/stream", {"content": "x"}, 404, "no_such_agent", "alice"),
        ("/api/unready/stream", {"content": "x"}, 503, "agent_unavailable", "alice"),
        ("/api/threads/none/events", None, 404, "not_found", "alice"),
        ("/api/threads/none/events", None, 401, "unauthorized", None),
    ],
)
async def test_what_is_refused_before_the_stream_is_an_http_error(
    gateway: GatewayProcess, path: str, body: Any, status: int, code: str, user: str | None
) -> None:
    async with gateway.http(user) as http:
        answer = await (http.get(path) if body is None else http.post(path, json=body))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_turn_that_fails_is_a_stream_that_says_so(gateway: GatewayProcess) -> None:
    async with events(gateway, "/api/demo/stream", {"content": "/error rate_limited after 7"}) as stream:
        done = (await stream.rest())[-1].frame
    assert (done["status"], done["error"]["code"], done["error"]["retry_after"]) == ("failed", "rate_limited", 7)


# One thread


async def test_a_thread_is_followed_from_a_snapshot_and_from_any_event(gateway: GatewayProcess) -> None:
    async with events(gateway, "/api/demo/stream", {"content": "/echo one", "thread_id": "followed"}) as stream:
        first = logged(await stream.rest())
    async with events(gateway, "/api/threads/followed/events") as follower:
        attached = await follower.until("attached")
        snapshot = await follower.until("snapshot")
        assert (attached["recovered"], snapshot["messages"][-1]["content"]) == (False, "one")
        async with events(gateway, "/api/demo/stream", {"content": "/echo two", "thread_id": "followed"}) as stream:
            second = logged(await stream.rest())
        await follower.until("done")
        assert logged(follower.events) == second
    for index, event in enumerate(first):
        async with events(gateway, "/api/threads/followed/events", last=event.id) as follower:
            attached = await follower.until("attached")
            assert (attached["recovered"], attached["cursor"]) == (True, event.id)
            await follower.until("done") if index < len(first) - 1 else None
            await follower.until("done")
            assert logged(follower.events) == first[index + 1 :] + second
    async with events(gateway, "/api/threads/followed/events", last="1:1") as follower:
        assert (await follower.until("attached"))["recovered"] is False
        assert (await follower.until("snapshot"))["cursor"] == second[-1].id


async def test_a_stream_shows_one_thread_of_its_user_alone(gateway: GatewayProcess) -> None:
    await gateway.post("/api/demo/messages", {"content": "/echo one", "thread_id": "mine"})
    async with gateway.http("bob") as http:
        answer = await http.get("/api/threads/mine/events")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    async with events(gateway, "/api/threads/mine/events") as follower:
        await follower.until("snapshot")
        await gateway.post("/api/demo/messages", {"content": "/echo other", "thread_id": "mine-too"})
        async with events(gateway, "/api/demo/stream", {"content": "/echo two", "thread_id": "mine"}) as stream:
            await stream.rest()
        await follower.until("done")
        assert {frame["thread_id"] for frame in follower.frames} == {"mine"}
        assert "thread_updated" not in {frame["type"] for frame in follower.frames}


async def test_a_silent_stream_has_heartbeats(gateway: GatewayProcess) -> None:
    async with events(gateway, "/api/demo/stream", {"content": "/hang", "thread_id": "silent"}) as stream:
        await stream.until("typing")
        clock = asyncio.get_running_loop().time
        began = clock()
        for _ in range(3):
            assert await stream.comment() == "heartbeat"
        assert 1.5 * HEARTBEAT_SECONDS < clock() - began < 3 * HEARTBEAT_SECONDS + 2
        turn_id = stream.frames[0]["turn_id"]
        await gateway.post(f"/api/turns/{turn_id}/cancel")
        assert (await stream.until("done"))["status"] == "cancelled"


# Readers


async def raw_request(gateway: GatewayProcess, path: str, receive_buffer: int) -> socket.socket:
    """A reader that takes nothing but what the kernel takes for it."""
    parts = urlsplit(gateway.url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, (parts.hostname, parts.port))
    head = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {TOKENS['alice']}\r\n\r\n"
    await loop.sock_sendall(raw, head.encode())
    return raw


async def all_of(raw: socket.socket) -> bytes:
    """What is there to read after all."""
    received = b""
    async with asyncio.timeout(5):
        while chunk := await asyncio.get_running_loop().sock_recv(raw, 2**20):
            received += chunk
    return received


async def test_a_reader_that_stops_reading_is_dropped_and_touches_nobody(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    piece, count = "0123456789abcdef" * 640, 400
    messages_api.script = [*start(), Pieces(count, 0.004, piece), *end()]
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    accepted = await phone.message("Hi", thread_id="stalled")
    readers = [await raw_request(gateway, "/api/threads/stalled/events", 4096) for _ in range(3)]
    try:
        await phone.finish(accepted["turn_id"], within=30)
        assert phone.texts[accepted["turn_id"]] == piece * count
        async with asyncio.timeout(10):
            while (await gateway.get("/api/health", None))["connections"]["claude"] > 1:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        for reader in readers:
            received = await all_of(reader)
            assert not received.endswith(b"0\r\n\r\n"), "a client can tell that this is not the end"
            assert len(received) < len(piece) * count / 4
        assert len(gateway.events("stream_dropped")) == len(readers)
        assert '"level": "error"' not in gateway.log
    finally:
        for reader in readers:
            reader.close()


async def test_a_slow_reader_gets_joined_frames_and_the_whole_text(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    piece, count = "0123456789abcdef" * 256, 600
    messages_api.script = [*start(), Pieces(count, 0.001, piece), *end()]
    accepted = (await gateway.post("/api/claude/messages", {"content": "Hi", "thread_id": "slow"})).json()
    reader = await raw_request(gateway, "/api/threads/slow/events", 4096)
    try:
        loop, received = asyncio.get_running_loop(), b""
        while b'"type":"done"' not in received[-600_000:]:
            async with asyncio.timeout(SEND_SECONDS * 10):
                received += await loop.sock_recv(reader, 256 * 1024)
            if len(received) < 100_000:
                await asyncio.sleep(0.05)
        assert (await ended(gateway, accepted["turn_id"]))["status"] == "completed"
    finally:
        reader.close()
    frames = received.count(b'"type":"message"')
    assert 0 < frames < count, "what it had not read was joined"


# Stopping


async def test_a_draining_gateway_says_goodbye_ends_streams_and_begins_none(
    new_gateway: NewGateway, messages_api: MessagesApi
) -> None:
    paced = Paced().say(["one ", "two"]).finish()
    messages_api.script = paced.script
    gateway = new_gateway(DRAIN_SECONDS=10)
    await gateway.start_soon()
    body = {"content": "Hi", "id": "drained", "thread_id": "drained"}
    async with events(gateway, "/api/claude/stream", body) as stream:
        paced.gates[0].opened.set()
        await stream.until("message")
        last = stream.events[-1].id
        gateway.terminate()
        goodbye = (await stream.rest())[-1].frame
    assert (goodbye["type"], goodbye["reconnect_after_ms"] > 0) == ("goodbye", True)
    for path, sent in (("/api/claude/stream", body), ("/api/threads/drained/events", None)):
        async with gateway.http() as http:
            answer = await (http.get(path) if sent is None else http.post(path, json=sent))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    paced.open_all()
    assert await gateway.exited() == 0
    await gateway.restart()
    async with events(gateway, "/api/claude/stream", body, last=last) as stream:
        rest = [event.frame for event in await stream.rest()]
    assert text_of(rest) == "two"
    assert rest[-1]["content"] == "one two"


# Pages of other origins


@pytest.mark.parametrize("path", ["/api/demo/stream", "/api/threads/t/events", "/query_stream", "/api/threads"])
async def test_a_listed_page_may_ask_across_origins_and_no_other(gateway: GatewayProcess, path: str) -> None:
    wanted = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,last-event-id",
    }
    async with gateway.http(None) as http:
        for origin in (PAGE, "http://127.0.0.1:3000"):
            answer = await http.options(path, headers={"Origin": origin, **wanted})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
            assert {"authorization", "content-type", "last-event-id"} <= allowed
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert "access-control-allow-credentials" not in answer.headers
        for origin in ("https://evil.example", "https://chat.example.evil", "http://chat.example", "null", gateway.url):
            answer = await http.options(path, headers={"Origin": origin, **wanted})
            assert answer.status_code == 400
            assert "access-control-allow-origin" not in answer.headers


async def test_answers_and_refusals_are_readable_for_listed_pages_alone(gateway: GatewayProcess) -> None:
    body = {"content": "/echo Hi"}
    async with events(gateway, "/api/demo/stream", body, headers={"Origin": PAGE}) as stream:
        assert stream.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in stream.headers["vary"]
        await stream.rest()
    async with gateway.http() as http:
        answer = await http.post("/api/nobody/stream", json=body, headers={"Origin": PAGE})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, PAGE)
        answer = await http.post("/api/demo/stream", json=body, headers={"Origin": "https://evil.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert "access-control-allow-origin" not in answer.headers


def test_the_reader_of_these_tests_is_strict() -> None:
    source = object.__new__(EventSource)
    source.comments = []
    assert source._parsed('id: 1:2\ndata: {"a":1}') == Event(json.dumps({"a": 1}, separators=(",", ":")), "1:2")
    for wrong in ("data:x", "event: x", "data: x\ndata: y"):
        with pytest.raises(AssertionError):
            source._parsed(wrong)
