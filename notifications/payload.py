"""What a push says in the words of each transport, cut to fit. No I/O.

The text goes inline while the *encoded* payload fits. Else the longest prefix that does, cut between
graphemes, with `truncated`, `length` (code points of the whole) and a `fetch_token` to get the rest with.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from notifications.graphemes import largest_prefix, well_formed
from notifications.records import Kind, Push

__all__ = [
    "APNS_LIMIT",
    "APPROVAL_CATEGORY",
    "FCM_LIMIT",
    "NTFY_LIMIT",
    "NTFY_MESSAGE_LIMIT",
    "WEBPUSH_LIMIT",
    "PayloadTooLarge",
    "apns",
    "collapse_id",
    "fcm_data",
    "ntfy",
    "topic",
    "webpush",
]

APNS_LIMIT = 4096
"""Bytes of the JSON body. Apple, "Generating a remote notification"."""
FCM_LIMIT = 4096
"""Bytes of the encoded `data` map. Firebase, "About FCM messages"."""
WEBPUSH_LIMIT = 3993
"""Bytes of plaintext: RFC 8291 section 4 lets a push service refuse more than one record of 4096, which costs
86 of header, 16 of tag and 1 of padding."""
NTFY_MESSAGE_LIMIT = 4096
"""Bytes of the message; ntfy makes a file attachment of anything longer."""
NTFY_LIMIT = 2 * NTFY_MESSAGE_LIMIT
"""Bytes of the JSON body that ntfy reads at most."""

APPROVAL_CATEGORY = "agentline.approval"
"""The notification category under which an app registers its approve and decline actions."""

_TITLE_BYTES = 200
_PHRASES: dict[Kind, str] = {
    "turn": "New answer",
    "approval": "A decision is needed",
    "seen": "",
    "test": "This is a test notification",
}

_encode = msgspec.json.encode
_P = TypeVar("_P")


class PayloadTooLarge(ValueError):
    """Not even an empty text fits: some id or the fetch token is too long."""


def collapse_id(push: Push) -> str:
    """Names the notification on the device: a repeat or a withdrawal replaces it. At most 64 bytes (Apple's limit)."""
    name = f"approval-{push.approval_id}" if push.approval_id else f"turn-{push.turn_id}"
    if len(name.encode("utf-8", "replace")) <= 64:
        return name
    return f"turn-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:56]}"


def topic(push: Push) -> str:
    """The same name for a Web Push `Topic`: 32 characters of base64url at most (RFC 8030 section 5.4)."""
    digest = hashlib.sha256(collapse_id(push).encode("utf-8", "replace")).digest()
    return base64.urlsafe_b64encode(digest)[:32].decode("ascii")


def apns(push: Push) -> bytes:
    """The body of an APNs request."""

    def build(body: str, extra: dict[str, Any]) -> bytes:
        aps: dict[str, Any] = {}
        if push.kind == "seen":
            aps["content-available"] = 1
        else:
            aps["alert"] = {"title": _title(push), "body": body}
            aps["sound"] = "default"
            aps["mutable-content"] = 1
            aps["interruption-level"] = "time-sensitive" if push.kind == "approval" else "active"
            if push.kind == "approval":
                aps["category"] = APPROVAL_CATEGORY
        aps["thread-id"] = well_formed(push.thread_id)
        if push.badge is not None:
            aps["badge"] = push.badge
        return _encode({"aps": aps, "agentline": _names(push) | extra})

    return _fit(push, build, len, APNS_LIMIT, shown=True)


def fcm_data(push: Push) -> dict[str, str]:
    """The `data` map of an FCM message: every value is a string."""

    def build(body: str, extra: dict[str, Any]) -> dict[str, str]:
        fields = {"title": _title(push), "body": body} | _names(push) | extra
        if push.badge is not None:
            fields["badge"] = push.badge
        return {name: _string(value) for name, value in fields.items()}

    return _fit(push, build, lambda data: len(_encode(data)), FCM_LIMIT, shown=False)


def webpush(push: Push) -> bytes:
    """The plaintext of a Web Push message."""

    def build(body: str, extra: dict[str, Any]) -> bytes:
        fields = {"title": _title(push), "body": body} | _names(push) | extra
        if push.badge is not None:
            fields["badge"] = push.badge
        return _encode(fields)

    return _fit(push, build, len, WEBPUSH_LIMIT, shown=False)


def ntfy(push: Push, topic: str) -> bytes:
    """The body of an ntfy publish request.

    ntfy's own apps show `title` and `message`; it passes over names it does not know, so `body` and the
    ids are there for a relay that stands in its place.
    """

    def build(body: str, extra: dict[str, Any]) -> bytes:
        fields = {"topic": topic, "title": _title(push), "message": body, "body": body} | _names(push) | extra
        fields["priority"] = 5 if push.kind == "approval" else 4
        if push.link is not None:
            fields["click"] = push.link
        return _encode(fields)

    return _fit(push, build, len, NTFY_LIMIT, shown=True, copies=2, most=NTFY_MESSAGE_LIMIT)


def _fit(
    push: Push,
    build: Callable[[str, dict[str, Any]], _P],
    size: Callable[[_P], int],
    limit: int,
    *,
    shown: bool,
    copies: int = 1,
    most: int | None = None,
) -> _P:
    """The payload with as much of the text as fits into `limit` bytes, of which `size` knows how many it has.

    `shown` says that the system shows the body itself, so a payload without text says in a phrase what it
    is about; else the app decides what to show. The text stands in the payload `copies` times, and may have
    `most` bytes by itself.
    """
    if push.kind == "seen":
        return _bare(build("", {}), size, limit)
    rest: dict[str, Any] = {"truncated": True, "length": push.length}
    if push.fetch_token is not None:
        rest["fetch_token"] = push.fetch_token
    if push.id_only:
        return _bare(build(_PHRASES[push.kind] if shown else "", rest), size, limit)
    most = most or limit
    # A code point has a byte at least, and one more tells the last boundary apart: no more of a long text is touched.
    text = well_formed(push.body[: most + 1])
    if push.length <= len(text) and len(text.encode()) <= most:
        whole = build(text, {})
        if size(whole) <= limit:
            return whole
    room = limit - size(_bare(build("", rest), size, limit))

    def fits(prefix: str) -> bool:
        # The size of an encoded text is the sum of what its characters cost, wherever it stands.
        return copies * (len(_encode(prefix)) - 2) <= room and len(prefix.encode()) <= most

    return build(largest_prefix(text, most, fits), rest)


def _bare(payload: _P, size: Callable[[_P], int], limit: int) -> _P:
    if size(payload) > limit:
        raise PayloadTooLarge("the ids alone exceed the limit")
    return payload


def _names(push: Push) -> dict[str, Any]:
    names: dict[str, str] = {
        "thread_id": push.thread_id,
        "turn_id": push.turn_id,
        "message_id": push.message_id,
        "agent": push.agent,
        "status": push.status,
        "kind": push.kind,
    }
    if push.approval_id is not None:
        names["approval_id"] = push.approval_id
    return {name: well_formed(value) for name, value in names.items()}


def _title(push: Push) -> str:
    """A thread's title is made of what the user wrote, so without text it is the agent's name."""
    title = well_formed((push.agent if push.id_only else push.title)[: _TITLE_BYTES + 1])
    return largest_prefix(title, _TITLE_BYTES, lambda prefix: len(_encode(prefix)) - 2 <= _TITLE_BYTES)


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
