"""The outbox: rows leased, sent, retried, and deleted only after a final outcome.

The rows are written by the transaction that ends a turn, so a push exists exactly if its turn ended. What
dies between sending and answer leaves its row leased; when the lease runs out the row is sent again with
the same `delivery_id` and collapse id. So a push may come twice, and is never lost.

One loop per transport, each with its own slots, and one breaker per channel: a dead provider, a slow one
or a bad device delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from notifications import policy
from notifications.breaker import Breaker, backoff
from notifications.records import Delivery, Device, Outcome, Platform
from notifications.verdict import Transport, Verdict

__all__ = ["Outbox", "OutboxStore"]

log = logging.getLogger("agentline.push")

_GATHER_SECONDS = 0.02


class OutboxStore(Protocol):
    """What the outbox needs of the store. Every method is one transaction; times are milliseconds since 1970.

    Any of them may raise: the outbox then waits and tries again, and a row stays leased until its lease ends.
    """

    async def lease(self, platform: Platform, *, now: int, until: int, limit: int) -> list[Delivery]:
        """Lease due rows of the platform (due, and not leased beyond `now`), the longest due first.

        Each gets a new lease number and stays invisible to others until `until`. The device is read as it
        stands now: a row sent to a replaced token the first time goes to the new one the second time. Rows
        whose device is gone are settled as `no_devices` by the store and not returned.
        """
        ...

    async def next_due(self, platform: Platform) -> int | None:
        """When the next row of the platform can be leased (due time or end of its lease), if there is one."""
        ...

    async def seen(self, delivery: Delivery) -> bool:
        """Whether a person has this message on screen or read it, or the approval is resolved."""
        ...

    async def settle(self, delivery: Delivery, outcome: Outcome, reason: str, *, at: int) -> None:
        """Delete the row and keep the outcome with the turn and the device. No row: nothing happens."""
        ...

    async def reschedule(self, delivery: Delivery, *, due_at: int, attempts: int, reason: str) -> None:
        """Give the lease back; the row is due again at `due_at`. Nothing happens if the lease is another's by now."""
        ...

    async def remove_token(self, device: Device) -> bool:
        """Delete the device if its token and `registered_at` are still these. Whether it was."""
        ...


@dataclass(slots=True)
class _Lane:
    """One transport's own queue."""

    platform: Platform
    transport: Transport
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    breakers: dict[str, Breaker] = field(default_factory=dict)
    begun: dict[str, list[float]] = field(default_factory=dict)
    """By channel: when the attempts under way began (monotonic seconds)."""

    def crowded(self, channel: str) -> float:
        """0 if the channel takes another attempt, else in how many seconds to come back.

        A quick service has a place again in a moment; how long its oldest attempt is under way tells a slow
        one, and its rows are then not looked at all the time.
        """
        begun = self.begun.get(channel, [])
        if len(begun) < self.transport.channel_limit:
            return 0.0
        return min(max(time.monotonic() - min(begun), 0.02), 5.0)


class Outbox:
    """`run` it in a task of its own; cancel that task to stop at once, or `drain` it first.

    `clock` is wall time in seconds. `on_outcome` hears of every final outcome; it must not block or raise.
    """

    def __init__(
        self,
        store: OutboxStore,
        transports: Mapping[Platform, Transport],
        *,
        grace: int = policy.GRACE_MS,
        lease_seconds: float = 30.0,
        poll_seconds: float = 5.0,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        on_outcome: Callable[[Platform, Outcome, str], None] | None = None,
    ) -> None:
        self._store = store
        self._grace = grace
        self._lease_ms = int(lease_seconds * 1000)
        self._poll = poll_seconds
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, no secret
        self._on_outcome = on_outcome
        self._lanes = {platform: _Lane(platform, transport) for platform, transport in transports.items()}
        self._draining = False

    def wake(self, platform: Platform | None = None) -> None:
        """Rows were written: look now instead of at the next poll."""
        for lane in self._lanes.values():
            if platform is None or lane.platform == platform:
                lane.wake.set()

    def drain(self) -> None:
        """Take no more rows; `run` returns when what is under way has ended (within 15 s)."""
        self._draining = True
        self.wake()

    async def run(self) -> None:
        """Send until drained or cancelled. A cancelled attempt leaves its row leased, to be sent again."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes.values():
                group.create_task(self._work(lane), name=f"outbox {lane.platform}")

    def refusal(self, device: Device) -> str:
        """Why this device could never be sent anything, in a word, or nothing: for a registration's answer."""
        lane = self._lanes.get(device.platform)
        return lane.transport.refusal(device) if lane is not None else "transport_not_configured"

    async def test(self, delivery: Delivery) -> tuple[Outcome, str]:
        """Make one attempt now, outside the queue, and say how it ended, with a reason for an app developer.

        `failed` covers whatever kept it from being sent. A token that is gone is removed, as it would be later.
        """
        lane = self._lanes.get(delivery.device.platform)
        if lane is None:
            return "failed", "transport_not_configured"
        verdict = await self._attempt(lane, delivery)
        if verdict.kind == "sent":
            return "sent", ""
        void = verdict.kind == "gone" and self._is_void(delivery.device, verdict)
        if void and await self._store.remove_token(delivery.device):
            return "token_removed", verdict.reason
        return "failed", verdict.reason

    # One lane.

    async def _work(self, lane: _Lane) -> None:
        failures = 0
        async with asyncio.TaskGroup() as group:
            while not self._draining:
                free = await self._slots(lane)
                lane.wake.clear()
                try:
                    now = self._now()
                    rows = await self._store.lease(lane.platform, now=now, until=now + self._lease_ms, limit=free)
                    due = None if rows else await self._store.next_due(lane.platform)
                except Exception as error:
                    failures += 1
                    log.warning("the outbox cannot read its store (%s)", type(error).__name__)
                    await self._pause(lane, backoff(failures, self._rng, most=10.0))
                    continue
                failures = 0
                for row in rows:
                    lane.running += 1
                    group.create_task(self._deliver(lane, row), name="push")
                if not rows:
                    wait = self._poll if due is None else min(self._poll, max(0.01, (due - self._now()) / 1000))
                    await self._pause(lane, wait)

    async def _slots(self, lane: _Lane) -> int:
        """How many rows may be leased, at least one. Waits for a few, so that one look at the store serves
        many; but no longer than a moment, since slots that hang must not keep back the free ones."""
        limit = lane.transport.limit
        patience: float | None = None
        while (free := limit - lane.running) < max(1, limit // 8):
            if free > 0:
                patience = _GATHER_SECONDS
            lane.freed.clear()
            try:
                async with asyncio.timeout(patience):
                    await lane.freed.wait()
            except TimeoutError:
                break
        return limit - lane.running

    async def _pause(self, lane: _Lane, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await lane.wake.wait()

    async def _deliver(self, lane: _Lane, row: Delivery) -> None:
        """Everything about one leased row. What goes wrong here stays here: the lease brings the row back."""
        try:
            await self._handle(lane, row)
        except Exception as error:
            log.warning("a push stays in the outbox (%s)", type(error).__name__)
        finally:
            lane.running -= 1
            lane.freed.set()

    async def _handle(self, lane: _Lane, row: Delivery) -> None:
        if row.expires_at <= self._now():
            await self._settle(row, "expired", "")
            return
        channel = lane.transport.channel(row.device)
        breaker = lane.breakers.get(channel) or self._breaker(lane, channel)
        wait = lane.crowded(channel) or breaker.admit(time.monotonic())
        if wait:
            await self._reschedule(row, wait, row.attempts, "waiting")
            return
        began = time.monotonic()
        begun = lane.begun.setdefault(channel, [])
        begun.append(began)
        concluded = False
        try:
            # Looked at again just before sending: somebody may have seen it since the row was due.
            seen = row.policy == "unseen" and await self._store.seen(row)
            match policy.decide(
                row.policy, row.push.kind, seen=seen, created_at=row.created_at, now=self._now(), grace=self._grace
            ):
                case policy.Suppress():
                    await self._settle(row, "suppressed", "seen" if seen else "policy")
                    return
                case policy.Wait(until):
                    await self._reschedule(row, (until - self._now()) / 1000, row.attempts, "grace")
                    return
                case policy.Send():
                    verdict = await self._attempt(lane, row)
            concluded = True
            _conclude(breaker, verdict, began)
        finally:
            if not concluded:
                breaker.released()
            begun.remove(began)
            if not begun:
                del lane.begun[channel]
        await self._apply(row, verdict)

    async def _attempt(self, lane: _Lane, row: Delivery) -> Verdict:
        try:
            return await lane.transport.send(
                row.device, row.push, delivery_id=row.delivery_id, expires_at=row.expires_at
            )
        except Exception as error:
            # A transport never raises by contract; if it does all the same, nobody knows what became of it.
            log.error("the %s transport raised %s", lane.platform, type(error).__name__)
            return Verdict("unknown", "transport_fault")

    async def _apply(self, row: Delivery, verdict: Verdict) -> None:
        attempts = row.attempts + 1
        match verdict.kind:
            case "sent":
                await self._settle(row, "sent", "")
            case "refused":
                await self._settle(row, "failed", verdict.reason)
            case "gone":
                await self._gone(row, verdict)
            case "paused":
                await self._reschedule(row, verdict.retry_after or 60.0, row.attempts, verdict.reason)
            case "unsent" if row.attempts == 0:
                await self._reschedule(row, 0.0, attempts, verdict.reason)
            case "unsent" | "unknown" | "later":
                wait = max(backoff(attempts, self._rng), verdict.retry_after or 0.0)
                await self._reschedule(row, wait, attempts, verdict.reason)

    async def _gone(self, row: Delivery, verdict: Verdict) -> None:
        if not self._is_void(row.device, verdict):
            # The service's word is older than the registration, so the token may be good again; but
            # "Unregistered" is never to be retried.
            await self._settle(row, "failed", verdict.reason)
        elif await self._store.remove_token(row.device):
            await self._settle(row, "token_removed", verdict.reason)
        else:
            # The app handed in another token meanwhile: this push belongs there.
            await self._reschedule(row, 0.0, row.attempts + 1, "token_replaced")

    @staticmethod
    def _is_void(device: Device, verdict: Verdict) -> bool:
        return verdict.gone_at is None or verdict.gone_at > device.registered_at

    async def _settle(self, row: Delivery, outcome: Outcome, reason: str) -> None:
        await self._store.settle(row, outcome, reason, at=self._now())
        log.info("push %s: %s %s", row.delivery_id, outcome, reason)
        if self._on_outcome is not None:
            self._on_outcome(row.device.platform, outcome, reason)

    async def _reschedule(self, row: Delivery, seconds: float, attempts: int, reason: str) -> None:
        due_at = self._now() + max(0, int(seconds * 1000))
        if due_at >= row.expires_at:
            await self._settle(row, "expired", reason)
            return
        await self._store.reschedule(row, due_at=due_at, attempts=attempts, reason=reason)
        lane = self._lanes[row.device.platform]
        lane.wake.set()  # a sleeping lane reckons its next look anew

    def _breaker(self, lane: _Lane, channel: str) -> Breaker:
        if len(lane.breakers) >= 1000:
            # Channels of Web Push are named by users' subscriptions: forget those that have nothing to say.
            for name in [name for name, old in lane.breakers.items() if not old.failures and not old.opened]:
                del lane.breakers[name]
        breaker = lane.breakers[channel] = Breaker(self._rng)
        return breaker

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _conclude(breaker: Breaker, verdict: Verdict, began: float) -> None:
    """What an attempt says about its channel."""
    now = time.monotonic()
    match verdict.kind:
        case "sent" | "refused" | "gone":
            breaker.succeeded()
        case "paused":
            breaker.pause(now, verdict.retry_after or 60.0)
        case "later" if verdict.device_only:
            breaker.succeeded()
        case "unsent" | "unknown" | "later":
            breaker.failed(now, began, verdict.retry_after)
