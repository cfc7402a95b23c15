from __future__ import annotations

import pytest

from notifications.policy import Decision, Send, Suppress, Wait, decide, effective, plan, withdraw_from
from notifications.records import Kind, Policy
from tests.notifications.pushes import device

CREATED = 1_000_000


@pytest.mark.parametrize(
    ("policy", "seen", "after", "decision"),
    [
        ("unseen", False, 0, Wait(CREATED + 3000)),
        ("unseen", False, 2999, Wait(CREATED + 3000)),
        ("unseen", False, 3000, Send()),
        ("unseen", False, 3_600_000, Send()),
        ("unseen", True, 0, Suppress()),
        ("unseen", True, 3000, Suppress()),
        ("always", False, 0, Send()),
        ("always", True, 0, Send()),
        ("never", False, 0, Suppress()),
        ("never", False, 3000, Suppress()),
    ],
)
@pytest.mark.parametrize("kind", ["turn", "approval"])
def test_a_push_waits_for_a_look_and_falls_back_to_a_notification(
    policy: Policy, seen: bool, after: int, decision: Decision, kind: Kind
) -> None:
    assert decide(policy, kind, seen=seen, created_at=CREATED, now=CREATED + after) == decision


@pytest.mark.parametrize("policy", ["unseen", "always", "never"])
@pytest.mark.parametrize("kind", ["seen", "test"])
def test_what_is_no_notification_waits_for_nobody(policy: Policy, kind: Kind) -> None:
    assert decide(policy, kind, seen=True, created_at=CREATED, now=CREATED) == Send()


def test_a_clock_set_back_keeps_nobody_waiting() -> None:
    assert decide("unseen", "turn", seen=False, created_at=CREATED, now=CREATED - 3_600_000) == Send()


def test_a_device_decides_for_itself_unless_the_server_says_never() -> None:
    assert effective("unseen", None) == "unseen"
    assert effective("unseen", "always") == "always"
    assert effective("always", "never") == "never"
    assert effective("never", "always") == "never"


def test_a_plan_has_one_entry_per_device() -> None:
    default = device(device_id="a")
    eager = device(device_id="b", notify="always")
    quiet = device(device_id="c", notify="never")
    planned = plan([default, eager, quiet], "unseen", "turn", now=CREATED)
    assert [(entry.device.device_id, entry.policy, entry.due_at, entry.outcome) for entry in planned] == [
        ("a", "unseen", CREATED + 3000, None),
        ("b", "always", CREATED, None),
        ("c", "never", CREATED, "suppressed"),
    ]
    assert plan([], "unseen", "turn", now=CREATED) == []


def test_what_was_read_on_one_phone_is_withdrawn_from_the_others_that_had_it() -> None:
    devices = [
        device(device_id="here"),
        device(device_id="tablet"),
        device(device_id="pixel", platform="android"),
        device(device_id="new"),
        device(device_id="page", platform="web"),
        device(device_id="topic", platform="ntfy"),
    ]
    sent_to = {"here", "tablet", "pixel", "page", "topic"}
    assert [found.device_id for found in withdraw_from(devices, seen_on="here", sent_to=sent_to)] == ["tablet", "pixel"]
