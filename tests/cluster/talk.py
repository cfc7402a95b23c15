"""A person with a device on each of two nodes, and a turn that both are shown."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from tests.cluster.device import Device, Ending
from tests.cluster.faults import SLACK_SECONDS, TAKEOVER_SECONDS
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import Paid, asking

__all__ = ["LONG", "killed_within", "near_and_far", "speaking"]

LONG = asking("long", pieces=600, interval=0.02)


@contextlib.asynccontextmanager
async def near_and_far(cluster: Cluster) -> AsyncIterator[tuple[Device, Device]]:
    """Start all; a device that stays on node `a`, and one that stays on `b`."""
    await cluster.start()
    a, b = ([node.url] for node in cluster.nodes)
    token = cluster.tokens["alice"]
    async with Device("near", a.copy, token, patience=None) as near, Device("far", b.copy, token, patience=None) as far:
        yield near, far


async def speaking(cluster: Cluster, near: Device, far: Device, shown: int = 300) -> tuple[str, Paid]:
    """The turn LONG, which runs on `a` and has said something to both: more than so many characters."""
    sent = await near.send(LONG, thread_id="talk")
    far.expect(sent.turn_id, LONG)
    far.follow("talk")
    for device in (near, far):
        await device.until(lambda d=device: len(d.texts.get(sent.turn_id, "")) > shown, "some text")  # type: ignore[misc]
    paid = await cluster.upstream.called("long")
    assert paid.node == "a", "the node that accepts a turn runs it"
    return sent.turn_id, paid


async def killed_within(cluster: Cluster, name: str, witness: Device, turn_id: str, behind: str) -> Ending:
    """Kill the node in the middle of a turn: it is interrupted in time, and the one that waits `behind` it runs."""
    killed_at = time.time()
    await cluster.node(name).kill()
    ending = await witness.ended(turn_id)
    late = ending.at - killed_at
    print(f"interrupted {late:.2f} s behind the death of {name}")
    assert ending.status == "interrupted"
    assert cluster.lease - 1 < late < cluster.lease + TAKEOVER_SECONDS + SLACK_SECONDS
    assert (await witness.ended(behind)).status == "completed"
    return ending
