"""What can become of a request that gets no answer.

SendError
├── NotSent                the peer surely did not process it: it may be sent again at once
│   └── ConnectionFailed   there was not even a connection
└── Unanswered             the peer may have processed it: nobody knows
"""

from __future__ import annotations

__all__ = ["ConnectionFailed", "NotSent", "SendError", "Unanswered"]


class SendError(Exception):
    """`reason` is one word of ours: it names no host, no token and nothing that a peer wrote."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotSent(SendError):
    """The peer did not process the request."""


class ConnectionFailed(NotSent):
    """No connection came about."""


class Unanswered(SendError):
    """The request went out whole and no answer came."""
