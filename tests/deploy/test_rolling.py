"""Two gateways behind a proxy, one of which stops: what had not reached it does not fail.

They are two single nodes here, each with users and threads of its own, so nothing is resumed on the other.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.client import Client
from tests.deploy.conftest import NewClient, NewGateway, NewProxy
from tests.deploy.proxies import IMPATIENT, PROXIES, Proxy
from tests.server import GatewayProcess

NOT_DONE = {"nginx": ("draining",), "caddy": ("draining", "unavailable")}
"""Refusals of a POST without any work done, after which clients send it again. With Caddy one for each gateway that
is gone, before Caddy knows."""
PIECES, PACE = 40, 0.05
TEXT = "".join(f"{n} " for n in range(1, PIECES + 1))


async def both_in_use(
    proxy: Proxy, gateways: list[GatewayProcess], new_client: NewClient, count: int = 8
) -> list[Client]:
    """Open sockets, until both gateways have some."""
    clients = [new_client(proxy) for _ in range(count)]
    for client in clients:
        await client.connect()
    assert all(len(gateway.events("socket_opened")) >= count // 4 for gateway in gateways), "both have their share"
    return clients


async def ask(proxy: Proxy, over: asyncio.Event, outcomes: Counter[str]) -> None:
    """GETs and POSTs, one after another, until it is over. A POST that was refused is sent again."""
    number = 0
    async with proxy.http() as http:
        while not over.is_set():
            number += 1
            listed = await http.get("/api/agents")
            outcomes[f"GET {listed.status_code}"] += 1
            body = {"content": "/echo Hi", "id": f"message-{number}"}
            for _ in range(50):
                sent = await http.post("/api/demo/messages", json=body)
                outcomes[f"POST {sent.status_code}"] += 1
                if sent.status_code != 503:
                    break
                assert sent.json()["error"]["code"] in NOT_DONE[proxy.name], sent.text
                await asyncio.sleep(0.02)


async def connect(proxy: Proxy, over: asyncio.Event, outcomes: Counter[str], new_client: NewClient) -> None:
    """Sockets and event streams, one after another. One that is refused raises."""
    while not over.is_set():
        phone = new_client(proxy)
        await phone.connect()
        outcomes["socket"] += 1
        await phone.close()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", sorted(PROXIES))
async def test_no_request_fails_that_has_not_reached_the_gateway_that_stops(
    name: str, new_gateway: NewGateway, new_proxy: NewProxy, new_client: NewClient
) -> None:
    leaving, staying = gateways = [new_gateway(), new_gateway()]
    proxy = new_proxy(name, [gateway.url for gateway in gateways])
    phones = await both_in_use(proxy, gateways, new_client)
    turns = [await phone.message(f"/pieces {PIECES} {PACE}") for phone in phones]
    for phone in phones:
        await phone.receive(until="message")

    over, outcomes = asyncio.Event(), Counter[str]()
    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        group.create_task(ask(proxy, over, outcomes))
        group.create_task(connect(proxy, over, outcomes, new_client))
        leaving.terminate()
        # What runs goes on to its end, on the gateway that stops as well.
        for phone, turn in zip(phones, turns, strict=True):
            done = await phone.finish(turn["turn_id"])
            assert (done["status"], done["content"]) == ("completed", TEXT)
        told = [phone for phone in phones if any(frame["type"] == "goodbye" for frame in phone.frames)]
        assert 0 < len(told) < len(phones)
        assert await leaving.exited() == 0
        before = sum(outcomes.values())
        while sum(outcomes.values()) < before + 100:  # noqa: ASYNC110 - what the others count
            await asyncio.sleep(0.01)
        over.set()

    assert set(outcomes) <= {"GET 200", "POST 202", "POST 503", "socket"}, outcomes
    assert outcomes["POST 503"] <= outcomes["POST 202"], outcomes
    opened = len(staying.events("socket_opened"))
    for phone in told:
        assert (await phone.closed()).code == 1012
        await phone.connect()
    assert len(staying.events("socket_opened")) == opened + len(told)


@pytest.mark.parametrize("name", sorted(PROXIES))
async def test_a_gateway_that_died_costs_no_request(
    name: str, new_gateway: NewGateway, new_proxy: NewProxy, new_client: NewClient
) -> None:
    dead, alive = gateways = [new_gateway(), new_gateway()]
    proxy = new_proxy(name, [gateway.url for gateway in gateways])
    await both_in_use(proxy, gateways, new_client, 4)
    await dead.kill()
    refused = 0
    async with proxy.http() as http:
        for number in range(20):
            body = {"content": "/echo Hi", "id": f"message-{number}"}
            while (sent := await http.post("/api/demo/messages", json=body)).status_code == 503:
                assert sent.json()["error"]["retryable"] is True
                refused += 1
            assert sent.status_code == 202, sent.text
    assert refused <= (1 if "unavailable" in NOT_DONE[name] else 0)
    assert len(alive.events("turn_accepted")) == 20


@pytest.mark.parametrize("name", sorted(PROXIES))
async def test_with_no_gateway_left_clients_are_told_to_come_back(
    name: str, new_gateway: NewGateway, new_proxy: NewProxy
) -> None:
    gateway = new_gateway()
    proxy = new_proxy(name, [gateway.url], IMPATIENT[name])
    await gateway.stop()
    async with proxy.http(event_hooks={}) as http:
        answer = await http.get("/api/agents")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert (error["code"], error["retryable"]) == ("unavailable", True)
