"""Every way in which a call to the Messages API can fail, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from providers import ProviderError
from providers.claude import ClaudeProvider
from providers.claude_errors import retry_after
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import (
    Cut,
    EndEarly,
    Gate,
    Raw,
    Script,
    Send,
    Status,
    answer,
    failure,
    server_tool,
    start,
    text,
)
from tests.providers.turns import failed, text_of, turn

LIMIT = {"error_code": "enforced_spend_limit_reached"}


def shape(error: ProviderError) -> tuple[str, bool, bool]:
    return error.code, error.retryable, error.refused


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (Status(400), ("invalid_request", False, False)),
        (Status(400, message="prompt is too long: 9 tokens > 8 maximum"), ("too_large", False, False)),
        (Status(400, message="Your credit balance is too low"), ("payment_required", False, False)),
        (Status(400, details=LIMIT), ("payment_required", False, False)),
        (Status(401), ("authentication", False, False)),
        (Status(402), ("payment_required", False, False)),
        (Status(403), ("permission_denied", False, False)),
        (Status(404), ("not_found", False, False)),
        (Status(408), ("timeout", True, False)),
        (Status(413), ("too_large", False, False)),
        (Status(422), ("invalid_request", False, False)),
        (Status(429), ("rate_limited", True, True)),
        (Status(429, details=LIMIT), ("payment_required", False, False)),
        (Status(429, headers={"x-should-retry": "false"}), ("rate_limited", False, False)),
        (Status(500), ("upstream_error", True, True)),
        (Status(502, body=b"<html>bad gateway sk-secret</html>"), ("upstream_error", True, True)),
        (Status(503, body=b""), ("upstream_error", True, True)),
        (Status(504), ("timeout", True, True)),
        (Status(529), ("overloaded", True, True)),
        (Status(200, body=b'{"type":"message"}'), ("upstream_error", True, False)),
        (Status(302), ("invalid_request", False, False)),
    ],
    ids=lambda value: f"{value.code}" if isinstance(value, Status) else None,
)
async def test_a_status_before_the_stream(
    api: MessagesApi, claude: ClaudeProvider, script: Status, expected: tuple[str, bool, bool]
) -> None:
    api.script = [script]
    events, error = await failed(claude, turn("Hi"))
    assert not events
    assert shape(error) == expected
    assert len(api.calls) == 1, "the provider itself never repeats a call"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (failure("overloaded_error"), ("overloaded", True, False)),
        (failure("api_error"), ("upstream_error", True, False)),
        (failure("rate_limit_error"), ("rate_limited", True, False)),
        (failure("timeout_error"), ("timeout", True, False)),
        (failure("invalid_request_error"), ("invalid_request", False, False)),
        (failure("billing_error"), ("payment_required", False, False)),
        (failure("brand_new_error"), ("upstream_error", True, False)),
        ([Send({"type": "error"})], ("upstream_error", True, False)),
        ([Raw(b"event: error\ndata: {}\n\n")], ("upstream_error", True, False)),
        ([Cut()], ("disconnected", True, False)),
        ([Cut(reset=True)], ("disconnected", True, False)),
        ([Raw(b"\xff\xfe"), Cut()], ("disconnected", True, False)),
        ([EndEarly()], ("incomplete", True, False)),
        ([Raw(b'event: content_block_delta\ndata: {"type":\n\n')], ("upstream_error", True, False)),
        ([Raw(b'event: message_delta\ndata: "text"\n\n')], ("upstream_error", True, False)),
        (
            [Raw(b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n')],
            ("upstream_error", True, False),
        ),
        ([Raw(b"event: message_delta\ndata: " + b"[" * 100_000 + b"\n\n")], ("upstream_error", True, False)),
    ],
)
async def test_a_failure_inside_the_stream_keeps_the_text_before_it(
    api: MessagesApi, claude: ClaudeProvider, script: Script, expected: tuple[str, bool, bool]
) -> None:
    gate = Gate()
    api.script = [*start(), *text("Hel"), gate, *script]
    events, error = await failed(claude, turn("Hi"), gate.opened.set)
    assert text_of(events) == "Hel"
    assert shape(error) == expected
    assert len(api.calls) == 1


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_lost_before_the_headers_may_have_been_worked_on(
    api: MessagesApi, claude: ClaudeProvider, reset: bool
) -> None:
    api.script = [Cut(reset=reset)]
    _, error = await failed(claude, turn("Hi"))
    assert shape(error) == ("disconnected", True, False)
    assert len(api.calls) == 1


async def test_a_refused_connection_may_be_repeated() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with ClaudeProvider(api_key="k", base_url=f"http://127.0.0.1:{port}") as provider:
            _, error = await failed(provider, turn("Hi"))
    assert shape(error) == ("connection_failed", True, True)


async def test_an_unknown_host_may_be_repeated() -> None:
    async with ClaudeProvider(api_key="k", base_url="http://no-such-host.invalid") as provider:
        _, error = await failed(provider, turn("Hi"))
    assert shape(error) == ("connection_failed", True, True)


async def test_connecting_has_a_deadline() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):  # fill the queue of the listener: further SYNs are dropped
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with ClaudeProvider(api_key="k", base_url=f"http://127.0.0.1:{full.getsockname()[1]}") as provider:
            async with asyncio.timeout(5):
                _, error = await failed(provider, turn("Hi", connect_seconds=0.3))
    assert shape(error) == ("connection_failed", True, True)


async def test_tls_to_a_server_that_speaks_none_is_a_failed_connection(api: MessagesApi) -> None:
    async with ClaudeProvider(api_key="k", base_url=api.url.replace("http:", "https:")) as provider:
        async with asyncio.timeout(10):
            _, error = await failed(provider, turn("Hi", connect_seconds=1))
    assert shape(error) == ("connection_failed", True, True)


async def test_a_429_in_the_middle_of_a_paused_turn_is_not_repeated_by_the_gateway(
    api: MessagesApi, claude: ClaudeProvider
) -> None:
    api.queue.append(answer(text("First."), server_tool("web_search", "{}"), stop_reason="pause_turn"))
    api.queue.append([Status(429, headers={"retry-after": "2"})])
    events, error = await failed(claude, turn("Hi"))
    assert text_of(events) == "First."
    assert shape(error) == ("rate_limited", True, False)
    assert error.retry_after == 2.0


async def test_nothing_that_the_api_wrote_and_no_key_is_repeated(
    api: MessagesApi, claude: ClaudeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for script in ([Status(400)], [Status(529)], [Status(502, body=b"sk-secret")], [*start(), *failure()], [Cut()]):
        api.script = script
        _, error = await failed(claude, turn("a private question"))
        assert error.__cause__ is None
        for written in (str(error), repr(error), caplog.text):
            assert "sk-secret" not in written
            assert "upstream's own words" not in written
            assert "private" not in written


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_in_the_future_is_a_time_to_wait() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < (retry_after({"retry-after": moment}) or 0) <= 60
