"""What the tests of the protocol's rules share."""

from __future__ import annotations

from tests.client import Client, Frame


def kinds(frames: list[Frame]) -> list[str]:
    """The types of these frames, but for notices to list screens, which come at any moment."""
    return [frame["type"] for frame in frames if frame["type"] != "thread_updated"]


async def hanging(phone: Client, thread_id: str, says: str = "") -> Frame:
    """A turn that runs until it is cancelled, and has said something."""
    accepted = await phone.message(f"/echo begun{says}\n/hang", thread_id=thread_id)
    await phone.receive(until=lambda f: f["type"] == "message" and f["turn_id"] == accepted["turn_id"])
    return accepted
