"""Pushes and devices as tests need them."""

from __future__ import annotations

from typing import Any

from notifications.records import Delivery, Device, Push


def push(body: str = "Hello.", **changes: Any) -> Push:
    fields: dict[str, Any] = {
        "kind": "turn",
        "title": "A conversation",
        "body": body,
        "length": len(body),
        "thread_id": "t-9f",
        "turn_id": "u-41",
        "message_id": "m-42",
        "agent": "claude",
        "status": "completed",
        "fetch_token": "f" * 43,
        "badge": 3,
    }
    return Push(**(fields | changes))


def device(**changes: Any) -> Device:
    fields: dict[str, Any] = {
        "user_id": "alice",
        "device_id": "phone",
        "platform": "ios",
        "token": "ab" * 32,
        "registered_at": 1_000,
    }
    return Device(**(fields | changes))


def delivery(**changes: Any) -> Delivery:
    fields: dict[str, Any] = {
        "key": 1,
        "lease": 1,
        "delivery_id": "00000000-0000-4000-8000-000000000001",
        "device": device(),
        "push": push(),
        "policy": "always",
        "created_at": 1_000,
        "expires_at": 100_000_000_000_000,
        "attempts": 0,
    }
    return Delivery(**(fields | changes))
