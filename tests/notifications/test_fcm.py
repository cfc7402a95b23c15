from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from notifications.fcm import Fcm, FcmSettings, judge
from notifications.google_token import ServiceAccount
from notifications.http1 import Answer
from notifications.records import Device, Push
from notifications.verdict import Verdict
from tests.fakes.fcm import FcmFake, error
from tests.fakes.push_http import Action, Drop, Endless, Hang, Reply, TcpReset
from tests.fakes.push_tls import Authority
from tests.notifications.pushes import device, push

PHONE = device(platform="android", token="fcm-token:APA91b")


@pytest.fixture
def fake(tmp_path: Path) -> FcmFake:
    return FcmFake(tmp_path)


def settings(fake: FcmFake, authority: Authority, **changes: Any) -> FcmSettings:
    fields: dict[str, Any] = {
        "credentials_path": fake.credentials_path,
        "endpoint": fake.url,
        "ca_path": authority.ca_path,
        "request_seconds": 1.0,
    }
    return FcmSettings(**(fields | changes))


async def send(fcm: Fcm, to: Device = PHONE, what: Push | None = None) -> Verdict:
    expires_at = int(time.time() * 1000) + 3_600_000
    return await fcm.send(to, what or push(), delivery_id="d-1", expires_at=expires_at)


async def test_a_message_arrives_as_strings_with_high_priority_and_a_lifetime(
    fake: FcmFake, authority: Authority
) -> None:
    async with fake.serving(authority), Fcm(settings(fake, authority)) as fcm:
        assert await send(fcm) == Verdict("sent")
        assert await send(fcm, what=push("x" * 50_000)) == Verdict("sent")
    first, second = fake.messages
    assert first["token"] == PHONE.token
    assert first["android"]["priority"] == "HIGH"
    assert 3_590 <= int(first["android"]["ttl"][:-1]) <= 3_600
    assert first["data"]["body"] == "Hello."
    assert first["data"]["badge"] == "3"
    assert second["data"]["truncated"] == "true"
    assert second["data"]["length"] == "50000"


async def test_one_access_token_serves_all_and_is_asked_for_once(fake: FcmFake, authority: Authority) -> None:
    fake.latency = 0.01
    async with fake.serving(authority), Fcm(settings(fake, authority)) as fcm:
        verdicts = await asyncio.gather(*(send(fcm, what=push(turn_id=f"u-{n}")) for n in range(100)))
    assert set(verdicts) == {Verdict("sent")}
    assert fake.token_requests == 1
    assert len(fake.times) == 100
    assert set(fake.times.values()) == {1}


async def test_a_revoked_token_is_renewed_once(fake: FcmFake, authority: Authority) -> None:
    async with fake.serving(authority), Fcm(settings(fake, authority)) as fcm:
        assert await send(fcm) == Verdict("sent")
        fake.tokens.clear()
        verdicts = await asyncio.gather(*(send(fcm) for _ in range(20)))
        assert set(verdicts) == {Verdict("sent")}
        assert fake.token_requests == 2
        fake.script = lambda number, message: error(401, "UNAUTHENTICATED")
        assert await send(fcm) == Verdict("paused", "UNAUTHENTICATED", 300.0)
        assert fake.token_requests == 3


async def test_a_token_is_renewed_before_it_runs_out(fake: FcmFake, authority: Authority) -> None:
    ahead = 0.0
    async with fake.serving(authority), Fcm(settings(fake, authority), clock=lambda: time.time() + ahead) as fcm:
        for seconds, asked in ((0, 1), (3_200, 1)):
            ahead = seconds
            assert await send(fcm) == Verdict("sent")
            assert fake.token_requests == asked
        ahead = 3_310
        assert (await send(fcm)).kind == "paused"  # the fake's clock did not move: it sees a token from the future
        assert fake.token_requests == 2


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (error(404, "NOT_FOUND", "UNREGISTERED"), Verdict("gone", "UNREGISTERED")),
        (error(404, "NOT_FOUND"), Verdict("gone", "NOT_FOUND")),
        (Reply(404, b"<html>"), Verdict("later", "status_404")),
        (error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), Verdict("refused", "INVALID_ARGUMENT")),
        (error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), Verdict("refused", "SENDER_ID_MISMATCH")),
        (error(403, "PERMISSION_DENIED"), Verdict("paused", "PERMISSION_DENIED", 300.0)),
        (error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "17"), Verdict("later", "QUOTA_EXCEEDED", 17.0)),
        (error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), Verdict("later", "QUOTA_EXCEEDED", 60.0)),
        (error(503, "UNAVAILABLE", "UNAVAILABLE", "9"), Verdict("later", "UNAVAILABLE", 9.0)),
        (Reply(500), Verdict("later", "status_500")),
        (Hang(), Verdict("unknown", "timeout")),
        (Drop(), Verdict("unknown", "connection_lost")),
        (TcpReset(), Verdict("unknown", "connection_lost")),
        (Endless(), Verdict("sent")),
    ],
    ids=str,
)
async def test_every_answer_means_what_firebase_says(
    action: Action, verdict: Verdict, fake: FcmFake, authority: Authority
) -> None:
    fake.script = lambda number, message: action
    async with fake.serving(authority), Fcm(settings(fake, authority)) as fcm:
        assert await send(fcm) == verdict
    assert fake.requests == 1


def test_a_retry_after_may_be_a_date() -> None:
    headers = {"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT"}
    assert judge(Answer(503, headers, b""), 1_795_176_000.0).retry_after == 30.0
    for nonsense in ("", "soon", "-5", "Fri, 99 Nov 2026"):
        assert judge(Answer(503, {"retry-after": nonsense}, b""), 0.0).retry_after is None


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (Reply(400, b'{"error":"invalid_grant"}'), Verdict("paused", "token_status_400", 300.0)),
        (Reply(503), Verdict("unsent", "token_status_503")),
        (Reply(200, b"nonsense"), Verdict("unsent", "token_unreadable")),
        (Drop(), Verdict("unsent", "token_connection_lost")),
    ],
    ids=str,
)
async def test_without_an_access_token_nothing_was_sent(
    action: Action, verdict: Verdict, fake: FcmFake, authority: Authority
) -> None:
    fake.token_script = lambda number: action
    async with fake.serving(authority), Fcm(settings(fake, authority)) as fcm:
        assert await send(fcm) == verdict
        waiting = await asyncio.gather(*(send(fcm) for _ in range(20)))
    assert set(waiting) == {verdict}
    assert fake.token_requests <= 3  # they shared one refusal
    assert fake.requests == 0


async def test_a_dead_host_is_told_from_one_that_does_not_answer(fake: FcmFake, authority: Authority) -> None:
    async with fake.serving(authority):
        made = settings(fake, authority)
        async with Fcm(made) as fcm:
            assert await send(fcm) == Verdict("sent")
    async with Fcm(made) as fcm:
        assert await send(fcm) == Verdict("unsent", "token_connect_failed")


def test_wrong_credentials_are_refused_at_the_start_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps({"project_id": "p", "private_key": "hunter2"}))
    with pytest.raises(ValueError, match="service account") as caught:
        ServiceAccount.load(path)
    assert "hunter2" not in str(caught.value)
    path.write_text(json.dumps({"project_id": "p", "private_key": "hunter2", "client_email": "e"}))
    with pytest.raises(ValueError, match="no RSA private key") as caught:
        Fcm(FcmSettings(path))
    assert "hunter2" not in str(caught.value)
