"""SIGTERM: what runs may end, clients are told, and nothing that was shown is taken back."""

from __future__ import annotations

import asyncio

import pytest
from websockets.exceptions import InvalidStatus

from tests.client import place
from tests.e2e.conftest import NewClient, NewGateway
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import Gate, answer, text


async def test_a_running_turn_ends_while_the_gateway_drains(
    new_gateway: NewGateway, messages_api: MessagesApi, new_client: NewClient
) -> None:
    paced = Paced().say(["one ", "two ", "three"]).finish()
    messages_api.script = paced.script
    gateway = new_gateway(DRAIN_SECONDS=10)
    await gateway.start_soon()
    phone, lost = new_client(gateway, agent="claude"), new_client(gateway)
    await phone.connect()
    await lost.connect()
    accepted = await phone.message("Hi")
    thread_id, turn_id = accepted["thread_id"], accepted["turn_id"]
    await lost.attach(thread_id, accepted["cursor"])
    paced.gates[0].opened.set()
    await phone.receive(until="message")
    await lost.receive(until="message")
    await lost.abort()

    gateway.terminate()
    goodbye = (await phone.receive(until="goodbye"))[-1]
    assert 0 < goodbye["reconnect_after_ms"] <= 3000
    async with gateway.http(None) as http:
        assert (await http.get("/api/health/ready")).status_code == 503
        assert (await http.get("/api/health/live")).status_code == 200
    with pytest.raises(InvalidStatus) as refused:
        await new_client(gateway).connect()
    assert refused.value.response.status_code == 503
    await phone.send("message", content="one more", id="later")
    error = (await phone.receive(until="error"))[-1]
    assert (error["code"], error["retryable"], error["id"]) == ("draining", True, "later")

    paced.open_all()
    done = await phone.finish(turn_id)
    assert (done["status"], done["content"]) == ("completed", "one two three")
    assert (await phone.closed()).code == 1012
    assert await gateway.exited() == 0

    await gateway.restart()
    attached = await lost.resume(thread_id)
    assert attached["recovered"] is True
    assert await lost.finish(turn_id) == done
    assert lost.texts[turn_id] == "one two three"
    assert len(messages_api.calls) == 1


async def test_a_turn_that_takes_too_long_is_interrupted_and_resumed_exactly_without_a_new_epoch(
    new_gateway: NewGateway, messages_api: MessagesApi, new_client: NewClient
) -> None:
    never = Gate()
    messages_api.queue.append(answer(text("one ", "two ", "three", never, "never")))
    messages_api.script = answer(text("what waited"))
    gateway = new_gateway(DRAIN_SECONDS=0.3)
    await gateway.start_soon()
    phone, lost = new_client(gateway, agent="claude"), new_client(gateway)
    await phone.connect()
    await lost.connect()
    accepted = await phone.message("Hi")
    thread_id, turn_id = accepted["thread_id"], accepted["turn_id"]
    waiting = await phone.message("and then", thread_id=thread_id)
    await lost.attach(thread_id, accepted["cursor"])
    await lost.receive(until="message")
    await lost.abort()
    async with asyncio.timeout(5):
        await never.reached.wait()

    gateway.terminate()
    done = await phone.finish(turn_id)
    assert (done["status"], done["content"]) == ("interrupted", "one two three")
    assert done["error"]["retryable"] is True
    assert (await phone.closed()).code == 1012
    assert await gateway.exited() == 0

    await gateway.restart()
    attached = await lost.resume(thread_id)
    assert attached["recovered"] is True
    assert place(attached["cursor"])[0] == place(accepted["cursor"])[0], "the epoch is the same"
    assert await lost.finish(turn_id) == done
    assert (await lost.finish(waiting["turn_id"]))["content"] == "what waited"
    assert [call.question for call in messages_api.calls] == ["Hi", "and then"]


async def test_a_gateway_with_nothing_to_do_stops_at_once(new_gateway: NewGateway, new_client: NewClient) -> None:
    gateway = new_gateway(DRAIN_SECONDS=30)
    await gateway.start_soon()
    phone = new_client(gateway)
    await phone.connect()
    gateway.terminate()
    assert (await phone.closed(within=3)).code == 1012
    assert phone.frames[-1]["type"] == "goodbye"
    assert await gateway.exited(within=5) == 0
