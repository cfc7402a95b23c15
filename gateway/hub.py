"""All open connections of this process: who is there, and what to tell all sockets of a user."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

from gateway.clock import timestamp
from gateway.connection import Connection
from gateway.protocol import Goodbye, Read, ThreadUpdated, encode


class Hub:
    """A register; it owns no connection."""

    def __init__(self) -> None:
        self._by_user: dict[str, set[Connection]] = {}
        self._counts: Counter[str] = Counter()
        self.on_change: Callable[[], None] = lambda: None
        """Called when a connection has come or gone."""

    def add(self, connection: Connection) -> None:
        connections = self._by_user.setdefault(connection.user_id, set())
        if connection not in connections:
            connections.add(connection)
            self._counts[connection.agent] += 1
            self.on_change()

    def remove(self, connection: Connection) -> None:
        connections = self._by_user.get(connection.user_id, set())
        if connection in connections:
            connections.discard(connection)
            self._counts[connection.agent] -= 1
            self.on_change()
        if not connections:
            self._by_user.pop(connection.user_id, None)

    def __iter__(self) -> Iterator[Connection]:
        for connections in self._by_user.values():
            yield from connections

    def of(self, user_id: str) -> frozenset[Connection]:
        """The user's open connections."""
        return frozenset(self._by_user.get(user_id, ()))

    def counts(self) -> Counter[str]:
        """Open connections by agent."""
        return +self._counts

    def tell(self, user_id: str, notice: ThreadUpdated | Read, *, but: Connection | None = None) -> None:
        """Tell every socket of the user, except `but`."""
        connections = self._by_user.get(user_id)
        if connections:
            kind, encoded = type(notice).__name__, encode(notice)
            for connection in connections:
                if connection is not but:
                    connection.notify(kind, notice.thread_id, encoded)

    def say_goodbye(self, reason: str, spread_ms: int) -> None:
        """Tell every client that the server is about to close, each with another moment to come back."""
        for connection in list(self):
            delay = random.randint(spread_ms // 10, spread_ms)  # noqa: S311 - spreads load, guards nothing
            connection.reply(Goodbye(timestamp=timestamp(), reason=reason, reconnect_after_ms=delay))
