from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from h2.errors import ErrorCodes

from notifications.apns import Apns, ApnsSettings, judge
from notifications.http2 import Limits
from notifications.provider_token import ProviderToken
from notifications.records import Device, Push
from notifications.verdict import Verdict
from tests.fakes.apns import (
    Answer,
    ApnsFake,
    BlackHole,
    Fault,
    Fin,
    Goaway,
    Request,
    Reset,
    Silent,
    Streams,
    TcpReset,
)
from tests.fakes.push_tls import Authority, ec_key_pem, make_authority
from tests.notifications.conftest import MakeSettings
from tests.notifications.pushes import device, push

FULL = push("x" * 20_000)
"""A push of exactly 4,096 bytes."""


def soon() -> int:
    return int(time.time() * 1000) + 3_600_000


async def send(
    apns: Apns, to: Device | None = None, what: Push | None = None, delivery_id: str | None = None
) -> Verdict:
    return await apns.send(
        to or device(), what or push(), delivery_id=delivery_id or str(uuid.uuid4()), expires_at=soon()
    )


async def send_many(apns: Apns, count: int, what: Push = FULL) -> dict[str, Verdict]:
    """All at once; the verdict of each delivery id."""
    verdicts: dict[str, Verdict] = {}

    async def one() -> None:
        delivery_id = str(uuid.uuid4())
        verdicts[delivery_id] = await send(apns, what=what, delivery_id=delivery_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    return verdicts


async def send_until_sent(apns: Apns, count: int) -> Counter[str]:
    """As the outbox does it, without its pauses: repeats what may not have arrived, under the same id.

    Returns how often each delivery ended without anybody knowing.
    """
    unknown: Counter[str] = Counter()

    async def one() -> None:
        delivery_id = str(uuid.uuid4())
        while True:
            verdict = await send(apns, what=FULL, delivery_id=delivery_id)
            match verdict.kind:
                case "sent":
                    return
                case "unknown":
                    unknown[delivery_id] += 1
                case "unsent" | "later":
                    pass
                case _:
                    raise AssertionError(verdict)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    return unknown


async def test_a_push_arrives_with_all_that_apns_wants_to_know(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        delivery_id = str(uuid.uuid4())
        assert await send(apns, delivery_id=delivery_id) == Verdict("sent")
    [shown] = apns_fake.shown
    assert shown.apns_id == delivery_id
    assert shown.token == device().token
    assert shown.headers["apns-collapse-id"] == "turn-u-41"
    assert shown.headers["apns-push-type"] == "alert"
    assert shown.headers["apns-priority"] == "10"
    assert shown.headers["apns-topic"] == "org.example.app"
    assert shown.payload["aps"]["alert"]["body"] == "Hello."
    assert apns_fake.violations == []


async def test_a_badge_update_spares_the_battery(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        assert await send(apns, what=push(kind="seen", badge=0)) == Verdict("sent")
    assert apns_fake.shown[0].headers["apns-priority"] == "5"
    assert apns_fake.shown[0].payload["aps"]["badge"] == 0


async def test_many_full_size_pushes_share_one_connection_and_one_token(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        verdicts = await send_many(apns, 500)
    assert set(verdicts.values()) == {Verdict("sent")}
    assert apns_fake.times == Counter(verdicts.keys())
    assert {len(shown.payload["aps"]["alert"]["body"]) > 3_500 for shown in apns_fake.shown} == {True}
    assert apns_fake.connections == 1
    assert len(apns_fake.provider_tokens) == 1
    assert apns_fake.violations == []


async def test_windows_that_open_only_with_the_answers_slow_down_but_lose_nothing(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.lazy_windows = True
    apns_fake.latency = 0.005
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        verdicts = await send_many(apns, 300)
    assert set(verdicts.values()) == {Verdict("sent")}
    assert apns_fake.times == Counter(verdicts.keys())
    assert apns_fake.violations == []


async def test_one_stream_until_authenticated_is_kept_to(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.one_until_authenticated = True
    apns_fake.latency = 0.01
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        verdicts = await send_many(apns, 200)
    assert apns_fake.times == Counter(verdicts.keys())
    assert apns_fake.violations == []
    assert apns_fake.connections == 1


def at(number: int, fault: Fault) -> Callable[[Request], Fault | None]:
    return lambda request: fault if request.number == number else None


def every(step: int, fault: Fault) -> Callable[[Request], Fault | None]:
    return lambda request: fault if request.number % step == 0 else None


QUICK = Limits(connect=2.0, probe_after=0.4, probe_wait=0.4)

FAULTS = [
    pytest.param(every(50, Answer(503)), False, id="503 with an empty body"),
    pytest.param(every(50, Answer(503, "Shutdown")), False, id="503 with a reason"),
    pytest.param(every(50, Answer(500, "InternalServerError")), False, id="500"),
    pytest.param(every(50, Answer(429, "TooManyRequests")), False, id="429"),
    pytest.param(every(50, Reset(ErrorCodes.REFUSED_STREAM)), False, id="refused stream"),
    pytest.param(every(50, Reset(ErrorCodes.INTERNAL_ERROR)), True, id="reset, not processed"),
    pytest.param(every(50, Reset(ErrorCodes.INTERNAL_ERROR, processed=True)), True, id="reset, processed"),
    pytest.param(every(100, Goaway("graceful")), False, id="graceful goaway"),
    pytest.param(every(100, Goaway("abrupt")), True, id="abrupt goaway"),
    pytest.param(at(100, Streams(3)), False, id="lowered stream limit"),
    pytest.param(every(100, Silent()), True, id="unanswered stream"),
    pytest.param(every(100, Silent(processed=True)), True, id="unanswered stream, processed"),
    pytest.param(every(100, Fin()), True, id="fin"),
    pytest.param(every(100, TcpReset()), True, id="tcp reset"),
    pytest.param(every(200, BlackHole()), True, id="black hole"),
]


@pytest.mark.parametrize(("script", "unknowable"), FAULTS)
async def test_a_fault_amid_traffic_loses_nothing_and_repeats_only_what_nobody_could_know(
    script: Callable[[Request], Fault | None],
    unknowable: bool,
    apns_fake: ApnsFake,
    authority: Authority,
    apns_settings: MakeSettings,
) -> None:
    apns_fake.script = script
    apns_fake.latency = 0.01
    async with (
        asyncio.timeout(15),
        apns_fake.serving(authority),
        Apns(apns_settings(limits=QUICK, request_seconds=1.5)) as apns,
    ):
        unknown = await send_until_sent(apns, 250)
    times = apns_fake.times
    assert len(times) == 250
    assert apns_fake.violations == []
    for delivery_id, count in times.items():
        assert count <= 1 + unknown[delivery_id]
    if not unknowable:
        assert not unknown


async def test_an_idle_goaway_costs_nothing(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        for _ in range(3):
            assert await send(apns) == Verdict("sent")
            apns_fake.goaway()
            assert await send(apns) == Verdict("sent")
    assert max(apns_fake.times.values()) == 1


async def test_answers_owed_at_a_graceful_goaway_are_taken_and_not_asked_for_again(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    """The mechanism is the taking of GOAWAY out of what h2 sees: without it every answer under way is lost."""
    apns_fake.latency = 0.05
    apns_fake.script = at(100, Goaway("graceful"))
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        assert await send(apns) == Verdict("sent")
        verdicts = await send_many(apns, 150)
    assert set(verdicts.values()) == {Verdict("sent")}
    assert max(apns_fake.times.values()) == 1
    assert apns_fake.times.keys() >= verdicts.keys()
    assert apns_fake.connections == 2


async def test_when_h2_sees_the_goaway_those_answers_are_lost(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr("notifications.http2.frames.GOAWAY", -1)
    apns_fake.latency = 0.05
    apns_fake.script = at(100, Goaway("graceful"))
    async with apns_fake.serving(authority), Apns(apns_settings(request_seconds=1.0)) as apns:
        assert await send(apns) == Verdict("sent")
        verdicts = await send_many(apns, 150)
    assert "unknown" in {verdict.kind for verdict in verdicts.values()}


async def test_without_resending_a_graceful_goaway_leaves_pushes_unsent(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    """The control of the test above: with the resend switched off the same run does not deliver everything."""
    apns_fake.latency = 0.05
    apns_fake.script = at(100, Goaway("graceful"))
    async with apns_fake.serving(authority), Apns(apns_settings(resends=0)) as apns:
        assert await send(apns) == Verdict("sent")
        verdicts = await send_many(apns, 150)
    assert Verdict("unsent", "goaway") in verdicts.values()
    assert not apns_fake.times.keys() >= verdicts.keys()


async def test_a_black_hole_is_found_by_asking_and_nothing_waits_longer_than_15_seconds(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.script = at(1, BlackHole())
    async with apns_fake.serving(authority), Apns(apns_settings(limits=replace(QUICK))) as apns:
        began = time.monotonic()
        assert await send(apns) == Verdict("unknown", "no_sign_of_life")
        assert time.monotonic() - began < 2.0
        assert await send(apns) == Verdict("sent")
    defaults = ApnsSettings(Path(), "", "", "")
    assert defaults.limits.probe_after + defaults.limits.probe_wait + 1 < 15
    assert defaults.attempt_seconds < 15


async def test_a_black_hole_that_opens_while_nothing_is_under_way_is_found_at_the_next_push(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.script = at(2, BlackHole())
    async with apns_fake.serving(authority), Apns(apns_settings(limits=QUICK)) as apns:
        assert await send(apns) == Verdict("sent")
        await asyncio.sleep(QUICK.probe_after * 2)  # the watch is in its slow gait now
        began = time.monotonic()
        assert (await send(apns)).kind == "unknown"
        assert time.monotonic() - began < 2.0


async def test_an_unanswered_stream_disturbs_no_other(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.script = at(1, Silent())
    async with apns_fake.serving(authority), Apns(apns_settings(request_seconds=0.5)) as apns:
        first = asyncio.create_task(send(apns))
        await asyncio.sleep(0.05)
        assert await send(apns) == Verdict("sent")
        assert await first == Verdict("unknown", "timeout")
        assert await send(apns) == Verdict("sent")
    assert apns_fake.connections == 1


async def test_a_cancelled_send_resets_its_stream_and_frees_its_place(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.script = lambda request: Silent() if request.number <= 5 else None
    apns_fake.streams = 5
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        hung = [asyncio.create_task(send(apns)) for _ in range(5)]
        await apns_fake.until(lambda: apns_fake.requests == 5)
        for task in hung:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*hung, return_exceptions=True)
        )
        assert await send(apns) == Verdict("sent")
    assert apns_fake.violations == []


async def test_a_host_that_cannot_be_reached_is_told_from_one_that_does_not_answer(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    async with apns_fake.serving(authority):
        settings = apns_settings(limits=replace(QUICK, connect=0.5), resends=1)
    async with Apns(settings) as apns:
        assert await send(apns) == Verdict("unsent", "connect_failed")
    hang = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hang.wait()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with Apns(replace(settings, endpoint=f"https://127.0.0.1:{port}")) as apns:
            began = time.monotonic()
            verdicts = await send_many(apns, 50)
            assert {verdict.kind for verdict in verdicts.values()} == {"unsent"}
            assert time.monotonic() - began < 3.0  # they shared two connects, they did not queue for fifty
        hang.set()


async def test_who_waits_for_a_connection_goes_on_when_the_one_who_makes_it_is_cancelled(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        first = asyncio.create_task(send(apns))
        others = [asyncio.create_task(send(apns)) for _ in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        assert set(await asyncio.gather(*others)) == {Verdict("sent")}
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError)
    assert len(apns_fake.shown) == 5


async def test_a_server_without_our_trust_root_gets_nothing(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings, tmp_path: Path
) -> None:
    other = make_authority(tmp_path)
    async with apns_fake.serving(authority), Apns(apns_settings(ca_path=other.ca_path)) as apns:
        verdict = await send(apns)
    assert verdict == Verdict("unsent", "tls_failed")
    assert apns_fake.requests == 0


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(400, "BadDeviceToken"), Verdict("refused", "BadDeviceToken")),
        (Answer(400, "DeviceTokenNotForTopic"), Verdict("refused", "DeviceTokenNotForTopic")),
        (Answer(413, "PayloadTooLarge"), Verdict("refused", "PayloadTooLarge")),
        (Answer(410, "Unregistered", timestamp=77), Verdict("gone", "Unregistered", gone_at=77)),
        (Answer(410, "ExpiredToken", timestamp=78), Verdict("gone", "ExpiredToken", gone_at=78)),
        (Answer(410), Verdict("gone", "status_410")),
        (Answer(429, "TooManyRequests", retry_after=7), Verdict("later", "TooManyRequests", 7.0, device_only=True)),
        (Answer(429, "TooManyProviderTokenUpdates"), Verdict("paused", "TooManyProviderTokenUpdates", 60.0)),
        (Answer(403, "InvalidProviderToken"), Verdict("paused", "InvalidProviderToken", 300.0)),
        (Answer(500, "InternalServerError"), Verdict("later", "InternalServerError")),
        (Answer(503, "ServiceUnavailable", retry_after=3), Verdict("later", "ServiceUnavailable", 3.0)),
        (Answer(503), Verdict("later", "status_503")),
    ],
    ids=lambda value: f"{value.status} {value.reason}" if isinstance(value, Answer) else "",
)
async def test_every_answer_means_what_apple_says(
    answer: Answer, verdict: Verdict, apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.script = lambda request: answer
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        assert await send(apns) == verdict
    assert apns_fake.requests == 1


async def test_a_topic_that_a_device_chose_wrongly_stops_nobody_else(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    apns_fake.script = lambda request: (
        Answer(403, "InvalidProviderToken") if request.headers["apns-topic"] == "org.example.other" else None
    )
    apns_fake.topics = frozenset({"org.example.app", "org.example.other"})
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        assert (await send(apns, device(app_id="org.example.other"))).kind == "refused"
        assert await send(apns) == Verdict("sent")


async def test_a_token_that_is_no_token_never_reaches_a_header(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    async with apns_fake.serving(authority), Apns(apns_settings()) as apns:
        for token in ("", "../admin", "ab\r\nx: y", "z" * 64, "ab" * 3_000):
            assert await send(apns, device(token=token)) == Verdict("refused", "BadDeviceToken")
    assert apns_fake.requests == 0


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


async def test_the_provider_token_is_renewed_at_fifty_minutes_and_not_before(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    clock = Clock()
    apns_fake.clock = clock
    async with apns_fake.serving(authority), Apns(apns_settings(), clock=clock) as apns:
        for minutes, tokens in ((0, 1), (49, 1), (2, 2), (49, 2), (1, 3)):
            clock.now += minutes * 60
            assert await send(apns) == Verdict("sent")
            assert len(apns_fake.provider_tokens) == tokens


async def test_an_expired_provider_token_is_renewed_once_for_all_who_hear_of_it(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    clock = Clock()
    apns_fake.clock = clock
    apns_fake.latency = 0.02
    async with apns_fake.serving(authority), Apns(apns_settings(), clock=clock) as apns:
        apns_fake.clock = lambda: clock.now + 3_700  # the server's clock is ahead of ours
        clock.now += 120
        verdicts = await send_many(apns, 20)
        assert {verdict.kind for verdict in verdicts.values()} == {"paused"}
        assert len(apns_fake.provider_tokens) == 2
        apns_fake.clock = clock
        assert await send(apns) == Verdict("sent")
        assert len(apns_fake.provider_tokens) == 2


async def test_after_a_renewal_the_push_that_heard_of_it_goes_out(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings
) -> None:
    clock = Clock()
    apns_fake.clock = lambda: clock.now + 3_500
    async with apns_fake.serving(authority), Apns(apns_settings(), clock=clock) as apns:
        first = apns._token.current()
        clock.now += 101
        apns_fake.clock = lambda: clock.now + 3_500
        verdicts = await send_many(apns, 20)
        assert set(verdicts.values()) == {Verdict("sent")}
        assert len(apns_fake.provider_tokens) == 2
        assert first in apns_fake.provider_tokens


def test_a_wrong_key_is_refused_at_the_start_and_not_shown() -> None:
    with pytest.raises(ValueError, match="not a P-256 private key") as caught:
        ProviderToken("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----", "K", "T")
    assert "c2VjcmV0" not in str(caught.value)
    ProviderToken(ec_key_pem()[0], "K", "T")


def test_an_answer_of_no_known_kind_is_not_repeated_for_ever() -> None:
    assert judge(404, "BadPath", None, None).kind == "refused"
    assert judge(302, "status_302", None, None).kind == "refused"
