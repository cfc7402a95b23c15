"""The two older front ends: their very requests get their documented answers, byte for byte, piece by piece."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.e2e.conftest import NewGateway, agents_for
from tests.e2e.eventsource import events
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import Pieces, Status, answer, end, start, text
from tests.server import GatewayProcess

QUERY_STREAM = "/query_stream"
PROJECT = "/projects/p-7/threads/{}/query/stream"


def question(content: str, **further: Any) -> dict[str, Any]:
    return {"question": content, "user_id": "alice", "user_timezone": "Europe/Berlin", **further}


@pytest.fixture(scope="module")
def gateway_environment(upstream_port: int) -> dict[str, Any]:
    return {"AGENTS": agents_for(upstream_port), "COMPAT__AGENT": "claude", "HEARTBEAT_SECONDS": 60}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway in a closed network, whose front ends speak to the demo agent and are believed."""
    process = GatewayProcess(
        tmp_path_factory.mktemp("trusting"),
        {"COMPAT__AGENT": "demo", "COMPAT__TRUST_USER_ID": "true", "DRAIN_SECONDS": "0", "HEARTBEAT_SECONDS": 60},
    )
    process.start()
    yield process
    process.stop_now()


async def test_query_stream_answers_in_its_bytes_while_the_upstream_is_still_sending(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    paced = Paced().think(["hm"]).say(["Grüße, ", 'say "hi"\n', "👋🏽"]).finish()
    messages_api.script = paced.script
    async with events(gateway, QUERY_STREAM, question("Hi")) as stream:
        paced.gates[0].opened.set()
        for gate, data in zip(
            paced.gates[1:], ['{"chunk": "Grüße, "}', '{"chunk": "say \\"hi\\"\\n"}', '{"chunk": "👋🏽"}'], strict=False
        ):
            gate.opened.set()
            event = await stream.next()
            assert event is not None
            assert event.data == data
        paced.open_all()
        await stream.rest()
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["x-accel-buffering"] == "no"
    assert stream.raw.decode() == (
        'data: {"chunk": "Grüße, "}\n\n'
        'data: {"chunk": "say \\"hi\\"\\n"}\n\n'
        'data: {"chunk": "👋🏽"}\n\n'
        'data: {"done": true}\n\n'
    )


async def test_the_project_route_answers_in_its_bytes_while_the_upstream_is_still_sending(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    paced = Paced().say(["one ", "two"]).finish()
    messages_api.script = paced.script
    body = {"query": "Hi", "model": "whatever", "stream": True}
    async with events(gateway, PROJECT.format("new-thread"), body) as stream:
        for gate, data in zip(paced.gates, ("one ", "two"), strict=False):
            gate.opened.set()
            event = await stream.next()
            assert event is not None
            assert event.data == f'{{"type":"chunk","content":"{data}"}}'
        paced.open_all()
        await stream.rest()
    assert stream.raw == (
        b'data: {"type":"chunk","content":"one "}\n\n'
        b'data: {"type":"chunk","content":"two"}\n\n'
        b'data: {"type":"done"}\n\n'
    )
    thread = await gateway.get("/api/threads/new-thread")
    assert (thread["agent"], thread["last_message"]["content"]) == ("claude", "one two")


async def test_an_answer_that_comes_in_one_piece_is_one_chunk(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    messages_api.script = answer(text("All at once."))
    async with events(gateway, QUERY_STREAM, question("Hi")) as stream:
        await stream.rest()
    assert stream.raw == b'data: {"chunk": "All at once."}\n\ndata: {"done": true}\n\n'


async def test_an_error_of_the_agent_is_an_error_event_and_then_done(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    messages_api.script = [Status(401)]
    async with events(gateway, QUERY_STREAM, question("Hi")) as stream:
        seen = await stream.rest()
    assert [event.data[:11] for event in seen] == ['{"error": "', '{"done": tr']
    assert "sk-secret" not in stream.raw.decode()
    messages_api.script = [Status(401)]
    async with events(gateway, PROJECT.format("fails"), {"query": "Hi"}) as stream:
        seen = await stream.rest()
    assert seen[0].data.startswith('{"type":"error","message":"')
    assert seen[1].data == '{"type":"done"}'


async def test_a_thread_goes_on_where_it_was(gateway: GatewayProcess, messages_api: MessagesApi) -> None:
    for said in ("first", "second"):
        messages_api.script = answer(text(said))
        async with events(gateway, QUERY_STREAM, question("Hi", thread_id="goes-on")) as stream:
            await stream.rest()
        assert stream.raw.startswith(f'data: {{"chunk": "{said}"}}'.encode())
    messages = (await gateway.get("/api/threads/goes-on/messages"))["messages"]
    assert [message["content"] for message in messages] == ["Hi", "first", "Hi", "second"]


async def test_a_closed_page_leaves_the_turn_running(gateway: GatewayProcess, messages_api: MessagesApi) -> None:
    messages_api.script = [*start(), Pieces(5, 0.1), *end()]
    async with events(gateway, QUERY_STREAM, question("Hi", thread_id="closed")) as stream:
        await stream.next()
    async with asyncio.timeout(10):
        while (await gateway.get("/api/threads/closed"))["status"] != "idle":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    assert (await gateway.get("/api/threads/closed"))["last_message"]["content"] == "word " * 5


@pytest.mark.parametrize("path", [QUERY_STREAM, PROJECT.format("t")])
async def test_they_want_a_token_and_the_user_is_the_tokens(
    gateway: GatewayProcess, messages_api: MessagesApi, path: str
) -> None:
    body = question("Hi", query="Hi", thread_id="t") | {"user_id": "bob"}
    assert (await gateway.post(path, body, user=None)).status_code == 401
    messages_api.script = answer(text("For Alice."))
    async with events(gateway, path, body, user="alice") as stream:
        await stream.rest()
    assert (await gateway.get("/api/threads/t", "alice"))["last_message"]["content"] == "For Alice."
    async with gateway.http("bob") as http:
        assert (await http.get("/api/threads/t")).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (QUERY_STREAM, {"user_id": "alice"}, "question"),
        (QUERY_STREAM, question(" "), "question"),
        (QUERY_STREAM, question("Hi", thread_id="not a name"), "thread_id"),
        (QUERY_STREAM, question("Hi", user_id=["alice"]), "user_id"),
        (PROJECT.format("t"), {"question": "Hi"}, "query"),
        (PROJECT.format("not%20a%20name"), {"query": "Hi"}, "thread_id"),
    ],
)
async def test_a_request_that_does_not_fit_is_an_http_error(
    gateway: GatewayProcess, path: str, body: Any, field: str
) -> None:
    refused = await gateway.post(path, body)
    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["field"]) == ("bad_request", field)


async def test_trusted_front_ends_name_the_user_themselves(demo: GatewayProcess) -> None:
    for body in (question("/echo Hi", thread_id="trusted"), question("/echo Hi", user_id=42, thread_id=17)):
        async with events(demo, QUERY_STREAM, body, user=None) as stream:
            await stream.rest()
        assert stream.raw == b'data: {"chunk": "Hi"}\n\ndata: {"done": true}\n\n'
    assert (await demo.get("/api/threads/trusted"))["last_message"]["content"] == "Hi"
    project = {"query": "/echo Hi", "user_id": "alice"}
    async with events(demo, PROJECT.format("trusted"), project, user=None) as stream:
        await stream.rest()
    assert stream.raw.endswith(b'data: {"type":"done"}\n\n')
    assert len((await demo.get("/api/threads/trusted/messages"))["messages"]) == 4
    nobody = await demo.post(QUERY_STREAM, {"question": "Hi"}, user=None)
    assert (nobody.status_code, nobody.json()["error"]["field"]) == (400, "user_id")
    async with demo.http(None) as http:
        foreign = await http.post(QUERY_STREAM, json=question("Hi"), headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert (await demo.post("/api/demo/messages", {"content": "Hi"}, user=None)).status_code == 401


async def test_text_that_is_taken_back_is_followed_by_what_stands_instead(demo: GatewayProcess) -> None:
    async with events(demo, PROJECT.format("reset"), {"query": "/echo one\n/reset item", "user_id": "alice"}) as stream:
        seen = "".join(event.frame.get("content", "") for event in await stream.rest())
    message = (await demo.get("/api/threads/reset"))["last_message"]
    assert message["content"].startswith("one\n\n")
    assert seen.endswith(message["content"].removeprefix("one"))


async def test_an_agent_that_cannot_answer_is_an_error_event_and_then_done(new_gateway: NewGateway) -> None:
    gateway = new_gateway(AGENTS={"claude": {"api_key": ""}})
    await gateway.start_soon()
    async with events(gateway, QUERY_STREAM, question("Hi")) as stream:
        seen = await stream.rest()
    assert stream.headers["cache-control"] == "no-store"
    assert [event.data[:11] for event in seen] == ['{"error": "', '{"done": tr']
