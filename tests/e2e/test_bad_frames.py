"""Whatever a client sends, it is told what was wrong with it, and nothing else is disturbed."""

import asyncio
import json
import random
import time
from typing import Any

import pytest

from tests.client import Client
from tests.e2e.conftest import NewClient
from tests.server import GatewayProcess

BAD: list[tuple[str, str | None]] = [
    ("", None),
    ("{", None),
    ("null", None),
    ("[]", None),
    ('"message"', None),
    ("\ufeff{}", None),
    ('{"type":"ping","nonce":NaN}', None),
    ('{"type":"ping","nonce":' + "9" * 10_000 + "}", None),
    ('{"type":"ping","x":' + "[" * 100_000 + "]" * 100_000 + "}", None),
    ('{"type":"ping","x":' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "}", None),
    ("{}", "type"),
    ('{"type":null}', "type"),
    ('{"type":["ping"]}', "type"),
    ('{"type":"done"}', "type"),
    ('{"type":"message"}', "content"),
    ('{"type":"message","content":""}', "content"),
    ('{"type":"message","content":" \\n "}', "content"),
    ('{"type":"message","content":5}', "content"),
    ('{"type":"message","content":"Hi","id":""}', "id"),
    ('{"type":"message","content":"Hi","id":"' + "x" * 129 + '"}', "id"),
    ('{"type":"message","content":"Hi","thread_id":"../etc"}', "thread_id"),
    ('{"type":"message","content":"Hi","attachments":[{}]}', "attachments.0.id"),
    ('{"type":"message","content":"Hi","when_busy":"now"}', "when_busy"),
    ('{"type":"attach"}', "thread_id"),
    ('{"type":"attach","thread_id":{}}', "thread_id"),
    ('{"type":"detach"}', "thread_id"),
    ('{"type":"cancel"}', "turn_id"),
    ('{"type":"cancel","thread_id":"t","turn_id":"u"}', "turn_id"),
    ('{"type":"approval","decision":"approved"}', "approval_id"),
    ('{"type":"seen","thread_id":"t"}', "message_id"),
    ('{"type":"auth"}', "token"),
    ('{"type":"ping","nonce":[]}', "nonce"),
    ('{"type":"ping","nonce":1' + "0" * 400 + "}", "nonce"),
]


@pytest.fixture
async def client(gateway: GatewayProcess, new_client: NewClient) -> Client:
    client = new_client(gateway)
    await client.connect()
    return client


async def test_every_bad_frame_gets_an_error_that_names_the_field_while_a_turn_goes_on(client: Client) -> None:
    accepted = await client.message("/pieces 400 0.002", thread_id="undisturbed")
    for text, field in BAD:
        await client.send_text(text)
        error = (await client.receive(until="error"))[-1]
        assert error["code"] == "bad_frame", text[:60]
        assert error.get("field") == field, text[:60]
        assert error["retryable"] is False
        assert field is None or field in error["message"] or "cancel" in error["message"]
        assert len(error["message"]) < 300
    await client.socket.send(b"\x00\x01binary")
    assert (await client.receive(until="error"))[-1]["code"] == "bad_frame"
    await client.socket.send(json.dumps({"type": "ping"}).encode())
    assert "binary" in (await client.receive(until="error"))[-1]["message"]
    done = await client.finish(accepted["turn_id"])  # the client checks that its text has no gap
    assert done["status"] == "completed"
    assert done["content"].split() == [str(number) for number in range(1, 401)]


async def test_a_refused_message_is_told_by_its_id(client: Client) -> None:
    for text in ('{"type":"message","id":"mine"}', '{"type":"message","id":"mine","content":7}'):
        await client.send_text(text)
        error = (await client.receive(until="error"))[-1]
        assert (error["id"], error["field"]) == ("mine", "content")


async def test_what_is_odd_but_right_is_taken(client: Client) -> None:
    frames: list[tuple[str, Any]] = [
        ('{"type":"ping","nonce":1,"nonce":2}', 2),
        ('  {"nonce" : "x" , "type":"ping" }\n', "x"),
        ('{"type":"ping","nonce":"\\ud83d\\ude00","unknown":{"a":[1e308]}}', "😀"),
        ('{"type":"ping","nonce":"\\ud800\\u0000"}', "\ufffd\ufffd"),
        ('{"type":"ping","nonce":18446744073709551615}', 2**64 - 1),
        ('{"type":"ping"}', None),
    ]
    for text, nonce in frames:
        await client.send_text(text)
        assert (await client.receive(until="pong"))[-1]["nonce"] == nonce


async def test_unstorable_text_in_a_message_becomes_replacement_characters_everywhere(client: Client) -> None:
    await client.send_text('{"type":"message","content":"/echo a\\u0000b\\ud800c","thread_id":"odd"}')
    accepted = (await client.receive(until="accepted"))[-1]
    done = await client.finish(accepted["turn_id"])
    assert done["content"] == "a\ufffdb\ufffdc"
    (asked,) = [f for f in client.frames if f["type"] == "user_message"]
    assert asked["content"] == "/echo a\ufffdb\ufffdc"


async def test_unknown_ids_are_refused_by_name_of_the_field(client: Client) -> None:
    for frame, field in (
        ({"type": "attach", "thread_id": "nowhere"}, "thread_id"),
        ({"type": "attach", "thread_id": "\x00"}, "thread_id"),
        ({"type": "detach", "thread_id": "nowhere"}, "thread_id"),
        ({"type": "cancel", "thread_id": "nowhere"}, "thread_id"),
        ({"type": "cancel", "turn_id": "nothing"}, "turn_id"),
        ({"type": "approval", "approval_id": "nothing", "decision": "approved"}, "approval_id"),
        ({"type": "seen", "thread_id": "nowhere", "message_id": "nothing"}, "message_id"),
    ):
        await client.send_text(json.dumps(frame))
        error = (await client.receive(until="error"))[-1]
        assert (error["code"], error["field"]) == ("not_found", field)


async def test_a_frame_of_the_limit_is_taken_and_one_byte_more_closes_with_1009(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    client = new_client(gateway)
    ready = await client.connect()
    limit = ready["limits"]["client_frame_bytes"]
    frame = '{"type":"ping","nonce":1,"x":"%s"}'
    room = limit - len(frame) + 2
    await client.send_text(frame % ("x" * room))
    assert (await client.receive(until="pong"))[-1]["nonce"] == 1
    await client.send_text(frame % ("x" * (room + 1)))
    assert (await client.closed()).code == 1009


async def test_a_turn_outlives_the_connection_that_broke_the_limit(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    client, witness = new_client(gateway), new_client(gateway)
    ready = await client.connect()
    accepted = await client.message("/pieces 100 0.005", thread_id="survives")
    await witness.connect()
    await witness.attach("survives", accepted["cursor"])
    await client.send_text("x" * (ready["limits"]["client_frame_bytes"] + 1))
    assert (await client.closed()).code == 1009
    assert (await witness.finish(accepted["turn_id"]))["status"] == "completed"


async def test_a_burst_of_bad_frames_is_answered_one_by_one_without_harm_to_others(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    noisy, other = new_client(gateway), new_client(gateway)
    await noisy.connect()
    await other.connect()

    async def make_noise() -> None:
        for number in range(2_000):
            await noisy.send_text('{"type":"nonsense"}' if number % 2 else "{")

    async def listen() -> None:
        for _ in range(2_000):
            await noisy.receive(until="error", within=30)

    async with asyncio.TaskGroup() as group:
        group.create_task(make_noise())
        group.create_task(listen())
        accepted = await other.message("/pieces 50 0.002", thread_id="calm")
        assert (await other.finish(accepted["turn_id"]))["status"] == "completed"


async def test_random_frames_never_end_the_connection(client: Client) -> None:
    chance = random.Random(int(time.time()) // 86_400)
    words = ['"type":"ping"', '"type":"message"', '"content":"Hi"', '"content":7', '"id":"x"', '"thread_id":"r"']
    words += ["{", "}", ",", "[", "]", "null", '"nonce":1', "\x00", "é", '"\\ud800"', "1e999"]
    for _ in range(300):
        inner = ",".join(chance.choices(words, k=chance.randrange(5)))
        await client.send_text("{" + inner + "}" if chance.random() < 0.7 else inner)
    nonce = "still here"
    await client.send("ping", nonce=nonce)
    await client.receive(until=lambda f: f["type"] == "pong" and f["nonce"] == nonce, within=20)
