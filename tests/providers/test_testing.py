"""Each rule of the conformance kit bites: a provider that breaks it is named with it; and what the report says."""

from __future__ import annotations

import asyncio

import pytest

from providers import Event, TextDelta
from providers.testing import RULES, Limits, check, examine, message, require, turns_at_most
from tests.providers.wrong import (
    WRONG,
    CompletesTwice,
    Fails,
    FailsProperly,
    Good,
    RaisesAnything,
    WillNotStop,
    WithSessions,
)

IMPATIENT = Limits(answer=2.0, stop=0.5)


def rule_like(beginning: str) -> str:
    (rule,) = [rule for rule in RULES if rule.startswith(beginning)]
    return rule


@pytest.mark.parametrize(("wrong", "beginning"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_provider_that_breaks_a_rule_is_caught_by_it(wrong: type[Good], beginning: str) -> None:
    with pytest.raises(AssertionError, match="^" + beginning):
        await require(rule_like(beginning), wrong, message("Hi"), limits=IMPATIENT)


def test_every_rule_has_a_provider_that_breaks_it() -> None:
    assert {rule_like(beginning) for _, beginning in WRONG} == set(RULES)


async def test_a_good_provider_breaks_none() -> None:
    report = await check(Good(), message("Hi"))
    assert report.ok, report
    assert [finding.rule for finding in report.findings] == list(RULES)


async def test_a_report_says_what_was_wrong_in_one_line_per_rule() -> None:
    report = await check(CompletesTwice(), message("Hi"))
    assert [finding.rule for finding in report.broken] == [rule_like("there is exactly one Completed")]
    assert "BROKEN  there is exactly one Completed, and it is last: there were 2" in str(report)
    assert len(str(report).splitlines()) == len(RULES)


async def test_a_report_never_repeats_the_text_of_a_foreign_exception() -> None:
    assert "secret" not in str(await check(RaisesAnything(), message("Hi")))


async def test_a_good_provider_with_sessions_breaks_none() -> None:
    report = await check(WithSessions(), message("Hi"))
    assert report.ok, report


async def test_a_turn_that_fails_is_played_once_and_the_other_rules_are_said_to_be_open() -> None:
    report = await check(FailsProperly(), message("Hi"))
    assert report.turns == 1
    assert [finding.rule for finding in report.broken] == ["the turn is answered"]
    assert "BROKEN  the turn is answered: the turn failed with ProviderError (authentication)" in str(report)
    assert f"-       {rule_like('there is exactly one Completed')}: not looked at" in str(report)


async def test_a_rule_that_could_not_be_looked_at_does_not_pass_as_kept() -> None:
    with pytest.raises(AssertionError, match="not looked at, because the turn failed with"):
        await require(rule_like("there is exactly one Completed"), FailsProperly, message("Hi"))


async def test_the_place_of_a_foreign_exception_is_named() -> None:
    assert "KeyError at wrong.py:" in str(await check(Fails(), message("Hi")))


async def test_a_provider_that_will_not_stop_does_not_stop_the_kit() -> None:
    async with asyncio.timeout(3):
        report = await check(WillNotStop(), message("Hi"), limits=Limits(answer=0.2, stop=0.2))
    assert "there was no end within 0.2 s; the last event: TextDelta" in str(report)
    left = [task for task in asyncio.all_tasks() if task.get_name() == "turn of the conformance kit"]
    assert left, "the test's own point: something was left behind"
    await asyncio.wait(left, timeout=10)


async def test_a_check_plays_no_more_turns_than_it_says() -> None:
    report = await check(Good(), message("Hi"))
    assert report.turns == turns_at_most() - 1, "one is for agents that ask for approval"


async def test_without_turns_only_the_provider_itself_is_looked_at() -> None:
    report = await examine(Good(), message("Hi"), play=False)
    assert report.ok
    assert report.turns == 0
    assert 0 < len(report.skipped) < len(RULES)


async def test_the_recorded_turn_can_be_watched_as_it_comes() -> None:
    seen: list[Event] = []
    await examine(Good(), message("Hi"), watch=seen.append)
    assert "".join(event.text for event in seen if isinstance(event, TextDelta)) == "Hello"


async def test_an_answer_that_differs_every_time_is_allowed_when_it_is_said_so() -> None:
    class Random(Good):
        played = 0

        async def more(self, turn: object) -> list[Event]:
            self.played += 1
            return [TextDelta("t", str(self.played))]

    assert not (await check(Random(), message("Hi"))).ok
    assert (await check(Random(), message("Hi"), repeatable=False)).ok
