"""uvicorn's HTTP protocol with a deadline for the head of a request, and a way to drop a connection.

uvicorn ends idle connections only after a first response, and none whose head comes in drop by drop. A connection
that it closes stays until all that was written is sent, so one whose peer does not read would stay.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["DROP", "HEAD_SECONDS", "DeadlineH11Protocol"]

DROP = "agentline.drop"
"""The ASGI extension whose `drop` ends the request's connection at once, with all that waits to be sent."""

HEAD_SECONDS = 15.0
"""From the connection, or the first byte of a further request, to the end of the request's head."""


class DeadlineH11Protocol(H11Protocol):
    """Closes a connection whose request does not come. A request under way is not its affair."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn's own
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not None and self.cycle is not before:
            # The application's task exists, but has not run yet.
            self.cycle.scope["extensions"] = {DROP: {"drop": self.transport.abort}}

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
