"""`GET /metrics` of a real gateway: what it shows, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import NewClient
from tests.server import TOKENS, GatewayProcess

OWNERS = {"Authorization": "Bearer token-of-owner"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(
        tmp_path_factory.mktemp("gateway"),
        {"AUTH__TOKENS": {**TOKENS, "owner": "token-of-owner"}, "DRAIN_SECONDS": "0", "SEND_SECONDS": "60"},
    )
    process.start()
    yield process
    process.stop_now()


async def scrape(gateway: GatewayProcess, **headers: str) -> httpx2.Response:
    async with gateway.http(None) as http:
        return await http.get("/metrics", headers=headers)


async def metric(gateway: GatewayProcess, name: str, **labels: str) -> float:
    text = (await scrape(gateway)).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


async def test_a_turn_its_client_and_its_push_are_counted(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/pieces 50")
    await phone.finish(accepted["turn_id"])
    assert await metric(gateway, "agentline_connections", agent="demo") == 1
    assert await metric(gateway, "agentline_turns_total", agent="demo", outcome="completed") == 1
    assert await metric(gateway, "agentline_turns_running") == 0
    assert await metric(gateway, "agentline_first_piece_seconds_count", agent="demo") == 1
    assert await metric(gateway, "agentline_piece_gap_seconds_count", agent="demo") == 49
    assert await metric(gateway, "agentline_pushes_total", platform="none", outcome="no_devices") == 1
    async with gateway.http() as http:
        await http.put("/api/devices/topic", json={"platform": "ntfy", "token": "topic"})
    accepted = await phone.message("/error overloaded")
    await phone.finish(accepted["turn_id"])
    assert await metric(gateway, "agentline_outbox_pushes", platform="ntfy") == 1
    assert await metric(gateway, "agentline_provider_errors_total", agent="demo", code="overloaded") == 1


async def test_frames_joined_for_a_slow_reader_are_counted(gateway: GatewayProcess, new_client: NewClient) -> None:
    before = await metric(gateway, "agentline_frames_joined_total")
    accepted = await gateway.post("/api/demo/messages", {"content": "/long 2000"})
    thread_id, turn_id = accepted.json()["thread_id"], accepted.json()["turn_id"]
    async with asyncio.timeout(10):
        while (await gateway.get(f"/api/turns/{turn_id}"))["status"] == "running":  # noqa: ASYNC110  another process ends it
            await asyncio.sleep(0.02)
    phone = new_client(gateway)
    await phone.connect()
    await phone.attach(thread_id)
    cursor = (await phone.receive(until="snapshot"))[-1]["cursor"]
    late = new_client(gateway)
    await late.connect()
    attached = await late.attach(thread_id, f"{cursor.partition(':')[0]}:1")
    assert attached["recovered"] is True
    await late.finish(turn_id)
    assert await metric(gateway, "agentline_frames_joined_total") > before
    assert await metric(gateway, "agentline_resumes_total", result="exact") == 1


async def test_whoever_is_not_on_this_machine_needs_the_owners_token(gateway: GatewayProcess) -> None:
    assert (await scrape(gateway)).status_code == 200
    for passed_on in (
        {"X-Forwarded-For": "203.0.113.7"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-Host": "localhost"},
        {"X-Real-IP": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
        {"Via": "1.1 proxy"},
        {"Host": "chat.example.org"},
    ):
        assert (await scrape(gateway, **passed_on)).status_code == 401, passed_on
        alice = {"Authorization": f"Bearer {TOKENS['alice']}"}
        assert (await scrape(gateway, **passed_on, **alice)).status_code == 403, passed_on
        assert (await scrape(gateway, **passed_on, **OWNERS)).status_code == 200, passed_on
