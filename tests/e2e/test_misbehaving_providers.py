"""A provider that breaks every rule harms its own turn and nothing else."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.answer import ANSWER_CHARS
from providers import (
    ApprovalRequest,
    Completed,
    Event,
    Option,
    Progress,
    ProviderError,
    SessionUpdated,
    TextDelta,
    ToolCall,
    Turn,
)
from providers.base import Capability
from tests.client import Client
from tests.e2e.inprocess import GatewayHere, gateway_here
from tests.server import TOKENS

LIMITS = {"first_event_seconds": 2.0, "idle_seconds": 1.0, "total_seconds": 5.0}
CLOSING_SECONDS = 0.5
WITHIN = 12.0
"""Seconds within which every misbehaviour must have ended: the total deadline, the closing time, and some slack."""
test_over = threading.Event()
"""Set for the one that ends in no other way."""
SECRET = "hunter2-not-for-clients"


class Provider:
    name = "bad"
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, stream: Callable[[Turn], Any]) -> None:
        self._stream = stream

    def stream(self, turn: Turn, /) -> Any:
        return self._stream(turn)


async def raises_at_once(turn: Turn) -> AsyncGenerator[Event]:
    raise RuntimeError(SECRET)
    yield


async def raises_late(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    raise ValueError(SECRET)


async def raises_while_closing(turn: Turn) -> AsyncGenerator[Event]:
    try:
        yield TextDelta("a", "half")
        yield Completed()
    finally:
        raise RuntimeError(SECRET)


async def never_begins(turn: Turn) -> AsyncGenerator[Event]:
    await asyncio.Event().wait()
    yield Completed()


async def never_ends(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    await asyncio.Event().wait()


async def never_ends_behind_completed(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    yield Completed()
    await asyncio.Event().wait()


async def lively_without_end(turn: Turn) -> AsyncGenerator[Event]:
    while True:
        yield Progress()
        await asyncio.sleep(0.01)


async def floods_with_text(turn: Turn) -> AsyncGenerator[Event]:
    piece = TextDelta("a", "x" * (ANSWER_CHARS // 2_000))
    while True:
        yield piece


async def floods_with_nothing(turn: Turn) -> AsyncGenerator[Event]:
    nothing = TextDelta("a", "")
    while True:
        yield nothing


async def one_huge_text(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "x" * (ANSWER_CHARS + 1))
    yield Completed()


async def goes_on_behind_completed(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    yield Completed()
    yield TextDelta("a", "more")


async def completes_twice(turn: Turn) -> AsyncGenerator[Event]:
    yield Completed()
    yield Completed()


async def swallows_its_cancellation(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    while not test_over.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
    yield TextDelta("a", "too late")


async def cancels_itself(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    raise asyncio.CancelledError


async def cancels_its_task(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def ends_the_process(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    raise SystemExit(1)


async def interrupts_the_process(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    raise KeyboardInterrupt


async def fails_in_half_a_surrogate(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    raise ProviderError("upstream_error", "\x00\ud800")


async def fails_with_an_error_as_words(turn: Turn) -> AsyncGenerator[Any]:
    yield TextDelta("a", "half")
    raise ProviderError("upstream_error", ValueError(SECRET))  # type: ignore[arg-type]  # wrong on purpose


async def fails_without_a_code(turn: Turn) -> AsyncGenerator[Any]:
    yield TextDelta("a", "half")
    raise ProviderError(None, None, object(), "soon")  # type: ignore[arg-type]  # wrong on purpose


async def fails_at_great_length(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    raise ProviderError("upstream_error", "x" * 2_000_000, retry_after=float("inf"))


async def offers_too_much(turn: Turn) -> AsyncGenerator[Event]:
    await turn.approve(ApprovalRequest("tool", "x", options=tuple(Option(str(n), "x" * 1000) for n in range(1000))))
    yield Completed()


async def raises_generator_exit(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")
    raise GeneratorExit


async def is_a_coroutine(turn: Turn) -> str:
    return SECRET


def is_a_list(turn: Turn) -> list[Event]:
    return [TextDelta("a", "x"), Completed()]


def raises_before_it_streams(turn: Turn) -> Any:
    raise RuntimeError(SECRET)


async def yields_no_events(turn: Turn) -> AsyncGenerator[Any]:
    yield {"type": "text", "text": SECRET}


async def yields_none(turn: Turn) -> AsyncGenerator[Any]:
    yield None


async def names_that_cannot_be_encoded(turn: Turn) -> AsyncGenerator[Any]:
    yield TextDelta("\ud800", "half")
    yield ToolCall("\ud800", "\ud800", arguments={"x": object()})


async def numbers_that_cannot_be_stored(turn: Turn) -> AsyncGenerator[Any]:
    yield SessionUpdated({"n": 2**80})


async def asks_nonsense(turn: Turn) -> AsyncGenerator[Event]:
    await turn.approve(ApprovalRequest("command", "\ud800", {"x": object()}))
    yield Completed()


async def ends_without_completed(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "half")


CASES: dict[Callable[[Turn], Any], str] = {
    raises_at_once: "provider_fault",
    raises_late: "provider_fault",
    raises_while_closing: "provider_fault",
    never_begins: "timeout",
    never_ends: "timeout",
    never_ends_behind_completed: "provider_fault",
    lively_without_end: "timeout",
    floods_with_text: "too_large",
    floods_with_nothing: "timeout",
    one_huge_text: "too_large",
    goes_on_behind_completed: "provider_fault",
    completes_twice: "provider_fault",
    swallows_its_cancellation: "timeout",
    cancels_itself: "provider_fault",
    cancels_its_task: "provider_fault",
    ends_the_process: "provider_fault",
    interrupts_the_process: "provider_fault",
    fails_in_half_a_surrogate: "upstream_error",
    fails_with_an_error_as_words: "upstream_error",
    fails_without_a_code: "provider_fault",
    fails_at_great_length: "upstream_error",
    offers_too_much: "provider_fault",
    raises_generator_exit: "provider_fault",
    is_a_coroutine: "provider_fault",
    is_a_list: "provider_fault",
    raises_before_it_streams: "provider_fault",
    yields_no_events: "provider_fault",
    yields_none: "provider_fault",
    names_that_cannot_be_encoded: "provider_fault",
    numbers_that_cannot_be_stored: "provider_fault",
    asks_nonsense: "provider_fault",
    ends_without_completed: "incomplete",
}


class Steady:
    """Says a number every 5 ms until it is let go."""

    name = "steady"
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self) -> None:
        self.enough = asyncio.Event()
        self.longest_wait = 0.0

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        number, before = 0, time.monotonic()
        while not self.enough.is_set():
            yield TextDelta("a", f"{number} ")
            number += 1
            await asyncio.sleep(0.005)
            now = time.monotonic()
            self.longest_wait = max(self.longest_wait, now - before)
            before = now
        yield Completed()


@pytest.fixture
def steady() -> Steady:
    return Steady()


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steady: Steady) -> AsyncIterator[GatewayHere]:
    monkeypatch.setattr("gateway.runner.stream.CLOSING_SECONDS", CLOSING_SECONDS)
    monkeypatch.setattr("gateway.deadlines.CLOSING_SECONDS", CLOSING_SECONDS)
    bad = {stream.__name__.replace("_", "-"): Provider(stream) for stream in CASES}
    agents = {"steady": {"turn": {"total_seconds": 60}}}
    async with gateway_here(
        tmp_path, monkeypatch, providers={**bad, "steady": steady}, agents=agents, turn=LIMITS
    ) as here:
        test_over.clear()
        yield here
        test_over.set()


async def ends(client: Client, code: str) -> dict[str, Any]:
    accepted = await client.message("Hi", thread_id=f"of-{code}-{id(client)}")
    return await client.finish(accepted["turn_id"], within=WITHIN)


async def test_each_misbehaviour_ends_its_own_turn_in_a_typed_error_while_another_streams_on(
    here: GatewayHere, steady: Steady, capsys: pytest.CaptureFixture[str]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        witness = await stack.enter_async_context(here.client(agent="steady"))
        accepted = await witness.message("Hi")
        await witness.receive(until="message")

        async def misbehave(stream: Callable[[Turn], Any]) -> tuple[str, str, dict[str, Any], float]:
            client = here.client(agent=stream.__name__.replace("_", "-"))
            async with client:
                began = time.monotonic()
                done = await ends(client, stream.__name__)
                # The socket lives on, and so does its agent's next turn.
                assert (await client.quiet()) is not None
                return stream.__name__, CASES[stream], done, time.monotonic() - began

        # One after another would take long; the floods and the others must not disturb each other either.
        results = await asyncio.gather(*(misbehave(stream) for stream in CASES))
        for name, code, done, seconds in results:
            assert done["status"] == "failed", (name, done)
            assert done["error"]["code"] == code, (name, done["error"])
            assert SECRET not in str(done), name
            assert seconds < WITHIN, (name, seconds)
            if "half" in done["content"]:
                assert done["content"] == "half", name
        steady.enough.set()
        done = await witness.finish(accepted["turn_id"])
        assert done["status"] == "completed"
        numbers = done["content"].split()
        assert numbers == [str(number) for number in range(len(numbers))]
        with capsys.disabled():
            print(
                f"\n{len(CASES)} misbehaving providers at once: another turn said {len(numbers)} pieces meanwhile, "
                f"its longest wait was {steady.longest_wait * 1000:.0f} ms"
            )
        assert steady.longest_wait < 1.0


async def test_a_swallowed_cancellation_does_not_hold_up_the_cancel(here: GatewayHere) -> None:
    async with here.client(agent="swallows-its-cancellation") as client:
        accepted = await client.message("Hi", thread_id="t")
        await client.receive(until="message")
        began = time.monotonic()
        await client.send("cancel", turn_id=accepted["turn_id"])
        done = await client.finish(accepted["turn_id"])
        assert done["status"] in ("cancelled", "failed")  # its own idle deadline may come first
        assert time.monotonic() - began < CLOSING_SECONDS + 0.6
        assert done["content"] == "half"


async def test_a_log_with_a_bad_turn_in_it_can_be_read_again(here: GatewayHere) -> None:
    for stream in (names_that_cannot_be_encoded, yields_no_events, asks_nonsense):
        async with here.client(agent=stream.__name__.replace("_", "-")) as client:
            accepted = await client.message("Hi", thread_id=stream.__name__)
            done = await client.finish(accepted["turn_id"], within=WITHIN)
        await here.services.logs.checkpoint()
        async with here.client() as again:
            await again.attach(stream.__name__, accepted["cursor"])
            assert (await again.finish(accepted["turn_id"]))["content"] == done["content"]


class SaysNothingOfItself:
    """What it leaves out is unsupported; its `__aenter__` returns nothing."""

    async def __aenter__(self) -> None:
        self.entered = True

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        assert self.entered
        yield TextDelta("a", "Hi")
        yield Completed()


class SaysItInAList(SaysNothingOfItself):
    capabilities: list[Any] = ["reasoning", "juggling", 7]  # noqa: RUF012 - wrong on purpose


async def test_an_agent_whose_provider_leaves_out_its_capabilities_answers_and_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"plain": SaysNothingOfItself(), "listing": SaysItInAList()}
    async with gateway_here(tmp_path, monkeypatch, providers=given) as here:
        for name, able in (("plain", []), ("listing", ["reasoning"])):
            async with here.client(agent=name) as client:
                assert client.ready["capabilities"] == able
                accepted = await client.message("Hi", when_busy="steer", thread_id=name)
                assert (await client.finish(accepted["turn_id"]))["content"] == "Hi"
        async with httpx2.AsyncClient(base_url=here.url, trust_env=False) as http:
            answer = await http.get("/api/agents", headers={"Authorization": f"Bearer {TOKENS['alice']}"})
        listed = {agent["name"]: agent["capabilities"] for agent in answer.json()["agents"]}
        assert (listed["plain"], listed["listing"]) == ([], ["reasoning"])
