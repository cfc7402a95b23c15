from __future__ import annotations

import time
from typing import Any

import pytest

from notifications.ntfy import Ntfy, NtfySettings
from notifications.records import Device, Push
from notifications.verdict import Verdict
from tests.fakes.ntfy import NtfyFake
from tests.fakes.push_http import Action, Drop, Hang, Reply
from tests.fakes.push_tls import Authority
from tests.notifications.pushes import device, push

PHONE = device(platform="ntfy", token="my-topic")


async def send(ntfy: Ntfy, to: Device = PHONE, what: Push | None = None) -> Verdict:
    return await ntfy.send(to, what or push(), delivery_id="d-1", expires_at=int(time.time() * 1000) + 3_600_000)


async def test_the_stock_app_shows_title_and_text(authority: Authority) -> None:
    fake = NtfyFake(token="tk_secret")
    async with fake.serving(authority):
        settings = NtfySettings(fake.url, token="tk_secret", ca_path=authority.ca_path)
        async with Ntfy(settings) as ntfy:
            assert await send(ntfy, what=push("Grüße", link="https://example.org/#t-9f")) == Verdict("sent")
    assert fake.shown == [
        {
            "topic": "my-topic",
            "title": "A conversation",
            "message": "Grüße",
            "priority": 4,
            "click": "https://example.org/#t-9f",
        }
    ]
    assert fake.raw[0]["body"] == "Grüße"
    assert fake.raw[0]["thread_id"] == "t-9f"


@pytest.mark.parametrize("text", ["x" * 50_000, '"' * 50_000, "漢" * 50_000, "\x01" * 50_000], ids=ascii)
async def test_a_long_text_never_becomes_an_attachment(text: str) -> None:
    fake = NtfyFake()
    async with fake.serving(None), Ntfy(NtfySettings(fake.url)) as ntfy:
        assert await send(ntfy, what=push(text)) == Verdict("sent")
    assert fake.raw[0]["truncated"] is True


async def test_a_badge_update_rings_no_phone() -> None:
    fake = NtfyFake()
    async with fake.serving(None), Ntfy(NtfySettings(fake.url)) as ntfy:
        assert await send(ntfy, what=push(kind="seen")) == Verdict("sent")
    assert fake.requests == 0


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (Reply(401), Verdict("paused", "status_401", 300.0)),
        (Reply(403), Verdict("refused", "status_403")),
        (Reply(429, b"", {"retry-after": "5"}), Verdict("later", "status_429", 5.0)),
        (Reply(507), Verdict("later", "status_507")),
        (Reply(400), Verdict("refused", "status_400")),
        (Hang(), Verdict("unknown", "timeout")),
        (Drop(), Verdict("unknown", "connection_lost")),
    ],
    ids=str,
)
async def test_every_answer_has_its_meaning(action: Action, verdict: Verdict) -> None:
    fake = NtfyFake(script=lambda number: action)
    async with fake.serving(None), Ntfy(NtfySettings(fake.url, request_seconds=0.5)) as ntfy:
        assert await send(ntfy) == verdict


@pytest.mark.parametrize("token", ["", "../x", "a b", "x" * 65, "ü"])
async def test_a_topic_that_is_none_goes_nowhere(token: str) -> None:
    fake = NtfyFake()
    async with fake.serving(None), Ntfy(NtfySettings(fake.url)) as ntfy:
        assert await send(ntfy, device(platform="ntfy", token=token)) == Verdict("refused", "invalid_topic")
    assert fake.requests == 0


@pytest.mark.parametrize("server", ["", "ntfy.example.org", "ftp://ntfy.example.org", "https://u:p@ntfy.example.org"])
def test_a_server_that_is_no_url_stops_the_start(server: Any) -> None:
    with pytest.raises(ValueError, match="is a URL like"):
        Ntfy(NtfySettings(server))
