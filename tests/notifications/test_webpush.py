from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from notifications.payload import WEBPUSH_LIMIT
from notifications.records import Device, Push
from notifications.verdict import Verdict
from notifications.webpush import Subscription, WebPush, WebPushSettings
from tests.fakes.push_http import Action, Drop, Hang, Reply, TcpReset
from tests.fakes.push_tls import Authority, ec_key_pem
from tests.fakes.webpush import WebPushFake
from tests.notifications.pushes import device, push


@pytest.fixture
def fake() -> WebPushFake:
    return WebPushFake()


@pytest.fixture
def make(tmp_path: Path, authority: Authority) -> Any:
    key_path = tmp_path / "vapid.pem"
    key_path.write_text(ec_key_pem()[0])

    def made(**changes: Any) -> WebPush:
        fields: dict[str, Any] = {
            "private_key_path": key_path,
            "subject": "mailto:operator@example.org",
            "ca_path": authority.ca_path,
            "request_seconds": 1.0,
        }
        return WebPush(WebPushSettings(**(fields | changes)))

    return made


def browser(fake: WebPushFake, web: WebPush, name: str = "firefox") -> Device:
    return device(platform="web", device_id=name, token=fake.subscribe(name, web.application_server_key))


async def send(web: WebPush, to: Device, what: Push | None = None) -> Verdict:
    expires_at = int(time.time() * 1000) + 3_600_000
    return await web.send(to, what or push(), delivery_id="d-1", expires_at=expires_at)


async def test_only_the_browser_can_read_what_arrives(fake: WebPushFake, authority: Authority, make: Any) -> None:
    async with fake.serving(authority), make() as web:
        assert await send(web, browser(fake, web), push("Grüße 👋🏽")) == Verdict("sent")
    [shown] = fake.browsers["firefox"].shown
    assert shown["body"] == "Grüße 👋🏽"
    assert shown["turn_id"] == "u-41"
    [headers] = fake.headers
    assert 3_590 <= int(headers["ttl"]) <= 3_600
    assert headers["urgency"] == "high"


async def test_the_largest_payload_is_exactly_one_record(fake: WebPushFake, authority: Authority, make: Any) -> None:
    async with fake.serving(authority), make() as web:
        assert await send(web, browser(fake, web), push("x" * 50_000)) == Verdict("sent")
    [shown] = fake.browsers["firefox"].shown
    assert shown["truncated"] is True
    assert len(json.dumps(shown, separators=(",", ":"))) == WEBPUSH_LIMIT


async def test_one_vapid_token_serves_a_push_service_for_hours(
    fake: WebPushFake, authority: Authority, make: Any
) -> None:
    async with fake.serving(authority), make() as web:
        to = browser(fake, web)
        assert set(await asyncio.gather(*(send(web, to) for _ in range(30)))) == {Verdict("sent")}
    assert len(fake.vapid) == 1
    assert len(fake.browsers["firefox"].shown) == 30


async def test_a_unified_push_server_without_tls_works_where_the_operator_allows_it(
    fake: WebPushFake, make: Any
) -> None:
    async with fake.serving(None):
        async with make(allow_http=True) as web:
            assert await send(web, browser(fake, web)) == Verdict("sent")
        async with make() as web:
            assert await send(web, browser(fake, web)) == Verdict("refused", "invalid_subscription")
    assert fake.requests == 1


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (Reply(404), Verdict("gone", "status_404")),
        (Reply(410), Verdict("gone", "status_410")),
        (Reply(413), Verdict("refused", "status_413")),
        (Reply(403), Verdict("refused", "status_403")),
        (Reply(301, b"", {"location": "http://127.0.0.1:1/"}), Verdict("refused", "status_301")),
        (Reply(429, b"", {"retry-after": "12"}), Verdict("later", "status_429", 12.0, device_only=True)),
        (Reply(503, b"", {"retry-after": "4"}), Verdict("later", "status_503", 4.0)),
        (Reply(500), Verdict("later", "status_500")),
        (Hang(), Verdict("unknown", "timeout")),
        (Drop(), Verdict("unknown", "connection_lost")),
        (TcpReset(), Verdict("unknown", "connection_lost")),
    ],
    ids=str,
)
async def test_every_answer_means_what_the_rfc_says(
    action: Action, verdict: Verdict, fake: WebPushFake, authority: Authority, make: Any
) -> None:
    fake.script = lambda number, browser: action
    async with fake.serving(authority), make() as web:
        assert await send(web, browser(fake, web)) == verdict
    assert fake.requests == 1


async def test_each_push_service_is_a_channel_of_its_own(make: Any, authority: Authority) -> None:
    one, other = WebPushFake(), WebPushFake()
    async with one.serving(authority), other.serving(authority), make() as web:
        assert web.channel(browser(one, web)) != web.channel(browser(other, web))
        assert web.channel(browser(one, web, "a")) == web.channel(browser(one, web, "b"))


async def test_an_endpoint_is_in_no_log_line(
    fake: WebPushFake, authority: Authority, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with fake.serving(authority), make() as web:
        await send(web, browser(fake, web, "secret-name"))
        fake.script = lambda number, browser: Reply(500)
        await send(web, browser(fake, web, "secret-name"))
    assert "secret-name" not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": "ftp://push.example/x"},
        {"endpoint": "https://"},
        {"endpoint": "https://user:pass@push.example/x"},
        {"endpoint": "https://push.example/x\r\ny: z"},
        {"endpoint": "https://push.example:99999/x"},
        {"endpoint": "https://push.example/" + "x" * 3_000},
        {"keys": {"p256dh": "AAAA", "auth": "AAAAAAAAAAAAAAAAAAAAAA"}},
        {"keys": {"p256dh": "BA" + "A" * 85, "auth": "AAAAAAAAAAAAAAAAAAAAAA"}},
        {"keys": {}},
    ],
    ids=str,
)
def test_what_is_no_subscription_is_refused(changes: dict[str, Any]) -> None:
    fake = WebPushFake(url="https://push.example")
    good = fake.subscribe("x", "")
    assert Subscription.parse(good).origin == "https://push.example"
    with pytest.raises(ValueError, match="not a Web Push subscription"):
        Subscription.parse(json.dumps(json.loads(good) | changes))
    with pytest.raises(ValueError, match="not a Web Push subscription"):
        Subscription.parse("\ud800")
