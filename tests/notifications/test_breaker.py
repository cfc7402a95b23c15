from __future__ import annotations

import random

from notifications.breaker import Breaker, backoff


def test_a_backoff_doubles_up_to_its_bound_and_is_spread() -> None:
    rng = random.Random(1)
    for attempt, ceiling in ((1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (1_000, 300)):
        waits = {backoff(attempt, rng) for _ in range(200)}
        assert all(ceiling / 2 <= wait <= ceiling for wait in waits)
        assert len(waits) > 100


def test_a_breaker_opens_after_three_failures_in_a_row_and_probes_with_one() -> None:
    breaker = Breaker(random.Random(1))
    for now in range(1, 3):
        assert breaker.admit(now) == 0
        breaker.failed(now + 0.5, began=now)
    breaker.succeeded()
    for now in range(10, 13):
        assert breaker.admit(now) == 0
        breaker.failed(now + 0.5, began=now)
    assert 0 < breaker.admit(12.6) <= 1
    assert breaker.admit(13.5) == 0
    assert breaker.admit(13.5) > 0
    breaker.failed(13.6, began=13.5)
    assert 0.8 < breaker.admit(13.7) <= 2
    assert breaker.admit(16) == 0
    breaker.succeeded()
    assert breaker.admit(16) == 0
    assert breaker.admit(16) == 0


def test_pushes_that_fail_together_count_as_one_failure() -> None:
    breaker = Breaker(random.Random(1))
    for _ in range(250):
        breaker.failed(1.0, began=0.5)
    assert breaker.failures == 1
    assert breaker.admit(1.0) == 0
    for now in (2.0, 3.0):
        for _ in range(250):
            breaker.failed(now, began=now - 0.5)
    assert breaker.opened == 1
    assert breaker.admit(4.1) == 0


def test_a_probe_that_tells_nothing_gives_its_place_to_the_next() -> None:
    breaker = Breaker(random.Random(1))
    breaker.pause(0.0, 10.0)
    assert breaker.admit(9.0) == 1.0
    assert breaker.admit(10.0) == 0
    assert breaker.admit(10.0) > 0
    breaker.released()
    assert breaker.admit(10.0) == 0


def test_what_a_service_asks_for_counts_more_than_the_backoff() -> None:
    breaker = Breaker(random.Random(1), threshold=1)
    breaker.failed(0.0, began=0.0, retry_after=120.0)
    assert breaker.admit(1.0) == 119.0
