"""The connection by itself; what it does amid faults is shown by the tests of the APNs transport."""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from notifications import payload
from notifications.apns import Apns
from notifications.http2.frames import Frames, goaway_last_stream
from notifications.http2.liveness import Liveness
from notifications.verdict import Verdict
from tests.fakes.apns import Answer, ApnsFake
from tests.fakes.push_tls import Authority
from tests.notifications.conftest import MakeSettings
from tests.notifications.pushes import device, push


@pytest.mark.parametrize("window", [1, 100, 1_000, 4_095])
async def test_a_window_smaller_than_a_push_lets_it_through_in_pieces(
    window: int, apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.window = window
    what = push("x" * (300 if window == 1 else 20_000))
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        expires_at = int(time.time() * 1000) + 3_600_000
        verdicts = await asyncio.gather(
            *(apns.send(device(), what, delivery_id=str(uuid.uuid4()), expires_at=expires_at) for _ in range(20))
        )
    assert set(verdicts) == {Verdict("sent")}
    assert apns_fake.violations == []
    assert len(payload.apns(what)) > window


async def test_an_answer_before_the_whole_body_ends_the_request(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.early = Answer(503)
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        expires_at = int(time.time() * 1000) + 3_600_000
        apns_fake.window = 100
        verdict = await apns.send(device(), push("x" * 20_000), delivery_id=str(uuid.uuid4()), expires_at=expires_at)
        assert verdict == Verdict("later", "status_503")
        apns_fake.early = None
        verdict = await apns.send(device(), push(), delivery_id=str(uuid.uuid4()), expires_at=expires_at)
        assert verdict == Verdict("sent")
    assert apns_fake.violations == []
    assert apns_fake.connections == 1


class Talker(asyncio.Protocol):
    """Says one thing to whoever connects, and no more."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.data)


@asynccontextmanager
async def talking(context: ssl.SSLContext, data: bytes) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Talker(data), "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


SETTINGS = bytes.fromhex("000000040000000000")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 100_000,
        SETTINGS + b"\x00\x00\x02\x07\x00\x00\x00\x00\x00xx",
        SETTINGS + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        SETTINGS + b"\x00\x00\x08\x06\x00\x00\x00\x00\x07pingpong",
        SETTINGS + b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + b"\x00" * 8,
    ],
    ids=["http/1", "oversized frame", "short goaway", "empty window update", "ping on a stream", "goaway at once"],
)
async def test_a_server_that_speaks_no_http2_fails_quickly_and_harms_nothing(
    data: bytes, authority: Authority, apns_fake: ApnsFake, apns_settings: MakeSettings
) -> None:
    async with talking(authority.context(["h2"]), data) as port:
        apns_fake.port = port
        async with Apns(apns_settings(request_seconds=1.0)) as apns:
            began = time.monotonic()
            verdict = await apns.send(
                device(), push(), delivery_id=str(uuid.uuid4()), expires_at=int(time.time() * 1000) + 60_000
            )
            assert verdict.kind in ("unsent", "unknown")
            assert time.monotonic() - began < 5.0


async def test_a_server_without_h2_is_told_at_once(
    authority: Authority, apns_fake: ApnsFake, apns_settings: MakeSettings
) -> None:
    async with talking(authority.context(), b"") as port:
        apns_fake.port = port
        async with Apns(apns_settings()) as apns:
            verdict = await apns.send(
                device(), push(), delivery_id=str(uuid.uuid4()), expires_at=int(time.time() * 1000) + 60_000
            )
    assert verdict == Verdict("unsent", "no_http2")


def test_frames_come_whole_however_the_bytes_are_cut() -> None:
    goaway = b"\x00\x00\x0a\x07\x00\x00\x00\x00\x00" + b"\x80\x00\x00\x05" + b"\x00" * 4 + b"ok"
    stream = SETTINGS + goaway + SETTINGS
    for size in range(1, len(stream) + 1):
        frames = Frames(16_384)
        found = [frame for at in range(0, len(stream), size) for frame in frames.feed(stream[at : at + size])]
        assert found == [SETTINGS, goaway, SETTINGS]
    assert goaway_last_stream(goaway) == 5
    assert goaway_last_stream(SETTINGS) is None


class Peer:
    """Counts what a `Liveness` asks for."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.due = True
        self.pings = 0
        self.died = asyncio.Event()
        self.liveness = Liveness(
            probe_after=0.05,
            probe_wait=0.05,
            keepalive=0.3,
            due=lambda: self.due,
            ping=self.ping,
            dead=self.died.set,
        )

    def ping(self) -> None:
        self.pings += 1
        if self.answers:
            self.liveness.heard()


async def test_a_silent_peer_that_answers_pings_lives_and_is_asked_seldom_while_nothing_is_due() -> None:
    peer = Peer(answers=True)
    peer.liveness.expect()
    await asyncio.sleep(0.2)
    busy = peer.pings
    assert busy >= 2
    peer.due = False
    await asyncio.sleep(0.2)
    assert peer.pings <= busy + 1
    assert not peer.died.is_set()
    peer.liveness.stop()


async def test_a_peer_that_answers_no_ping_is_dead() -> None:
    peer = Peer(answers=False)
    peer.liveness.expect()
    async with asyncio.timeout(1):
        await peer.died.wait()
    assert peer.pings == 1
