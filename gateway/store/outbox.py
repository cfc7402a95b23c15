"""Pushes that are to be sent, and what became of them. Each function is part of one transaction."""

from __future__ import annotations

import uuid
from typing import Any, TypeAlias, get_args

import msgspec
from sqlalchemy import Connection, and_, delete, func, select, update

from gateway.store.devices import DEVICE, device_of, of_user
from gateway.store.records import PushOutcome, PushPlan, Thread
from gateway.store.rows import IS_ANSWER
from gateway.store.tables import approvals, devices, messages, outbox, push_outcomes, threads
from notifications.policy import plan, withdraw_from
from notifications.records import Delivery, Outcome, Platform, Policy, Push

Told: TypeAlias = list[tuple[Platform | None, Outcome]]
"""Outcomes that a transaction has kept, for whoever counts them once it is committed."""
PLACE = ("user_id", "device_id", "platform", "thread_key", "position")
"""What an outbox row and an outcome have in common."""
WITHDRAWAL_MS = 24 * 3600 * 1000
"""How long a withdrawal is worth sending."""
WITHDRAWN_AT_ONCE = 20
"""Notifications of one thread that one `seen` withdraws; older ones are behind those on the lock screen."""


def enqueue(connection: Connection, thread: Thread, position: int, wanted: PushPlan, at: int, told: Told) -> None:
    """Write one row per device of the thread's user, or the outcome where it is known at once."""
    push = msgspec.structs.replace(
        wanted.push, title=wanted.push.title or thread.title, badge=unread(connection, thread.user_id)
    )
    place = {"user_id": thread.user_id, "thread_key": thread.key, "position": position}
    planned = plan(of_user(connection, thread.user_id), wanted.policy, push.kind, now=at, grace=wanted.grace_ms)
    if not planned:
        nowhere = place | {"device_id": None, "platform": None}
        _keep_outcome(connection, nowhere, push, "no_devices", "", at)
        told.append((None, "no_devices"))
    for one in planned:
        where = place | {"device_id": one.device.device_id, "platform": one.device.platform}
        if one.outcome is not None:
            _keep_outcome(connection, where, push, one.outcome, "policy", at)
            told.append((one.device.platform, one.outcome))
        else:
            _add(connection, where, push, one.policy, created_at=at, due_at=one.due_at, expires_at=wanted.expires_at)


def _add(connection: Connection, where: dict[str, Any], push: Push, policy: Policy, **times: int) -> None:
    row = where | times | {"policy": policy, "push": msgspec.json.encode(push), "lease": 0, "attempts": 0}
    connection.execute(outbox.insert().values(delivery_id=str(uuid.uuid4()), **row))


def _keep_outcome(
    connection: Connection, where: dict[str, Any], push: Push, outcome: Outcome, reason: str, at: int
) -> None:
    told = {"kind": push.kind, "turn_id": push.turn_id, "message_id": push.message_id}
    connection.execute(push_outcomes.insert().values(**where, **told, outcome=outcome, reason=reason, at=at))


def unread(connection: Connection, user_id: str) -> int:
    """Answers of the user, in all threads, that no one has seen."""
    behind = and_(
        messages.c.thread_key == threads.c.key,
        messages.c.position > threads.c.read_position,
        threads.c.user_id == user_id,
        IS_ANSWER,
    )
    return connection.scalars(select(func.count()).select_from(messages).join(threads, behind)).one()


def lease(connection: Connection, platform: Platform, now: int, until: int, limit: int, told: Told) -> list[Delivery]:
    due = (
        select(outbox.c.key)
        .where(outbox.c.platform == platform, outbox.c.due_at <= now)
        .order_by(outbox.c.due_at, outbox.c.key)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    keys = list(connection.scalars(due))
    if not keys:
        return []
    connection.execute(update(outbox).where(outbox.c.key.in_(keys)).values(due_at=until, lease=outbox.c.lease + 1))
    own = and_(devices.c.user_id == outbox.c.user_id, devices.c.device_id == outbox.c.device_id)
    leased = connection.execute(
        select(outbox, *(column.label(f"of_device_{column.name}") for column in DEVICE))
        .select_from(outbox.outerjoin(devices, and_(own, devices.c.platform == outbox.c.platform)))
        .where(outbox.c.key.in_(keys))
        .order_by(outbox.c.key)
    ).all()
    deliveries = []
    for row in leased:
        push = msgspec.json.decode(row.push, type=Push)
        if row.of_device_device_id is None:
            _settle(connection, row.key, push, "no_devices", "", now, told)
            continue
        deliveries.append(
            Delivery(
                key=row.key,
                lease=row.lease,
                delivery_id=row.delivery_id,
                device=device_of(row[-len(DEVICE) :]),
                push=push,
                policy=row.policy,
                created_at=row.created_at,
                expires_at=row.expires_at,
                attempts=row.attempts,
            )
        )
    return deliveries


def release(connection: Connection, at: int) -> None:
    """Make due what an earlier process had leased for its first attempt when it died."""
    leased = (outbox.c.lease > 0) & (outbox.c.attempts == 0) & (outbox.c.due_at > at)
    connection.execute(update(outbox).where(leased).values(due_at=at))


def next_due(connection: Connection, platform: Platform) -> int | None:
    due: int | None = connection.scalars(select(func.min(outbox.c.due_at)).where(outbox.c.platform == platform)).one()
    return due


def seen(connection: Connection, delivery: Delivery) -> bool:
    push = delivery.push
    if push.approval_id is not None:
        resolved = select(approvals.c.resolved_at).where(approvals.c.approval_id == push.approval_id)
        return connection.scalars(resolved).one_or_none() is not None
    read = (
        select(func.count())
        .select_from(outbox.join(threads, threads.c.key == outbox.c.thread_key))
        .where(outbox.c.key == delivery.key, threads.c.read_position >= outbox.c.position)
    )
    return connection.scalars(read).one() > 0


def settle(connection: Connection, delivery: Delivery, outcome: Outcome, reason: str, at: int, told: Told) -> None:
    """An answer that was seen while its push was on its way is taken back at once."""
    device, push = delivery.device, delivery.push
    own = threads.c.key.in_(select(outbox.c.thread_key).where(outbox.c.key == delivery.key))
    connection.execute(select(threads.c.key).where(own).with_for_update())  # `withdraw` comes before this, or after
    late = outcome == "sent" and push.kind == "turn" and delivery.policy == "unseen" and seen(connection, delivery)
    where = _settle(connection, delivery.key, push, outcome, reason, at, told)
    if late and where is not None and withdraw_from([device], sent_to={device.device_id}, seen_on=None):
        badge = unread(connection, device.user_id)
        _take_back(connection, where, push, push.turn_id, push.message_id, badge, at)


def _settle(
    connection: Connection, key: int, push: Push, outcome: Outcome, reason: str, at: int, told: Told
) -> dict[str, Any] | None:
    """Where the row belonged; None if it was settled before."""
    row = connection.execute(delete(outbox).where(outbox.c.key == key).returning(*outbox.c)).one_or_none()
    if row is None:
        return None
    where = {name: getattr(row, name) for name in PLACE}
    if push.kind in ("turn", "approval"):
        _keep_outcome(connection, where, push, outcome, reason, at)
        told.append((row.platform, outcome))
    return where


def reschedule(connection: Connection, delivery: Delivery, due_at: int, attempts: int) -> None:
    ours = (outbox.c.key == delivery.key) & (outbox.c.lease == delivery.lease)
    connection.execute(update(outbox).where(ours).values(due_at=due_at, attempts=attempts))


def sizes(connection: Connection) -> dict[Platform, int]:
    """How many pushes have no outcome, by platform."""
    waiting = dict.fromkeys(get_args(Platform), 0)
    for platform, count in connection.execute(select(outbox.c.platform, func.count()).group_by(outbox.c.platform)):
        waiting[platform] = count
    return waiting


def outcomes(connection: Connection, turn_id: str) -> list[PushOutcome]:
    names = PushOutcome.__struct_fields__
    ended = select(*(push_outcomes.c[name] for name in names)).where(push_outcomes.c.turn_id == turn_id)
    return [
        PushOutcome(**dict(zip(names, row, strict=True)))
        for row in connection.execute(ended.order_by(push_outcomes.c.key))
    ]


def withdraw(connection: Connection, thread: Thread, before: int, upto: int, but: str | None, at: int) -> None:
    """Silently take back what the thread's user has now seen: answers behind `before` up to `upto`.

    `but` is the device on which it was seen.
    """
    shown = connection.execute(
        select(push_outcomes)
        .where(
            push_outcomes.c.thread_key == thread.key,
            push_outcomes.c.position > before,
            push_outcomes.c.position <= upto,
            push_outcomes.c.kind == "turn",
            push_outcomes.c.outcome == "sent",
        )
        .order_by(push_outcomes.c.key.desc())
        .limit(WITHDRAWN_AT_ONCE)
    ).all()
    if not shown:
        return
    badge = unread(connection, thread.user_id)
    sent_to = {row.device_id for row in shown}
    told = withdraw_from(of_user(connection, thread.user_id), sent_to=sent_to, seen_on=but)
    ids = {device.device_id for device in told}
    for row in shown:
        if row.device_id in ids:
            where = {name: getattr(row, name) for name in PLACE}
            _take_back(connection, where, thread, row.turn_id, row.message_id, badge, at)


def _take_back(
    connection: Connection,
    where: dict[str, Any],
    thread: Thread | Push,
    turn_id: str,
    message_id: str,
    badge: int,
    at: int,
) -> None:
    """Withdraw the notification of an answer from one device."""
    push = Push(
        kind="seen",
        title="",
        body="",
        length=0,
        thread_id=thread.thread_id,
        turn_id=turn_id,
        message_id=message_id,
        agent=thread.agent,
        status="completed",
        badge=badge,
    )
    _add(connection, where, push, "always", created_at=at, due_at=at, expires_at=at + WITHDRAWAL_MS)


def forget_thread(connection: Connection, thread_key: int) -> None:
    """What belongs to a thread that is deleted."""
    for table in (outbox, push_outcomes):
        connection.execute(delete(table).where(table.c.thread_key == thread_key))
