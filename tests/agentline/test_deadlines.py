"""When the client comes back."""

from __future__ import annotations

import pytest

from agentline import Deadlines, Disconnected
from agentline.deadlines import STEADY_SECONDS, Backoff

DEADLINES = Deadlines(give_up=100, first_delay=1, longest_delay=8)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_wait_doubles_up_to_a_bound_and_is_random_below_it() -> None:
    most = [0.0] * 8
    least = [100.0] * 8
    for _ in range(300):
        backoff = Backoff(DEADLINES, Clock())
        for attempt in range(8):
            delay = backoff.lost("gone")
            most[attempt], least[attempt] = max(most[attempt], delay), min(least[attempt], delay)
    for attempt, bound in enumerate([1, 2, 4, 8, 8, 8, 8, 8]):
        assert bound * 0.9 < most[attempt] <= bound
        assert least[attempt] < bound * 0.1


def test_progress_starts_it_over_and_a_bare_connection_does_not() -> None:
    clock = Clock()
    backoff = Backoff(DEADLINES, clock)
    for _ in range(6):
        backoff.connected()
        backoff.lost("gone")
    assert max(backoff.lost("gone") for _ in range(50)) > 1
    backoff.progressed()
    assert backoff.lost("gone") <= 1


def test_a_connection_that_held_for_a_while_was_a_good_one() -> None:
    clock = Clock()
    backoff = Backoff(DEADLINES, clock)
    for _ in range(30):
        backoff.connected()
        clock.now += STEADY_SECONDS
        assert backoff.lost("gone") <= 1


def test_it_gives_up_after_so_long_without_progress_and_says_why() -> None:
    clock = Clock()
    backoff = Backoff(DEADLINES, clock)
    backoff.lost("first")
    clock.now = 99.5
    assert backoff.lost("last but one") <= 0.5, "it does not wait past the end"
    clock.now = 100
    with pytest.raises(Disconnected, match="for 100 s: last"):
        backoff.lost("last")


def test_what_the_gateway_asks_for_is_waited() -> None:
    assert 5 <= Backoff(DEADLINES, Clock()).lost("busy", at_least=5) <= 6
