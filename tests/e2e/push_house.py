"""A gateway beside every push service that it can reach, each a strict fake on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.client import Client
from tests.fakes.apns import ApnsFake, Shown
from tests.fakes.fcm import FcmFake
from tests.fakes.ntfy import NtfyFake
from tests.fakes.push_tls import ec_key_pem, make_authority
from tests.fakes.webpush import WebPushFake
from tests.server import TOKENS, GatewayProcess

GRACE = 1.0
"""Seconds. Longer than an answered approval takes to be durable."""
TOPIC = "Ab3dEf6hIj9kLm2n"
PLATFORMS = ("ios", "android", "web", "ntfy")


def apns_token(name: str) -> str:
    """The APNs token of the phone of that name."""
    return hashlib.sha256(name.encode()).hexdigest()


async def eventually(holds: Callable[[], bool], within: float = 15.0) -> None:
    """Wait until another process has brought it about."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.01)


@dataclass
class House:
    gateway: GatewayProcess
    apns: ApnsFake
    fcm: FcmFake
    web: WebPushFake
    ntfy: NtfyFake

    def client(self, user: str = "alice", **options: Any) -> Client:
        return Client(lambda: self.gateway.url, token=TOKENS[user], **options)

    async def put(self, name: str, user: str = "alice", **body: Any) -> httpx2.Response:
        async with self.gateway.http(user) as http:
            return await http.put(f"/api/devices/{name}", json=body)

    async def register(self, name: str, platform: str = "ios", user: str = "alice", **fields: Any) -> dict[str, Any]:
        """Register a device with a token of its own, unless `fields` has another."""
        if "token" not in fields:
            fields["token"] = await self.token(name, platform)
        answer = await self.put(name, user, platform=platform, **fields)
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def token(self, name: str, platform: str) -> Any:
        if platform == "web":
            key = (await self.gateway.get("/api/devices"))["webpush_key"]
            return json.loads(self.web.subscribe(name, key))
        return {"ios": apns_token(name), "android": f"fcm-token-of-{name}", "ntfy": TOPIC}[platform]

    async def send(self, content: str, user: str = "alice", **fields: Any) -> str:
        """Start a turn in the background. Its id."""
        answer = await self.gateway.post("/api/demo/messages", {"content": content, **fields}, user)
        assert answer.status_code == 202, answer.text
        turn_id: str = answer.json()["turn_id"]
        return turn_id

    async def turn(self, turn_id: str, user: str = "alice") -> dict[str, Any]:
        turn: dict[str, Any] = await self.gateway.get(f"/api/turns/{turn_id}", user)
        return turn

    async def pushes(
        self, turn_id: str, count: int = 1, user: str = "alice", within: float = 15.0, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """The outcomes of the turn's pushes (of that kind), once there are as many."""
        pushes: list[dict[str, Any]] = []
        deadline = time.monotonic() + within
        async with self.gateway.http(user) as http:
            while True:
                pushes = (await http.get(f"/api/turns/{turn_id}")).json()["pushes"]
                pushes = [push for push in pushes if kind in (None, push["kind"])]
                if len(pushes) >= count:
                    break
                assert time.monotonic() < deadline, f"only {pushes}"
                await asyncio.sleep(0.03)
        assert len(pushes) == count, pushes
        return pushes

    async def outcomes(self, turn_id: str, count: int = 1, user: str = "alice", within: float = 15.0) -> dict[str, str]:
        """By device, in words."""
        pushes = await self.pushes(turn_id, count, user, within)
        return {push["device_id"]: f"{push['outcome']} {push['reason']}".strip() for push in pushes}

    def on_iphone(self, name: str, kind: str = "turn") -> list[Shown]:
        """What APNs delivered to the phone of that name."""
        token = apns_token(name)
        return [s for s in self.apns.shown if s.token == token and s.payload["agentline"]["kind"] == kind]

    async def clear(self) -> None:
        """Forget all devices and conversations, and what arrived."""
        for user in TOKENS:
            async with self.gateway.http(user) as http:
                for found in (await http.get("/api/threads")).json()["threads"]:
                    await http.delete(f"/api/threads/{found['thread_id']}")
                for device in (await http.get("/api/devices")).json()["devices"]:
                    await http.delete(f"/api/devices/{device['device_id']}")
        self.apns.shown.clear()
        self.apns.script = lambda request: None
        self.fcm.messages.clear()
        self.web.browsers.clear()
        self.ntfy.shown.clear()
        self.ntfy.raw.clear()


@contextlib.asynccontextmanager
async def push_house(
    folder: Path, *, grace: float = GRACE, start: bool = True, **settings: Any
) -> AsyncIterator[House]:
    """The gateway and all the fakes; `settings` are further ones of the gateway."""
    authority = make_authority(folder)
    private, public = ec_key_pem()
    (folder / "AuthKey.p8").write_text(private)
    (folder / "vapid.pem").write_text(ec_key_pem()[0])
    apns, fcm, web, ntfy = ApnsFake(public), FcmFake(folder), WebPushFake(), NtfyFake(token="tk_operator")
    async with apns.serving(authority), fcm.serving(authority), web.serving(authority), ntfy.serving(authority):
        ca_path = str(authority.ca_path)
        environment = {
            "DRAIN_SECONDS": "0",
            "PUSH__GRACE_SECONDS": str(grace),
            "PUSH__APNS": {
                "key_path": str(folder / "AuthKey.p8"),
                "key_id": apns.key_id,
                "team_id": apns.team_id,
                "topic": "org.example.app",
                "endpoint": apns.url,
                "ca_path": ca_path,
            },
            "PUSH__FCM": {
                "credentials_path": str(fcm.credentials_path),
                "endpoint": fcm.url,
                "token_endpoint": f"{fcm.url}/token",
                "ca_path": ca_path,
            },
            "PUSH__WEBPUSH": {
                "private_key_path": str(folder / "vapid.pem"),
                "subject": "mailto:operator@example.org",
                "ca_path": ca_path,
            },
            "PUSH__NTFY": {"server": ntfy.url, "token": "tk_operator", "ca_path": ca_path},
            **settings,
        }
        gateway = GatewayProcess(folder / "gateway", environment)
        try:
            if start:
                await gateway.start_soon()
            yield House(gateway, apns, fcm, web, ntfy)
            assert not apns.violations
        finally:
            await asyncio.to_thread(gateway.stop_now)
