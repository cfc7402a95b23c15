"""The client without asyncio: plain generators that leave nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import uuid

import pytest

from agentline import (
    Accepted,
    Agentline,
    ApprovalRequest,
    ApprovalResolved,
    Done,
    NotFound,
    Snapshot,
    Text,
    TurnFailed,
)
from tests.agentline.conftest import line_to
from tests.agentline.leaks import held
from tests.agentline.proxy import Act, Proxy, Seen
from tests.server import GatewayProcess


@pytest.fixture
def line(gateway: GatewayProcess) -> Agentline:
    return line_to(gateway.url)


def test_the_text_comes_piece_by_piece_and_the_generator_returns_the_end(line: Agentline) -> None:
    generator = line.stream_text("demo", "/pieces 5 0.03")
    pieces, times = [], []
    while True:
        try:
            pieces.append(next(generator))
        except StopIteration as stop:
            done = stop.value
            break
        times.append(time.monotonic())
    assert "".join(pieces) == "1 2 3 4 5 "
    assert len(pieces) >= 4, "what came while it connected may come as one"
    assert times[-1] - times[0] > 0.06, "not all at once"
    assert isinstance(done, Done)
    assert (done.status, done.content) == ("completed", "1 2 3 4 5 ")


def test_text_that_the_agent_takes_back_is_followed_by_what_stands(line: Agentline) -> None:
    assert "".join(line.stream_text("demo", "/reset")).endswith("\n\nThis text stands instead.")


def test_a_turn_that_fails_raises_behind_its_text(line: Agentline) -> None:
    generator = line.stream_text("demo", "/error overloaded after")
    assert next(generator)
    with pytest.raises(TurnFailed) as raised:
        list(generator)
    assert raised.value.done.error is not None
    assert raised.value.done.error.code == "overloaded"


def test_a_silent_agent_gives_the_caller_a_chance_to_stop(line: Agentline) -> None:
    pieces = list(line.stream_text("demo", "/pause 0.5\n/echo there", idle=0.1))
    assert pieces.count("") >= 3
    assert "".join(pieces) == "there"


def test_approvals_are_asked_between_two_events(line: Agentline) -> None:
    asked: list[ApprovalRequest] = []

    def decide(request: ApprovalRequest) -> tuple[str, str]:
        asked.append(request)
        return "blue", "like the sky"

    events = list(line.blocking.stream("demo", "/approval question", on_approval=decide))
    assert [option.id for option in asked[0].options] == ["red", "blue", "declined"]
    resolved = [event for event in events if isinstance(event, ApprovalResolved)]
    assert [event.decision for event in resolved] == ["blue"]
    assert isinstance(events[-1], Done)
    assert "like the sky" in events[-1].content


def test_calls_work_without_asyncio(line: Agentline) -> None:
    sent = line.blocking.send("demo", "/echo in the background")
    with_done = line.blocking.follow(sent.thread_id)
    first = next(with_done)
    assert isinstance(first, Snapshot)
    if first.turn is not None:
        assert any(isinstance(event, Done) for event in itertools.islice(with_done, 20))
    with_done.close()
    turn = line.blocking.turn(sent.turn_id)
    assert (turn.status, turn.content) == ("completed", "in the background")
    assert [message.role for message in line.blocking.messages(sent.thread_id)] == ["user", "assistant"]
    assert line.blocking.rename(sent.thread_id, "A title").title == "A title"
    assert sent.thread_id in [thread.thread_id for thread in line.blocking.threads(agent="demo").threads]
    line.blocking.delete(sent.thread_id)
    with pytest.raises(NotFound):
        line.blocking.thread(sent.thread_id)
    assert "demo" in [agent.name for agent in line.blocking.agents()]


# --- what is left behind -------------------------------------------------------------------------------------


def test_a_generator_that_is_kept_is_seen_to_hold_a_socket(line: Agentline) -> None:
    """Else the tests below would show nothing."""
    before = held()
    generator = line.stream_text("demo", "/pieces 5 0.01")
    next(generator)
    assert len(held().sockets - before.sockets) == 1
    assert held().threads == before.threads
    generator.close()
    assert held() == before


def test_a_whole_turn_leaves_no_thread_no_loop_and_no_socket(line: Agentline) -> None:
    before = held()
    for _ in range(5):
        assert "".join(line.stream_text("demo", "/echo hi")) == "hi"
    assert held() == before


def test_a_dropped_generator_has_let_go_at_once_and_its_turn_goes_on(line: Agentline) -> None:
    before = held()
    for event in line.blocking.stream("demo", "/pause 3\n/echo said anyway"):
        if isinstance(event, Accepted):
            turn_id = event.turn_id
            break
    del event
    assert held() == before
    assert line.blocking.turn(turn_id).status == "running"
    list(line.blocking.stream("demo", "/echo next", thread_id=line.blocking.turn(turn_id).thread_id))
    assert line.blocking.turn(turn_id).content == "said anyway"


def test_a_generator_that_is_never_started_or_is_closed_twice_holds_nothing(line: Agentline) -> None:
    before = held()
    generator = line.stream_text("demo", "Hi")
    assert held() == before
    generator.close()
    generator = line.stream_text("demo", "/pieces 5 0.01")
    next(generator)
    generator.close()
    generator.close()
    assert held() == before


def test_an_exception_in_the_loop_over_it_lets_go(line: Agentline) -> None:
    before = held()

    class Rerun(BaseException):
        """As a host raises to stop a script."""

    def script() -> None:
        for _ in line.stream_text("demo", "/pieces 50 0.01"):
            raise Rerun

    with pytest.raises(Rerun):
        script()
    assert held() == before


def test_many_threads_use_one_client_at_once(line: Agentline) -> None:
    before = held()
    texts: dict[int, str] = {}

    def script(number: int) -> None:
        texts[number] = "".join(line.stream_text("demo", f"/pieces 5 0.01\n/echo {number}"))

    threads = [threading.Thread(target=script, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert texts == {number: f"1 2 3 4 5 \n\n{number}" for number in range(12)}
    assert held() == before


async def test_it_works_inside_a_running_loop(gateway: GatewayProcess) -> None:
    """As in a notebook: it blocks the loop, but needs none."""
    assert "".join(line_to(gateway.url).stream_text("demo", "/echo hi")) == "hi"


async def test_a_run_that_stops_and_the_next_one_with_the_same_id_show_the_whole_text(gateway: GatewayProcess) -> None:
    """What a script does that its host reruns in the middle of a turn."""
    message_id = uuid.uuid4().hex

    def run(pieces: int | None) -> str:
        generator = line_to(gateway.url).stream_text("demo", "/pieces 20 0.02", id=message_id)
        text = "".join(itertools.islice(generator, pieces))
        generator.close()
        return text

    whole = "".join(f"{n} " for n in range(1, 21))
    first = await asyncio.to_thread(run, 3)
    assert whole.startswith(first)
    assert await asyncio.to_thread(run, None) == whole
    assert await asyncio.to_thread(run, None) == whole, "also when the turn is over"


async def test_a_dropped_generator_closes_its_connection(gateway: GatewayProcess) -> None:
    async with Proxy(gateway.url) as proxy:

        def script() -> None:
            for event in line_to(proxy.url).blocking.stream("demo", "/pause 5"):
                if isinstance(event, Accepted):
                    return

        await asyncio.to_thread(script)
        await proxy.until_all_closed()
        assert proxy.connections == 1


async def test_a_reader_that_pauses_longer_than_the_gateway_waits_misses_nothing(gateway: GatewayProcess) -> None:
    """Between two pieces a blocking client answers no ping; the gateway lets it go, and it resumes."""

    def policy(seen: Seen) -> Act:
        return Act.CUT_AFTER if seen.connection == 0 and seen.type == "message" else Act.PASS

    async with Proxy(gateway.url, policy) as proxy:

        def script() -> str:
            text = ""
            for event in line_to(proxy.url).blocking.stream("demo", "/pieces 10 0.01"):
                if isinstance(event, Text):
                    if not text:
                        time.sleep(0.5)  # what makes it slow
                    text += event.content
            return text

        assert await asyncio.to_thread(script) == "1 2 3 4 5 6 7 8 9 10 "
