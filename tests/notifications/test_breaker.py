from __future__ import annotations

import random

from notifications.breaker import Breaker, backoff


def test_a_backoff_doubles_up_to_its_bound_and_is_spread() -> None:
    rng = random.Random(1)
    for attempt, ceiling in ((1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (1_000, 300)):
        waits = {backoff(attempt, rng) for _ in range(200)}
        assert all(ceiling / 2 <= wait <= ceiling for wait in waits)
        assert len(waits) > 100


def test_a_breaker_opens_after_five_failures_in_a_row_and_probes_with_one() -> None:
    breaker = Breaker(random.Random(1))
    for now in range(4):
        assert breaker.admit(now) == 0
        breaker.failed(now, began=now)
    breaker.succeeded()
    for now in range(10, 15):
        assert breaker.admit(now) == 0
        breaker.failed(now, began=now)
    assert 0 < breaker.admit(14.1) <= 1
    assert breaker.admit(15.1) == 0
    assert breaker.admit(15.1) > 0
    breaker.failed(15.2, began=15.1)
    assert 0.8 < breaker.admit(15.3) <= 2
    assert breaker.admit(18) == 0
    breaker.succeeded()
    assert breaker.admit(18) == 0
    assert breaker.admit(18) == 0


def test_attempts_that_began_before_it_opened_do_not_open_it_further() -> None:
    breaker = Breaker(random.Random(1))
    for _ in range(200):
        breaker.failed(1.0, began=0.5)
    assert breaker.opened == 1
    assert breaker.admit(2.1) == 0


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
