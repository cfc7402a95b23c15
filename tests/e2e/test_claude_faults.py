"""Whatever the upstream does, the turn ends in one `done`, in bounded time, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client, Frame
from tests.e2e.conftest import NewClient, agents_for
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import (
    Cut,
    EndEarly,
    Gate,
    Pause,
    Script,
    Send,
    Stall,
    Status,
    answer,
    failure,
    start,
    text,
)
from tests.server import GatewayProcess

DEADLINES = {"connect_seconds": 1.0, "first_event_seconds": 1.5, "idle_seconds": 1.0, "total_seconds": 20}
SLACK = 2.0
"""Seconds by which a busy machine may be late."""


@pytest.fixture(scope="module")
def silent_port() -> Iterator[int]:
    """Where connections are neither taken nor refused: a listener whose backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
        for filler in fillers:
            filler.close()


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """Where connections are refused."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture(scope="module")
def gateway_environment(upstream_port: int, silent_port: int, closed_port: int) -> dict[str, Any]:
    def agent(port: int) -> dict[str, Any]:
        return {"provider": "claude", "base_url": f"http://127.0.0.1:{port}", "api_key": "sk-test", "turn": DEADLINES}

    more = {"claude": agent(upstream_port), "silent": agent(silent_port), "closed": agent(closed_port)}
    return {"AGENTS": agents_for(upstream_port, **more)}


async def outcome(phone: Client, within: float = 12.0) -> tuple[Frame, float]:
    """The `done` of one turn, and how many seconds it took."""
    began = time.monotonic()
    await phone.connect()
    accepted = await phone.message("Hi")
    done = await phone.finish(accepted["turn_id"], within)
    joined = phone.texts[accepted["turn_id"]]
    assert joined == done["content"]
    return done, time.monotonic() - began


async def test_429_with_retry_after_is_waited_for_and_then_succeeds(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    messages_api.queue.append([Status(429, headers={"retry-after": "1"})])
    done, seconds = await outcome(new_client(gateway, agent="claude"))
    assert (done["status"], done["content"]) == ("completed", "Hello there")
    assert len(messages_api.calls) == 2
    assert seconds >= 1.0


@pytest.mark.parametrize(("status", "code"), [(529, "overloaded"), (500, "upstream_error")])
async def test_an_upstream_that_refuses_three_times_fails_the_turn_as_retryable(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient, status: int, code: str
) -> None:
    messages_api.script = [Status(status)]
    phone = new_client(gateway, agent="claude")
    done, _ = await outcome(phone)
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", code, True)
    assert len(messages_api.calls) == 3
    assert "sk-secret" not in str(phone.frames)
    assert "sk-secret" not in gateway.log


async def test_a_retry_after_beyond_the_budget_fails_at_once_and_is_told(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    messages_api.script = [Status(429, headers={"retry-after": "3600"})]
    done, seconds = await outcome(new_client(gateway, agent="claude"))
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", "rate_limited", True)
    assert done["error"]["retry_after"] == 3600
    assert seconds < SLACK
    assert len(messages_api.calls) == 1


@pytest.mark.parametrize(("status", "code"), [(401, "authentication"), (400, "invalid_request"), (413, "too_large")])
async def test_a_refusal_that_will_not_change_is_not_repeated(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient, status: int, code: str
) -> None:
    messages_api.script = [Status(status)]
    done, _ = await outcome(new_client(gateway, agent="claude"))
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", code, False)
    assert len(messages_api.calls) == 1


SAID = [*start(), *text("Hel", "lo")]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        pytest.param([*SAID, Cut()], "disconnected", id="cut"),
        pytest.param([*SAID, Cut(reset=True)], "disconnected", id="reset"),
        pytest.param([*SAID, EndEarly()], "incomplete", id="clean early end"),
        pytest.param([*SAID, *failure("overloaded_error")], "overloaded", id="error in the stream"),
        pytest.param([*SAID, *failure("api_error")], "upstream_error", id="another error in the stream"),
    ],
)
async def test_a_stream_that_breaks_keeps_its_text_and_is_not_called_again(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient, script: Script, code: str
) -> None:
    messages_api.script = script
    done, _ = await outcome(new_client(gateway, agent="claude"))
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", code, True)
    assert code == "disconnected" or done["content"] == "Hello"
    assert "Hello".startswith(done["content"])
    assert len(messages_api.calls) == 1
    turn = await gateway.get(f"/api/turns/{done['turn_id']}")
    assert (turn["status"], turn["content"]) == ("failed", done["content"])


async def test_text_that_was_shown_before_the_stream_was_cut_is_kept(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    gate = Gate()
    messages_api.script = [*start(), *text("Hello", gate), Cut(reset=True)]
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    accepted = await phone.message("Hi")
    await phone.receive(until="message")
    gate.opened.set()
    done = await phone.finish(accepted["turn_id"])
    assert (done["status"], done["content"], done["error"]["code"]) == ("failed", "Hello", "disconnected")
    assert len(messages_api.calls) == 1


@pytest.mark.parametrize(
    ("script", "seconds"),
    [
        pytest.param([Stall()], DEADLINES["first_event_seconds"], id="before the headers"),
        pytest.param([*start()[:1], Stall()], DEADLINES["first_event_seconds"], id="before the first text"),
        pytest.param([*SAID, Stall()], DEADLINES["idle_seconds"], id="in the middle"),
    ],
)
async def test_a_stalled_upstream_is_given_up_at_our_own_deadline(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient, script: Script, seconds: float
) -> None:
    messages_api.script = script
    done, took = await outcome(new_client(gateway, agent="claude"))
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", "timeout", True)
    assert seconds * 0.6 <= took < 2 * seconds + SLACK
    assert len(messages_api.calls) == 1
    async with asyncio.timeout(3):
        await messages_api.calls[0].closed.wait()


async def test_pings_of_the_upstream_keep_a_thinking_turn_alive(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    pings = [step for _ in range(6) for step in (Pause(0.4), Send({"type": "ping"}))]
    messages_api.script = [*start(), *pings, *answer(text("at last"))[2:]]
    done, seconds = await outcome(new_client(gateway, agent="claude"))
    assert (done["status"], done["content"]) == ("completed", "at last")
    assert seconds > DEADLINES["idle_seconds"] + DEADLINES["first_event_seconds"] - 0.2


@pytest.mark.parametrize("agent", ["closed", "silent"])
async def test_an_upstream_that_cannot_be_reached_fails_the_turn_in_bounded_time(
    gateway: GatewayProcess, new_client: NewClient, agent: str
) -> None:
    done, seconds = await outcome(new_client(gateway, agent=agent), within=20)
    print(f"{agent}: {done['error']['code']} after {seconds:.1f} s")
    assert (done["status"], done["error"]["retryable"]) == ("failed", True)
    assert done["error"]["code"] in ("connection_failed", "timeout" if agent == "silent" else "connection_failed")
    assert seconds < 3 * DEADLINES["connect_seconds"] + 3.0 + SLACK


async def test_events_that_nobody_knows_are_skipped(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    unknown = [
        Send({"type": "content_block_start", "index": 7, "content_block": {"type": "hologram", "data": "x"}}),
        Send({"type": "content_block_delta", "index": 7, "delta": {"type": "hologram_delta", "data": "y"}}),
        Send({"type": "content_block_stop", "index": 7}),
        Send({"type": "weather_report", "wind": 3}),
    ]
    messages_api.script = answer(unknown, text("all ", "the same"))
    done, _ = await outcome(new_client(gateway, agent="claude"))
    assert (done["status"], done["content"]) == ("completed", "all the same")


@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal"])
async def test_an_answer_that_stops_for_a_reason_of_its_own_is_completed_with_it(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient, stop_reason: str
) -> None:
    messages_api.script = answer(text("so far"), stop_reason=stop_reason)
    done, _ = await outcome(new_client(gateway, agent="claude"))
    assert (done["status"], done["stop_reason"], done["content"]) == ("completed", stop_reason, "so far")
    assert done["usage"]["output_tokens"] == 5
