from dataclasses import dataclass

import pytest

from gateway.deadlines import CLOSING_SECONDS, Deadlines


@dataclass(frozen=True)
class Limits:
    first_event_seconds: float = 10.0
    idle_seconds: float = 3.0
    total_seconds: float = 100.0


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    return Deadlines(Limits(), clock)


def test_the_first_event_has_a_deadline_of_its_own(deadlines: Deadlines, clock: Clock) -> None:
    clock.time += 9.5
    assert deadlines.expired() is None
    clock.time += 0.5
    assert deadlines.left() == 0
    assert deadlines.expired() == "first_event"


def test_every_event_starts_the_idle_deadline_anew(deadlines: Deadlines, clock: Clock) -> None:
    for _ in range(20):
        clock.time += 2.9
        deadlines.touch()
        assert deadlines.left() == 3
    clock.time += 3
    assert deadlines.expired() == "idle"


def test_the_whole_turn_ends_however_lively_it_is(deadlines: Deadlines, clock: Clock) -> None:
    for _ in range(99):
        clock.time += 1
        deadlines.touch()
    assert deadlines.left() == 1
    clock.time += 1
    assert deadlines.expired() == "total"


def test_the_idle_deadline_stands_still_while_a_person_is_asked(deadlines: Deadlines, clock: Clock) -> None:
    deadlines.touch()
    deadlines.pause()
    clock.time += 50
    assert deadlines.expired() is None
    assert 0 < deadlines.left() <= 50
    deadlines.resume()
    assert deadlines.left() == 3
    clock.time += 3
    assert deadlines.expired() == "idle"


def test_it_stands_still_until_the_last_of_several_answers(deadlines: Deadlines, clock: Clock) -> None:
    deadlines.pause()
    deadlines.pause()
    clock.time += 20
    deadlines.resume()
    clock.time += 20
    assert deadlines.expired() is None
    deadlines.resume()
    clock.time += 9.5
    assert deadlines.expired() is None
    clock.time += 0.5
    assert deadlines.expired() == "first_event"


def test_asking_a_person_does_not_stop_the_deadline_of_the_turn(deadlines: Deadlines, clock: Clock) -> None:
    deadlines.pause()
    clock.time += 100
    assert deadlines.expired() == "total"


def test_a_provider_has_little_time_to_end_behind_its_last_word(deadlines: Deadlines, clock: Clock) -> None:
    deadlines.touch()
    deadlines.closing()
    assert deadlines.expired() is None
    clock.time += CLOSING_SECONDS
    assert deadlines.expired() == "closing"


def test_the_total_deadline_holds_in_every_phase(clock: Clock) -> None:
    for phase in ("first_event", "idle", "closing"):
        deadlines = Deadlines(Limits(first_event_seconds=50, idle_seconds=50, total_seconds=4), clock)
        if phase != "first_event":
            deadlines.touch()
        if phase == "closing":
            deadlines.closing()
        clock.time += 3.5
        assert deadlines.expired() is None
        clock.time += 0.5
        assert deadlines.expired() == "total"


def test_nobody_sleeps_past_a_deadline_that_begins_meanwhile(deadlines: Deadlines, clock: Clock) -> None:
    assert deadlines.left() <= 3  # the idle deadline is shorter than the one for the first event
    deadlines.touch()
    deadlines.pause()
    assert deadlines.left() <= 3
