"""The push where something goes wrong: the gateway is killed, a push service is dead, no text may leave the house."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path

import pytest

from tests.client import Client
from tests.e2e.conftest import NewGateway
from tests.e2e.push_house import PLATFORMS, House, eventually, push_house
from tests.fakes.apns import BlackHole
from tests.server import MODULE, TOKENS

SECRET = "Rosebud"


FORGETTING_BEFORE_SENDING = """
import sys
from gateway.store.sqloutbox import SqlOutbox
lease = SqlOutbox.lease
async def broken(self, platform, *, now, until, limit):
    rows = await lease(self, platform, now=now, until=until, limit=limit)
    for row in rows:
        await self.settle(row, "sent", "", at=now)
    return rows
SqlOutbox.lease = broken
from gateway.cli import main
sys.exit(main(["serve", "--port", "0"]))
"""


async def kill_amid_pushes(house: House, kills: int) -> set[str]:
    """Kill the gateway at random points between the ends of turns and their pushes' outcomes. All turns' ids."""
    rng = random.Random(4)
    turns: set[str] = set()
    for _ in range(kills):
        before = house.apns.requests
        turns |= {await house.send(f"/echo answer {number}") for number in range(4)}
        if rng.random() < 0.5:
            await eventually(lambda before=before: house.apns.requests > before)  # type: ignore[misc]  # mypy infers no default
        await asyncio.sleep(rng.random() * 0.06)
        await house.gateway.kill()
        await house.gateway.start_soon()
    return turns


async def no_push_is_lost(folder: Path, kills: int) -> None:
    async with push_house(folder, grace=0.05) as house:
        house.apns.latency = 0.03
        await house.register("phone")
        turns = await kill_amid_pushes(house, kills)
        for turn_id in turns:
            assert await house.outcomes(turn_id, within=25.0) == {"phone": "sent"}
        ids: dict[str, set[tuple[str, str]]] = {}
        for shown in house.on_iphone("phone"):
            same = ids.setdefault(shown.payload["agentline"]["turn_id"], set())
            same.add((shown.apns_id, shown.headers["apns-collapse-id"]))
        assert set(ids) == turns, "every turn reached the phone"
        assert all(len(same) == 1 for same in ids.values()), "what came twice came under the same ids"
        print(f"{len(turns)} turns, {kills} kills, {len(house.on_iphone('phone')) - len(turns)} repeated")


async def test_no_push_is_lost_when_the_gateway_is_killed_between_a_turns_end_and_its_push(tmp_path: Path) -> None:
    await no_push_is_lost(tmp_path, kills=4)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_no_push_is_lost_by_twenty_kills_of_the_gateway(tmp_path: Path) -> None:
    await no_push_is_lost(tmp_path, kills=20)


@pytest.mark.parametrize(
    ("command", "arrives"), [(MODULE, True), (("-c", FORGETTING_BEFORE_SENDING), False)], ids=["as it is", "control"]
)
async def test_a_kill_between_taking_a_push_up_and_sending_it_loses_it_only_without_the_lease(
    tmp_path: Path, command: tuple[str, ...], arrives: bool
) -> None:
    async with push_house(tmp_path, grace=0.0, start=False) as house:
        house.apns.streams = 0  # takes connections and no push
        house.gateway.command = (sys.executable, *command)
        await house.gateway.start_soon()
        await house.register("phone")
        turn_id = await house.send("/echo Hello.")
        await eventually(lambda: house.apns.connections > 0)
        await house.gateway.kill()
        house.apns.streams = 1000
        house.gateway.command = (sys.executable, *MODULE)
        await house.gateway.start_soon()
        assert await house.outcomes(turn_id) == {"phone": "sent"}
        assert bool(house.on_iphone("phone")) is arrives


async def test_a_push_service_that_is_a_black_hole_touches_no_turn_no_other_service_and_no_shutdown(
    tmp_path: Path,
) -> None:
    async with push_house(tmp_path, grace=0.0) as house:
        house.apns.script = lambda request: BlackHole()
        for platform in PLATFORMS:
            await house.register(f"my-{platform}", platform)
        began = time.monotonic()
        turns = []
        async with house.client() as phone:
            for number in range(5):
                accepted = await phone.message(f"/echo answer {number}")
                await phone.finish(accepted["turn_id"])
                turns.append(accepted["turn_id"])
        assert time.monotonic() - began < 5.0
        for turn_id in turns:
            outcomes = await house.outcomes(turn_id, 3)
            assert outcomes == {f"my-{platform}": "sent" for platform in PLATFORMS if platform != "ios"}
        assert house.apns.requests > 0
        assert not house.apns.shown

        stopping = time.monotonic()
        assert await house.gateway.stop() == 0
        stopped = time.monotonic() - stopping
        print(f"stopped within {stopped:.1f} s")
        assert stopped < 6.0

        house.apns.script = lambda request: None
        await house.gateway.start_soon()
        for turn_id in turns:
            assert (await house.outcomes(turn_id, 4))["my-ios"] == "sent", "it was not lost"


async def test_with_text_kept_in_the_house_no_word_of_it_passes_through_a_push_service(tmp_path: Path) -> None:
    async with push_house(tmp_path, grace=0.0, PUSH__ID_ONLY="true") as house:
        for platform in PLATFORMS:
            await house.register(f"my-{platform}", platform)
        turn_id = await house.send(f"/echo {SECRET} was his sledge\n/approval command")
        await eventually(lambda: bool(house.on_iphone("my-ios", "approval")))
        approval_id = house.on_iphone("my-ios", "approval")[0].payload["agentline"]["approval_id"]
        await house.gateway.post(f"/api/approvals/{approval_id}", {"decision": "approved"})
        assert {push["outcome"] for push in await house.pushes(turn_id, 4, kind="turn")} == {"sent"}
        arrived = [
            *(shown.payload for shown in house.apns.shown),
            *house.fcm.messages,
            *house.web.browsers["my-web"].shown,
            *house.ntfy.raw,
        ]
        assert len(arrived) == 8
        question = (await house.turn(turn_id))["content"]
        assert SECRET in question
        for payload in arrived:
            text = json.dumps(payload, ensure_ascii=False)
            assert SECRET not in text
            assert "sledge" not in text
            assert "notes.txt" not in text
        [shown] = house.on_iphone("my-ios")
        token = shown.payload["agentline"]["fetch_token"]
        async with house.gateway.http(None) as http:
            answer = await http.get(f"/api/turns/{turn_id}", headers={"Authorization": f"Bearer {token}"})
        assert answer.json()["content"] == question


async def test_a_fetch_token_is_good_only_as_long_as_its_push(tmp_path: Path) -> None:
    async with push_house(tmp_path, grace=0.0, PUSH__ID_ONLY="true", PUSH__TTL_SECONDS="2") as house:
        await house.register("phone")
        turn_id = await house.send("/echo Hello.")
        await eventually(lambda: bool(house.on_iphone("phone")))
        bearer = {"Authorization": f"Bearer {house.on_iphone('phone')[0].payload['agentline']['fetch_token']}"}
        async with house.gateway.http(None) as http:
            assert (await http.get(f"/api/turns/{turn_id}", headers=bearer)).status_code == 200
            async with asyncio.timeout(10):
                while (await http.get(f"/api/turns/{turn_id}", headers=bearer)).status_code == 200:  # noqa: ASYNC110  by time
                    await asyncio.sleep(0.1)
            assert (await http.get(f"/api/turns/{turn_id}", headers=bearer)).status_code == 401


async def test_a_service_that_is_not_set_up_is_named_at_registration_by_the_test_and_in_the_outcome(
    new_gateway: NewGateway,
) -> None:
    gateway = new_gateway()
    await gateway.start_soon()
    async with gateway.http() as http:
        put = await http.put("/api/devices/pixel", json={"platform": "android", "token": "fcm", "notify": "always"})
        assert (put.status_code, put.json()["deliverable"]) == (200, False)
        listed = (await http.get("/api/devices")).json()
        assert listed["platforms"] == dict.fromkeys(PLATFORMS, False)
        assert listed["webpush_key"] is None
        tried = (await http.post("/api/devices/pixel/test")).json()
        assert (tried["outcome"], tried["reason"]) == ("failed", "transport_not_configured")
    async with Client(gateway.url, token=TOKENS["alice"]) as phone:
        accepted = await phone.message("/echo Hello.")
        assert (await phone.finish(accepted["turn_id"]))["status"] == "completed"
    house = House(gateway, None, None, None, None)  # type: ignore[arg-type]  # none of them is reached
    assert await house.outcomes(accepted["turn_id"]) == {"pixel": "failed transport_not_configured"}


async def test_the_operators_never_counts_for_every_device(new_gateway: NewGateway) -> None:
    gateway = new_gateway(PUSH__POLICY="never")
    await gateway.start_soon()
    house = House(gateway, None, None, None, None)  # type: ignore[arg-type]  # none of them is reached
    await house.register("phone", notify="always")
    turn_id = await house.send("/echo Hello.")
    assert await house.outcomes(turn_id) == {"phone": "suppressed policy"}
