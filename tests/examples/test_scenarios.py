"""The frames of the shared scenarios are frames of the protocol, and the scenarios leave none out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.protocol import CLIENT_FRAMES, CloseCode, decode, schema
from tests.examples.scenarios import scenarios
from tests.shapes import WrongShape, check_server_frame

SCENARIOS = scenarios()
STEPS = [step for steps in SCENARIOS.values() for step in steps]


def received(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [step["receive"] for step in steps if "receive" in step and not step.get("later_version")]


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_scenario_receives_a_server_may_send(name: str) -> None:
    for frame in received(SCENARIOS[name]):
        check_server_frame(frame)


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_scenario_sends_a_server_takes(name: str) -> None:
    for step in SCENARIOS[name]:
        for frame in step.get("out", []):
            decode(json.dumps(frame))


def test_frames_of_later_servers_are_not_of_this_version() -> None:
    later = [step["receive"] for step in STEPS if step.get("later_version")]
    assert later
    for frame in later:
        with pytest.raises(WrongShape):
            check_server_frame(frame)


def test_the_scenarios_show_every_frame_of_the_server() -> None:
    assert {frame["type"] for frame in received(STEPS)} == set(schema()["server"])


def test_the_scenarios_send_every_frame_but_those_of_the_connection_itself() -> None:
    sent = {frame["type"] for step in STEPS for frame in step.get("out", [])}
    assert sent == set(CLIENT_FRAMES) - {"auth", "ping"}


def test_the_scenarios_close_with_every_code() -> None:
    codes = {step["closed"]["code"] for step in STEPS if "closed" in step}
    assert codes >= {int(code) for code in CloseCode}
    assert codes >= {1001, 1006, 1011, 1012, 1013}


def test_each_step_does_one_thing() -> None:
    """Each step does one thing and says what comes of it under names that all clients know."""
    does = {"receive", "send", "resend", "open", "leave", "cancel", "seen", "decide", "closed", "whole", "restart"}
    says = {"out", "expect", "missing", "next", "later_version"}
    for step in STEPS:
        assert len(does & set(step)) == 1, step
        assert set(step) <= does | says, step
        assert ("closed" in step) == ("next" in step), step
