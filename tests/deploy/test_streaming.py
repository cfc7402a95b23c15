"""What passes through the proxies unchanged and at once: sockets, streams, files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from tests.client import Closed
from tests.deploy.conftest import NewClient, NewGateway, NewProxy
from tests.deploy.proxies import Proxy
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.server import TOKENS, GatewayProcess

PIECES = [f"[{n}]" for n in range(12)]
"""Each is made only when the one before has been seen."""
HELD_BACK_SECONDS = 2.0
"""After this long a piece counts as held back."""
BUFFERED = {
    "    proxy_http_version 1.1;\n": "    proxy_http_version 1.0;\n",
    "        proxy_buffering off;\n": "        proxy_buffering on;\n        proxy_ignore_headers X-Accel-Buffering;\n",
}
"""What nginx does by itself, and without regard to what the gateway asks for. (With HTTP/1.1 towards the gateway, nginx
passes a chunk on when it is complete, whatever `proxy_buffering` says.)"""
HEARTBEAT_SECONDS = 0.3


async def read_piece_by_piece(proxy: Proxy, messages_api: MessagesApi, thread_id: str) -> None:
    """A turn as server-sent events. Raises a timeout when a piece is held back."""
    paced = Paced().say(PIECES).finish()
    messages_api.script = paced.script
    body = {"content": "Hi", "thread_id": thread_id}
    async with proxy.events("/api/claude/stream", body, within=HELD_BACK_SECONDS) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for gate, piece in zip(paced.gates, PIECES, strict=False):
            gate.opened.set()
            assert (await stream.until("message", within=HELD_BACK_SECONDS))["content"] == piece
        paced.open_all()
        await stream.rest()
    assert stream.frames[-1]["content"] == paced.text


async def test_text_arrives_on_a_socket_while_the_rest_is_not_yet_made(
    proxy: Proxy, messages_api: MessagesApi, new_client: NewClient
) -> None:
    paced = Paced().say(PIECES).finish()
    messages_api.script = paced.script
    phone = new_client(proxy, browser=True, agent="claude")
    await phone.connect()
    assert phone.socket.subprotocol == "agentline.v1"
    accepted = await phone.message("Hi")
    for gate, piece in zip(paced.gates, PIECES, strict=False):
        gate.opened.set()
        assert (await phone.receive(until="message", within=HELD_BACK_SECONDS))[-1]["content"] == piece
    paced.open_all()
    assert (await phone.finish(accepted["turn_id"]))["content"] == paced.text


async def test_text_arrives_as_server_sent_events_while_the_rest_is_not_yet_made(
    proxy: Proxy, messages_api: MessagesApi
) -> None:
    await read_piece_by_piece(proxy, messages_api, f"pieces-{proxy.name}")


async def test_a_proxy_that_buffers_is_found_out(
    gateway: GatewayProcess, new_proxy: NewProxy, messages_api: MessagesApi
) -> None:
    buffering = new_proxy("nginx", [gateway.url], BUFFERED)
    with pytest.raises((TimeoutError, httpx2.ReadTimeout)):
        await read_piece_by_piece(buffering, messages_api, "buffered")


async def test_a_thread_is_followed_piece_by_piece_and_taken_up_where_its_reader_left_it(
    proxy: Proxy, messages_api: MessagesApi
) -> None:
    paced = Paced().say(PIECES).finish()
    messages_api.script = paced.script
    thread_id = f"followed-{proxy.name}"
    path = f"/api/threads/{thread_id}/events"
    async with proxy.http() as http:
        sent = await http.post("/api/claude/messages", json={"content": "Hi", "thread_id": thread_id})
        assert sent.status_code == 202
    await asyncio.wait_for(paced.gates[0].reached.wait(), 10)
    last, seen = None, ""
    for gate, piece in zip(paced.gates, PIECES, strict=False):  # every piece by a reader of its own
        async with proxy.events(path, last=last) as reader:
            attached = await reader.until("attached")
            if last is not None:
                assert attached["recovered"] is True
            gate.opened.set()
            assert (await reader.until("message", within=HELD_BACK_SECONDS))["content"] == piece
            last, seen = reader.events[-1].id, seen + piece
    async with proxy.events(path, last=last) as reader:
        paced.open_all()
        done = await reader.until("done")
    assert seen == done["content"] == paced.text
    assert len(messages_api.calls) == 1


async def test_frames_of_every_allowed_size_pass(proxy: Proxy, new_client: NewClient) -> None:
    phone = new_client(proxy)
    await phone.connect()
    words = "word " * ((phone.ready["limits"]["client_frame_bytes"] - 2000) // 5)
    accepted = await phone.message(f"/echo {words}")
    done = await phone.finish(accepted["turn_id"])
    assert done["content"] == words.strip()
    accepted = await phone.message("/long 100000")
    done = await phone.finish(accepted["turn_id"], within=20)
    assert len(done["content"]) > 400_000


async def test_close_codes_and_refusals_are_the_gateway_s(
    proxy: Proxy, new_proxy: NewProxy, new_gateway: NewGateway, new_client: NewClient
) -> None:
    for client, code in (
        (new_client(proxy, token="wrong", browser=True), 4501),
        (new_client(proxy, agent="nobody"), 4504),
    ):
        with pytest.raises(Closed) as closed:
            await client.connect()
        assert closed.value.code == code
    with pytest.raises(InvalidStatus) as refused:
        await new_client(proxy, token="wrong").connect()
    assert refused.value.response.status_code == 401
    gateway = new_gateway(LIMITS__CLIENT_FRAME_BYTES="1024", DRAIN_SECONDS="0")
    strict = new_proxy(proxy.name, [gateway.url])
    talks_too_much, stays = new_client(strict), new_client(strict)
    await talks_too_much.connect()
    await stays.connect()
    await talks_too_much.send_text("x" * 1025)
    assert (await talks_too_much.closed()).code == 1009
    gateway.terminate()
    assert (await stays.closed()).code == 1012
    assert stays.frames[-1]["type"] == "goodbye"


@pytest.mark.parametrize("told", [True, False], ids=["with-length", "in-chunks"])
async def test_a_file_of_19_mb_goes_up_and_comes_back(proxy: Proxy, told: bool) -> None:
    content = b"\x89PNG\r\n\x1a\n" + os.urandom(19_000_000)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    async with proxy.http(timeout=30) as http:
        answer = await http.post("/api/attachments", content=content if told else pieces())
        assert answer.status_code == 201, answer.text
        assert answer.json()["size"] == len(content)
        back = await http.get(f"/api/attachments/{answer.json()['id']}")
        assert back.content == content


@pytest.mark.parametrize("size", [21 * 1024**2, 23 * 1024**2, 100 * 1024**2])
async def test_a_file_that_is_too_large_is_refused_in_the_form_that_clients_know(proxy: Proxy, size: int) -> None:
    head, body = await asyncio.to_thread(refused_upload, proxy, size)
    assert head.split()[1] == "413"
    assert "content-type: application/json" in head.lower()
    assert json.loads(body)["error"]["code"] == "too_large"


def refused_upload(proxy: Proxy, size: int) -> tuple[str, str]:
    """Head and body of the answer to a file that is sent on and on while the answer is awaited."""
    head = (
        f"POST /api/attachments HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\nConnection: close\r\n"
        f"Authorization: Bearer {TOKENS['alice']}\r\nContent-Length: {size}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as line:
        line.sendall(head.encode())

        def send() -> None:
            with contextlib.suppress(OSError):
                for _ in range(size // 65536):
                    line.sendall(b"\x89PNG\r\n\x1a\n" + bytes(65536 - 8))

        sending = threading.Thread(target=send)
        sending.start()
        got = b""
        with contextlib.suppress(ConnectionResetError):  # what came before it has been read
            while chunk := line.recv(65536):
                got += chunk
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        sending.join(10)
    answer, _, rest = got.partition(b"\r\n\r\n")
    return answer.decode(), rest[rest.index(b"{") : rest.rindex(b"}") + 1].decode()


@pytest.mark.parametrize("name", ["nginx", "caddy"])
async def test_a_socket_and_a_stream_on_which_nothing_is_said_live_by_the_heartbeat(
    name: str, new_gateway: NewGateway, new_proxy: NewProxy, new_client: NewClient
) -> None:
    """A heartbeat of 20 s against ten minutes of patience, both made shorter: ten beats are more than the patience."""
    gateway = new_gateway(HEARTBEAT_SECONDS=HEARTBEAT_SECONDS)
    shorter = {"proxy_read_timeout 10m;": "proxy_read_timeout 1500ms;"} if name == "nginx" else {}
    proxy = new_proxy(name, [gateway.url], shorter)
    await stay_silent(proxy, new_client, beats=10)


async def test_a_proxy_less_patient_than_the_heartbeat_is_found_out(
    new_gateway: NewGateway, new_proxy: NewProxy, new_client: NewClient
) -> None:
    gateway = new_gateway(HEARTBEAT_SECONDS=HEARTBEAT_SECONDS)
    impatient = new_proxy("nginx", [gateway.url], {"proxy_read_timeout 10m;": "proxy_read_timeout 150ms;"})
    with pytest.raises(Closed):
        await stay_silent(impatient, new_client, beats=3)


async def stay_silent(proxy: Proxy, new_client: NewClient, beats: int) -> None:
    """A socket and a stream, for as long as the gateway needs for so many heartbeats. Raises Closed if one is cut."""
    phone = new_client(proxy)
    await phone.connect()
    accepted = await phone.message("/echo something")
    await phone.finish(accepted["turn_id"])
    await phone.quiet()
    async with proxy.events(f"/api/threads/{accepted['thread_id']}/events") as stream:
        await stream.until("snapshot")
        reading = asyncio.create_task(phone.next(within=30))  # answers the pings meanwhile
        try:
            for _ in range(beats):
                if reading.done():
                    await reading
                assert await stream.comment() == "heartbeat"
        except httpx2.RemoteProtocolError as cut:
            raise Closed(1006, "the stream was cut") from cut
        finally:
            reading.cancel()
            await asyncio.wait([reading])
    await phone.quiet()
