"""What is pushed, and where to: plain values, no I/O.

All times are whole milliseconds since 1970 UTC.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = ["BODY_PREFIX", "OUTCOMES", "Delivery", "Device", "Kind", "Outcome", "Platform", "Policy", "Push"]

Platform: TypeAlias = Literal["ios", "android", "web", "ntfy"]
"""Of a device; each has one transport and one queue in the outbox."""

Policy: TypeAlias = Literal["unseen", "always", "never"]

Kind: TypeAlias = Literal["turn", "approval", "seen", "test"]
"""`turn` and `approval` notify a person. `seen` is silent: it sets the badge and withdraws a notification
that somebody has meanwhile read on another device. `test` is what an app developer asks for."""

Outcome: TypeAlias = Literal["sent", "suppressed", "failed", "no_devices", "expired", "token_removed"]
"""How the push of one turn to one device ended.

`sent`: the push service took it. `suppressed`: somebody had seen it, or the policy is `never`. `failed`: the
service refuses this notification for good. `no_devices`: of a turn, not of a device. `expired`: not delivered
before its time was over. `token_removed`: the service says that the app is gone from the device.
"""
OUTCOMES: tuple[Outcome, ...] = ("sent", "suppressed", "failed", "no_devices", "expired", "token_removed")

BODY_PREFIX = 8192
"""Code points: a store may hand over only so much of a text (with its `length`), for no transport takes more."""


class Push(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person is to be told."""

    kind: Kind
    title: str
    """One line; cut when longer than a lock screen shows."""
    body: str
    """The full response, or at least its first `BODY_PREFIX` code points."""
    length: int
    """Code points of the full response, of which `body` may be a prefix."""
    thread_id: str
    turn_id: str
    message_id: str
    agent: str
    status: str
    """How the turn ended, or `running` for an approval."""
    fetch_token: str | None = None
    """Opens `GET /api/turns/{id}`; it is only put into payloads whose text is cut or left out."""
    approval_id: str | None = None
    badge: int | None = None
    """Unread answers of the user, absolute."""
    link: str | None = None
    """What a tap opens, where the transport lets the sender say so (ntfy)."""
    id_only: bool = False
    """No text of the conversation leaves for Apple, Google or anyone: ids and `fetch_token` only."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One registered device, as it stood when the row was leased."""

    user_id: str
    device_id: str
    platform: Platform
    token: str
    """The APNs or FCM token, the Web Push subscription as JSON text, or the ntfy topic. A secret."""
    registered_at: int
    """When this token was last handed in. A service's "gone since" counts only if it is later."""
    environment: Literal["production", "sandbox"] = "production"
    app_id: str | None = None
    """The APNs topic (bundle id) if it is not the server's default."""
    notify: Policy | None = None
    """None leaves it to the server's policy."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the outbox, leased: one push to one device."""

    key: int
    lease: int
    """Proves that a lease is still ours; a later lease of the row has another number."""
    delivery_id: str
    """A UUID made with the row. Every attempt carries it (`apns-id`), so a repeat can be told from a new push."""
    device: Device
    push: Push
    policy: Policy
    created_at: int
    expires_at: int
    attempts: int
    """Attempts before this one whose outcome is not final."""
