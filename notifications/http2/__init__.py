"""One HTTP/2 client connection with many streams, for requests with small bodies. Knows nothing of APNs.

connection  opens, reads, writes, ends: what the event loop sees
streams     which requests wait, which are under way, whose answer came. No I/O
frames      takes GOAWAY out of what comes in, before `h2` sees it
liveness    whether the peer is still there

A request ends with a `Response`; with `NotSent` when the peer surely did not process it (never opened,
refused, above GOAWAY's last id, body not complete); or with `Unanswered` when it may have.
"""

from notifications.http2.connection import Connection, Limits
from notifications.http2.streams import Response

__all__ = ["Connection", "Limits", "Response"]
