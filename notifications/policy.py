"""Whether to push, and when: confirm, then fall back to a notification.

An open socket is no proof that somebody looks: a phone in a pocket keeps it open for a while. So nothing
here asks for connections. Only a device that says `seen` for this very message, within the grace, ends
the wait; a client that never says so is always notified.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from notifications.records import Device, Kind, Outcome, Policy

__all__ = [
    "GRACE_MS",
    "Decision",
    "Planned",
    "Send",
    "Suppress",
    "Wait",
    "decide",
    "effective",
    "plan",
    "withdraw_from",
]

GRACE_MS = 3000


@dataclass(frozen=True, slots=True)
class Send:
    """Push it now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Too early to know whether somebody looks."""

    until: int


@dataclass(frozen=True, slots=True)
class Suppress:
    """Nobody needs to be told."""


Decision: TypeAlias = Send | Wait | Suppress


def effective(server: Policy, device: Policy | None) -> Policy:
    """The policy that counts for a device: its own, unless the server's operator said `never`."""
    if server == "never" or device is None:
        return server
    return device


def decide(policy: Policy, kind: Kind, *, seen: bool, created_at: int, now: int, grace: int = GRACE_MS) -> Decision:
    """What to do at `now` with a push made at `created_at`; times in milliseconds.

    `seen` says that a person has this message on screen somewhere, or has answered the approval. A clock that
    was set back cannot make anyone wait longer than one grace.
    """
    if kind in ("seen", "test"):
        return Send()
    if policy == "never":
        return Suppress()
    if policy == "always":
        return Send()
    if seen:
        return Suppress()
    until = created_at + grace
    if created_at <= now < until:
        return Wait(until)
    return Send()


@dataclass(frozen=True, slots=True)
class Planned:
    """What a turn's end writes for one device: an outbox row due at `due_at`, or an outcome at once."""

    device: Device
    policy: Policy
    due_at: int
    outcome: Outcome | None


def withdraw_from(devices: Iterable[Device], *, seen_on: str | None, sent_to: Collection[str]) -> list[Device]:
    """The devices that get a `seen` push after somebody read an answer: those that were `sent_to` (device ids).

    Not the device that it was read on, which knows; not ntfy, where it would ring; and not browsers, which
    punish a push that shows nothing (Safari takes the permission away after three): an open page hears of it
    through its socket.
    """
    return [
        device
        for device in devices
        if device.device_id in sent_to and device.device_id != seen_on and device.platform in ("ios", "android")
    ]


def plan(devices: Iterable[Device], server: Policy, kind: Kind, *, now: int, grace: int = GRACE_MS) -> list[Planned]:
    """One entry per device. An empty list means the outcome `no_devices` for the turn."""
    planned: list[Planned] = []
    for device in devices:
        policy = effective(server, device.notify)
        match decide(policy, kind, seen=False, created_at=now, now=now, grace=grace):
            case Suppress():
                planned.append(Planned(device, policy, now, "suppressed"))
            case Wait(until):
                planned.append(Planned(device, policy, until, None))
            case Send():
                planned.append(Planned(device, policy, now, None))
    return planned
