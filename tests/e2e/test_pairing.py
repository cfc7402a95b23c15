"""A phone is paired by a picture, speaks with its own token, and is out within seconds of being revoked."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from typing import Any

import pytest

from gateway.devicetokens import DeviceTokens
from gateway.store.sql import SqlStore
from tests.client import Client
from tests.e2e.conftest import NewGateway
from tests.e2e.eventsource import events
from tests.server import ROOT, TOKENS, GatewayProcess

PUBLIC_URL = "https://chat.example.org"
REVOKED_SECONDS = 5.0


@pytest.fixture(scope="module")
def gateway_environment() -> dict[str, Any]:
    return {"AGENTS": {"codex": None, "claude": None, "demo": {"pace": 0}}, "PUBLIC_URL": PUBLIC_URL}


async def agentline(gateway: GatewayProcess, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command on the gateway's machine, with its settings."""
    environment = {
        "PATH": "",
        "PYTHONPATH": str(ROOT),
        "AGENTLINE_STATE_DIR": str(gateway.state_dir),
        "AGENTLINE_AUTH__TOKENS": '{"alice": "token-of-alice", "bob": "token-of-bob"}',
        **more,
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway", *arguments],
        env=environment,
        cwd=gateway.state_dir,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def code_for(gateway: GatewayProcess, user: str = "alice") -> str:
    made = await gateway.post("/api/pair/codes", user=user)
    assert made.status_code == 200
    code: str = made.json()["code"]
    return code


async def paired(gateway: GatewayProcess, name: str = "phone", user: str = "alice") -> dict[str, Any]:
    body = {"code": await code_for(gateway, user), "device_name": name}
    answer = await gateway.post("/api/pair", body, user=None)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    device: dict[str, Any] = answer.json()
    return device


def bearer(device: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {device['token']}"}


async def test_a_phone_is_paired_by_the_picture_in_the_terminal(gateway: GatewayProcess) -> None:
    port = gateway.url.rpartition(":")[2]
    shown = await agentline(gateway, "pair", "--user", "alice", "--port", port)
    assert shown.returncode == 0, shown.stderr
    *picture, url = shown.stdout.splitlines()
    assert len(picture) > 15
    assert all(set(line) <= set(" ▀▄█") for line in picture)
    assert url.startswith(f"{PUBLIC_URL}/#pair=")
    assert "warning" not in shown.stderr
    body = {"code": url.partition("#pair=")[2], "device_name": "Alice's phone"}
    answer = await gateway.post("/api/pair", body, user=None)
    device = answer.json()
    assert (answer.status_code, device["user_id"], device["device_name"]) == (200, "alice", "Alice's phone")
    async with Client(gateway.url, token=device["token"]) as phone:
        assert phone.ready["user_id"] == "alice"
        accepted = await phone.message("/echo Hi")
        assert (await phone.finish(accepted["turn_id"]))["content"] == "Hi"
    again = await gateway.post("/api/pair", body, user=None)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")


async def test_the_console_gets_the_code_its_link_and_the_picture(gateway: GatewayProcess) -> None:
    made = (await gateway.post("/api/pair/codes")).json()
    assert made["url"] == f"{PUBLIC_URL}/#pair={made['code']}"
    assert made["warning"] is None
    assert made["qr"]["size"] >= 29
    assert made["qr"]["path"].startswith("M4 4h7v1h-7z")
    async with gateway.http() as http:
        foreign = await http.post("/api/pair/codes", headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    for path in ("/api/pair/codes", "/api/pair/devices/x"):
        assert (await gateway.post(path, user=None)).status_code in (401, 405)


@pytest.mark.parametrize(
    ("body", "field"), [({}, "code"), ({"code": 1}, "code"), ({"code": "x", "device_name": "n" * 101}, "device_name")]
)
async def test_a_body_that_does_not_fit_is_refused(gateway: GatewayProcess, body: Any, field: str) -> None:
    answer = await gateway.post("/api/pair", body, user=None)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


async def test_devices_are_listed_to_their_user_alone(gateway: GatewayProcess) -> None:
    mine, bobs = await paired(gateway, "tablet"), await paired(gateway, "bob's", user="bob")
    async with gateway.http(None) as http:
        listed = (await http.get("/api/pair/devices", headers=bearer(mine))).json()["devices"]
        assert [one["current"] for one in listed if one["id"] == mine["id"]] == [True]
        assert [one["device_name"] for one in listed if one["id"] == mine["id"]] == ["tablet"]
        assert bobs["id"] not in {one["id"] for one in listed}
        assert mine["token"] not in str(listed)
        foreign = await http.delete(f"/api/pair/devices/{bobs['id']}", headers=bearer(mine))
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "not_found")
        assert (await http.get("/api/threads", headers=bearer(bobs))).status_code == 200


async def test_a_revoked_device_is_out_everywhere_within_five_seconds(gateway: GatewayProcess) -> None:
    device, other = await paired(gateway, "lost"), await paired(gateway, "kept")
    phone, reading = (
        Client(gateway.url, token=device["token"]),
        Client(gateway.url, token=device["token"], browser=True),
    )
    kept = Client(gateway.url, token=other["token"])
    for client in (phone, reading, kept):
        await client.connect()
    await phone.message("/hang", thread_id="held")
    push = {"platform": "ntfy", "token": "topic-of-the-lost-phone"}
    async with gateway.http(None) as http:
        registered = await http.put("/api/devices/lost-phone", json=push, headers=bearer(device))
        assert registered.status_code == 200
    async with events(gateway, "/api/threads/held/events", user=None, headers=bearer(device)) as stream:
        await stream.until("snapshot")
        began = time.monotonic()
        async with gateway.http() as http:
            assert (await http.delete(f"/api/pair/devices/{device['id']}")).status_code == 204
        closed = await asyncio.gather(phone.closed(), reading.closed())
        assert [one.code for one in closed] == [4501, 4501]
        await stream.rest()
        assert time.monotonic() - began < REVOKED_SECONDS
    await kept.quiet()
    await kept.close()
    async with gateway.http(None) as http:
        assert (await http.get("/api/threads", headers=bearer(device))).status_code == 401
        assert (await http.get("/api/threads", headers=bearer(other))).status_code == 200
    devices = (await gateway.get("/api/devices"))["devices"]
    assert "lost-phone" not in {one["device_id"] for one in devices}, "and it gets no push"
    async with gateway.http() as http:
        assert (await http.delete(f"/api/pair/devices/{device['id']}")).status_code == 404
    held = await gateway.get("/api/threads/held")
    assert held["status"] == "running", "its turn goes on"
    async with gateway.http() as http:
        await http.delete("/api/threads/held")


async def test_a_token_that_another_process_has_just_given_opens_everything_at_once(gateway: GatewayProcess) -> None:
    """Long before the next look at all tokens, which comes every two seconds."""
    async with SqlStore.open(f"sqlite:///{gateway.state_dir}/agentline.db") as store, gateway.http(None) as http:
        elsewhere = DeviceTokens(store, ("alice", "bob"))
        for _ in range(4):
            code, _ = await elsewhere.new_code("alice")
            token, _ = await elsewhere.pair(code, "phone")
            began = time.monotonic()
            assert (await http.get("/api/threads", headers={"Authorization": f"Bearer {token}"})).status_code == 200
            assert time.monotonic() - began < 0.7
        for browser in (False, True):
            code, _ = await elsewhere.new_code("alice")
            token, kept = await elsewhere.pair(code, "phone")
            began = time.monotonic()
            phone = Client(gateway.url, token=token, browser=browser)
            await phone.connect()
            assert time.monotonic() - began < 0.7
            await elsewhere.revoke("alice", kept.token_id)
            assert (await phone.closed(within=REVOKED_SECONDS)).code == 4501


async def test_a_token_that_another_process_deletes_is_out_within_five_seconds(gateway: GatewayProcess) -> None:
    device = await paired(gateway)
    phone = Client(gateway.url, token=device["token"])
    await phone.connect()
    with sqlite3.connect(gateway.state_dir / "agentline.db") as database:
        database.execute("DELETE FROM device_tokens WHERE token_id = ?", (device["id"],))
    database.close()
    assert (await phone.closed(within=REVOKED_SECONDS)).code == 4501


async def test_a_phone_that_pairs_anew_on_an_open_socket_keeps_it(gateway: GatewayProcess) -> None:
    old, new = await paired(gateway), await paired(gateway)
    phone = Client(gateway.url, token=old["token"])
    await phone.connect()
    await phone.send("auth", token=new["token"])
    await phone.receive(until="ready")
    async with gateway.http() as http:
        assert (await http.delete(f"/api/pair/devices/{old['id']}")).status_code == 204
        await phone.quiet()
        assert (await http.delete(f"/api/pair/devices/{new['id']}")).status_code == 204
    assert (await phone.closed(within=REVOKED_SECONDS)).code == 4501


async def test_pairing_outlives_a_restart_and_a_user_who_is_gone_takes_the_devices_along(
    new_gateway: NewGateway,
) -> None:
    gateway = new_gateway(AGENTS={"codex": None, "claude": None}, DRAIN_SECONDS="0")
    await gateway.start_soon()
    alices, bobs = await paired(gateway), await paired(gateway, user="bob")
    assert await gateway.stop() == 0
    gateway.environment["AUTH__TOKENS"] = {"alice": TOKENS["alice"]}
    await gateway.restart()
    async with gateway.http(None) as http:
        assert (await http.get("/api/threads", headers=bearer(alices))).status_code == 200
        assert (await http.get("/api/threads", headers=bearer(bobs))).status_code == 401
    made = (await gateway.post("/api/pair/codes")).json()
    assert made["url"].startswith(f"{gateway.url}/#pair=")
    assert "only this machine" in made["warning"]


async def test_pair_says_in_one_line_what_is_wrong(gateway: GatewayProcess) -> None:
    port = gateway.url.rpartition(":")[2]
    for arguments, code, said in (
        (("--port", "1"), 2, "--user"),
        (("--port", "1", "--user", "carol"), 2, "there is no user"),
        (("--port", "1", "--user", "alice"), 1, "no gateway answers at http://127.0.0.1:1"),
        (("--port", "0", "--user", "alice"), 2, "--port"),
    ):
        ended = await agentline(gateway, "pair", *arguments)
        assert (ended.returncode, ended.stdout) == (code, ""), arguments
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1
    wrong = await agentline(gateway, "pair", "--port", port, AGENTLINE_AUTH__TOKENS='{"alice": "wrong"}')
    assert (wrong.returncode, "does not take the token" in wrong.stderr, "wrong" in wrong.stderr) == (1, True, False)


async def test_codes_and_tokens_are_in_no_log_line(gateway: GatewayProcess) -> None:
    code = await code_for(gateway)
    device = (await gateway.post("/api/pair", {"code": code}, user=None)).json()
    async with gateway.http() as http:
        await http.delete(f"/api/pair/devices/{device['id']}")
    assert code not in gateway.log
    assert device["token"] not in gateway.log
    assert gateway.events("device_paired")[-1]["token_id"] == device["id"]
    assert gateway.events("device_revoked")[-1]["token_id"] == device["id"]
    assert not [line for line in gateway.log.splitlines() if '"level": "error"' in line]
