from __future__ import annotations

import re
import time
import timeit
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import StoreUnavailable
from gateway.metrics import Metrics, Now
from gateway.store.base import Store
from providers import ProviderError, TextDelta
from providers.events import Completed
from tests.gateway.engine import engine
from tests.gateway.test_turns import Held

PAGE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text("utf-8")
NOTHING = Now({"demo": 0}, 0, 0, {"ios": 0})


def filled() -> Metrics:
    """With a sample of everything."""
    metrics = Metrics()
    metrics.pace("demo", time.monotonic()).logged(1)
    metrics.turn_ended("demo", "failed", "overloaded")
    metrics.pushed("ios", "sent")
    return metrics


def samples(metrics: Metrics, now: Now = NOTHING) -> dict[str, float]:
    """As Prometheus reads them: `name{label=value,…}` to value."""
    text = metrics.exposition("", now)[0].decode()
    return {
        sample.name
        + "{"
        + ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        + "}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_is_on_the_operators_page_and_no_other() -> None:
    families = list(filled().collect())
    exposed = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert exposed == set(re.findall(r"`(agentline_[a-z_]+)`", PAGE))
    for family in families:
        for sample in family.samples:
            for label in sample.labels:
                assert label == "le" or f"`{label}`" in PAGE, f"{family.name} has an undocumented label {label}"


def test_the_format_is_the_one_that_the_scraper_asks_for() -> None:
    plain, media_type = filled().exposition("", NOTHING)
    assert media_type.startswith("text/plain")
    assert plain.endswith(b"\n")
    newer, media_type = filled().exposition("application/openmetrics-text; version=1.0.0", NOTHING)
    assert media_type.startswith("application/openmetrics-text")
    assert newer.endswith(b"# EOF\n")


def test_two_applications_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.resumed("exact")
    assert samples(one)["agentline_resumes_total{result=exact}"] == 1
    assert samples(other)["agentline_resumes_total{result=exact}"] == 0


def test_a_code_that_a_plug_in_made_up_is_no_label() -> None:
    metrics = Metrics()
    metrics.turn_ended("demo", "failed", "the user said: hunter2")
    shown = metrics.exposition("", NOTHING)[0].decode()
    assert "hunter2" not in shown
    assert samples(metrics)["agentline_provider_errors_total{agent=demo,code=other}"] == 1


def test_pieces_are_sorted_into_buckets_by_the_time_since_the_one_before() -> None:
    metrics = Metrics()
    pace = metrics.pace("demo", time.monotonic() - 0.2)
    pace.logged(0)
    for pieces in (1, 1, 2, 4):
        pace.logged(pieces)
    found = samples(metrics)
    assert found["agentline_first_piece_seconds_count{agent=demo}"] == 1
    assert found["agentline_first_piece_seconds_bucket{agent=demo,le=0.1}"] == 0
    assert found["agentline_first_piece_seconds_bucket{agent=demo,le=10.0}"] == 1
    assert 0.2 <= found["agentline_first_piece_seconds_sum{agent=demo}"] < 10
    assert found["agentline_piece_gap_seconds_count{agent=demo}"] == 2
    assert found["agentline_piece_gap_seconds_bucket{agent=demo,le=+Inf}"] == 2


def test_a_piece_costs_less_than_a_microsecond() -> None:
    """Measured at 0.3 µs; the best of many runs, since the machine may have other things to do."""
    pace = Metrics().pace("demo", time.monotonic())
    pieces = iter(range(1, 10**9))
    best = min(timeit.repeat(lambda: pace.logged(next(pieces)), number=2_000, repeat=50)) / 2_000
    print(f"{best * 1e6:.2f} µs")
    assert best < 2e-6, "twice what it may cost on a quiet machine, call and counting of the test included"


async def test_a_turn_counts_once_by_how_it_ended_and_each_refused_call_by_its_code(
    store: Store, tmp_path: Path
) -> None:
    calls = 0

    async def flaky(turn: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ProviderError("overloaded", "full", retryable=True, retry_after=0.0, refused=True)
        for number in range(3):
            yield TextDelta("t", f"{number} ")
        yield Completed("end_turn")

    async def failing(turn: object) -> object:
        raise ProviderError("authentication", "no key")
        yield Completed("end_turn")

    async with engine(store, tmp_path, a=flaky, b=failing) as parts:  # type: ignore[arg-type]  # generators of events
        await parts.run()
        await parts.run(agent="b")
        phone = parts.client()
        await phone.send(thread_id="again")
        await phone.until("done")
        cursor = phone.frames[-1]["cursor"]
        await parts.client().attach("again", cursor)
        await parts.client().attach("again", "1:1")
        found = samples(parts.metrics)
    assert found["agentline_turns_total{agent=a,outcome=completed}"] == 2
    assert found["agentline_turns_total{agent=b,outcome=failed}"] == 1
    assert found["agentline_provider_errors_total{agent=a,code=overloaded}"] == 1
    assert found["agentline_provider_errors_total{agent=b,code=authentication}"] == 1
    assert found["agentline_first_piece_seconds_count{agent=a}"] == 2
    assert found["agentline_piece_gap_seconds_count{agent=a}"] == 4
    assert found["agentline_resumes_total{result=exact}"] == 1
    assert found["agentline_resumes_total{result=refused}"] == 1


async def test_a_turn_cancelled_before_it_began_counts_once_although_the_store_was_away_at_first(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(batch: object) -> None:
        raise StoreUnavailable("it is away")

    held = Held()
    async with engine(store, tmp_path, a=held) as parts:
        running = await parts.submit(thread_id="t")
        waiting = await parts.submit("never mind", thread_id="t")
        await store.cancel_queued(waiting.thread.key, waiting.turn.turn_id, 7_000)
        held.go.set()
        await parts.ended(running)
        with monkeypatch.context() as patched:
            patched.setattr(store, "checkpoint", away)
            with pytest.raises(StoreUnavailable):
                await parts.runner.show_cancelled(waiting.thread.key)
        await parts.runner.show_cancelled(waiting.thread.key)
        found = samples(parts.metrics)
    assert found["agentline_turns_total{agent=a,outcome=cancelled}"] == 1
