"""What Postgres, the upstream and the devices say about the same turns, held against each other once all is at rest.

It reads the tables by itself, and decodes the log as plain MessagePack: nothing of the product vouches for the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import httpx2
import msgspec

from tests.cluster.device import FINAL, Device
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import astray, marker_of, text_of

__all__ = ["Ledger", "Row", "at_rest", "audited", "payments", "rows", "stored_up_to"]

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A turn as Postgres has it."""

    turn_id: str
    thread_key: int
    thread_id: str
    user_id: str
    client_id: str | None
    agent: str
    status: str
    question: str | None
    answer: str
    """Empty for a turn that was cancelled before it began."""
    started_at: float | None
    finished_at: float | None
    """As `time.time()`."""
    attempt: str | None

    @property
    def marker(self) -> str:
        return marker_of(self.question or "")

    @property
    def expected(self) -> str | None:
        """The whole answer, if the question is one of `asking`."""
        try:
            return text_of(self.question or "")
        except ValueError:
            return None


_TURNS = """
SELECT t.turn_id, t.thread_key, th.thread_id, t.user_id, t.client_id, t.agent, t.status, q.content AS question,
       coalesce(a.content, '') AS answer, t.started_at, t.finished_at, t.attempt
FROM turns t JOIN threads th ON th.key = t.thread_key
LEFT JOIN messages q ON q.message_id = t.message_id
LEFT JOIN messages a ON a.message_id = t.answer_id
"""


def _seconds(millis: int | None) -> float | None:
    return None if millis is None else millis / 1000


@contextlib.asynccontextmanager
async def _connected(url: str) -> Any:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


async def rows(url: str) -> dict[str, Row]:
    """All turns, by id."""
    async with _connected(url) as connection:
        found = await connection.fetch(_TURNS)
    return {
        r["turn_id"]: Row(**{**r, "started_at": _seconds(r["started_at"]), "finished_at": _seconds(r["finished_at"])})
        for r in found
    }


async def at_rest(url: str, within: float = 60.0) -> None:
    """Wait until no turn runs and none waits."""
    deadline = time.monotonic() + within
    async with _connected(url) as connection:
        while True:
            still = await connection.fetch(
                "SELECT turn_id, status, attempt FROM turns WHERE finished_at IS NULL ORDER BY key LIMIT 5"
            )
            if not still:
                return
            assert time.monotonic() < deadline, f"not at rest within {within} s: {[dict(row) for row in still]}"
            await asyncio.sleep(0.1)


async def stored_up_to(url: str, thread_id: str, offset: int, within: float = 10.0) -> None:
    """Wait until the thread's log is durable up to that offset."""
    async with asyncio.timeout(within), _connected(url) as connection:
        while True:
            if await connection.fetchval("SELECT head FROM threads WHERE thread_id = $1", thread_id) >= offset:
                return
            await asyncio.sleep(0.05)


@dataclass(slots=True)
class Ledger:
    """All that was found; `problems` should be empty."""

    rows: dict[str, Row]
    problems: list[str] = field(default_factory=list)

    def count(self, status: str) -> int:
        return sum(row.status == status for row in self.rows.values())

    def check(self, context: str = "") -> None:
        """Fail if there are problems, and show them."""
        if self.problems:
            shown = "\n  ".join(self.problems[:_SHOWN_PROBLEMS])
            raise AssertionError(f"{context}: {len(self.problems)} problems\n  {shown}")

    def of_marker(self, marker: str) -> list[Row]:
        return [row for row in self.rows.values() if row.marker == marker]


async def audited(cluster: Cluster, devices: Sequence[Device], *, rest_within: float = 60.0) -> Ledger:
    """Wait for rest, then look at everything."""
    await at_rest(cluster.database_url, rest_within)
    ledger = Ledger(await rows(cluster.database_url))
    _statuses(ledger)
    await _segments(ledger, cluster.database_url)
    _payments(ledger, cluster)
    _devices(ledger, devices)
    await _outbox(ledger, cluster.database_url)
    await _answers(ledger, cluster)
    for node in cluster.all:
        ledger.problems += [f"node {node.name} logged {line[:600]}" for line in node.alarms[:3]]
    return ledger


def _statuses(ledger: Ledger) -> None:
    for row in ledger.rows.values():
        where = f"turn {row.turn_id} ({row.marker})"
        if row.status not in FINAL or row.finished_at is None:
            ledger.problems.append(f"{where} is {row.status}")
        if (expected := row.expected) is not None and not (
            row.answer == expected if row.status == "completed" else expected.startswith(row.answer)
        ):
            ledger.problems.append(f"{where} is {row.status}, and {astray(row.answer, expected)}")


async def _segments(ledger: Ledger, url: str) -> None:
    """Each thread's log is contiguous up to its head, shows each turn's end once, and nothing of a turn behind it.

    A new epoch begins with the end of the turn that was interrupted, and what is older is gone.
    """
    async with _connected(url) as connection:
        threads = await connection.fetch("SELECT key, thread_id, epoch, head FROM threads")
        segments = await connection.fetch(
            "SELECT thread_key, first, last, events FROM segments ORDER BY thread_key, first"
        )
    by_thread = defaultdict(list)
    for segment in segments:
        by_thread[segment["thread_key"]].append(segment)
    of_thread = defaultdict(set)
    for row in ledger.rows.values():
        of_thread[row.thread_key].add(row.turn_id)
    for thread in threads:
        kept = by_thread[thread["key"]]
        where, offset = f"thread {thread['thread_id']}", kept[0]["first"] - 1 if kept else 0
        texts: dict[str, str] = {}
        done: dict[str, dict[str, Any]] = {}
        for segment in kept:
            events = msgspec.msgpack.decode(segment["events"])
            if segment["first"] != offset + 1 or segment["last"] - segment["first"] + 1 != len(events):
                said = f"{segment['first']}–{segment['last']} with {len(events)} events behind {offset}"
                ledger.problems.append(f"{where} has a segment {said}")
            offset = segment["last"]
            for event in events:
                _event(ledger, where, event, texts, done)
        if kept and kept[0]["first"] != 1 and not any(row.status == "interrupted" for row in ledger.rows.values()):
            ledger.problems.append(f"{where} begins at {kept[0]['first']}, and nothing was interrupted")
        if offset != thread["head"]:
            ledger.problems.append(f"{where} has segments up to {offset}, and the head {thread['head']}")
        for turn_id in of_thread[thread["key"]]:
            row = ledger.rows[turn_id]
            if turn_id not in texts and turn_id not in done:
                if kept and kept[0]["first"] == 1:
                    ledger.problems.append(f"{where}: the turn {turn_id}, {row.status}, is not in the log")
            elif turn_id not in done:
                ledger.problems.append(f"{where}: the turn {turn_id}, {row.status}, has no done in the log")
            elif (done[turn_id]["status"], done[turn_id]["content"]) != (row.status, row.answer):
                ledger.problems.append(f"{where}: the log's done of {turn_id} is not what is stored")
            elif turn_id in texts and texts[turn_id] != row.answer:
                said = f"{texts[turn_id][-60:]!r}, stored is {row.answer[-60:]!r}"
                ledger.problems.append(f"{where}: the log's text of {turn_id} ({row.status}) is {said}")


def _event(
    ledger: Ledger, where: str, event: dict[str, Any], texts: dict[str, str], done: dict[str, dict[str, Any]]
) -> None:
    turn_id, kind = event["turn_id"], event["type"]
    if turn_id in done:
        ledger.problems.append(f"{where} has a {kind} of the turn {turn_id} behind its done")
    if turn_id not in ledger.rows:
        ledger.problems.append(f"{where} has a {kind} of a turn {turn_id} that is not stored")
    if kind == "user_message":
        texts.setdefault(turn_id, "")
    elif kind == "message" and turn_id in texts:
        texts[turn_id] += event["content"]
    elif kind == "reset":
        texts[turn_id] = event["content"]
    elif kind == "done":
        done[turn_id] = event


def payments(cluster: Cluster) -> list[str]:
    """What was paid for more than once, in words."""
    paid = cluster.upstream.by_marker()
    return [
        f"{marker} was paid for {count} times, on {[call.node for call in paid[marker]]}"
        for marker, count in cluster.upstream.twice().items()
    ]


def _payments(ledger: Ledger, cluster: Cluster) -> None:
    ledger.problems += payments(cluster)
    paid = cluster.upstream.by_marker()
    for row in ledger.rows.values():
        if row.agent == "claude" and row.status == "completed" and row.marker not in paid:
            ledger.problems.append(f"turn {row.turn_id} ({row.marker}) is completed, and nobody called for it")


def _devices(ledger: Ledger, devices: Iterable[Device]) -> None:
    for device in devices:
        ledger.problems += device.violations
        for sent in device.sent:
            if not sent.accepted.is_set():
                continue
            row = ledger.rows.get(sent.turn_id)
            if row is None:
                ledger.problems.append(f"{device.name}: {sent.turn_id} ({sent.id}) was accepted, and is not stored")
            elif row.client_id != sent.id:
                ledger.problems.append(f"{device.name}: {sent.turn_id} was accepted for {sent.id}, not {row.client_id}")
        for turn_id, ending in device.endings.items():
            row = ledger.rows.get(turn_id)
            if row is None:
                ledger.problems.append(f"{device.name} was told of an end of {turn_id}, which is not stored")
            elif (row.status, row.answer) != (ending.status, ending.content):
                said = f"{ending.status} {ending.content[-40:]!r} by {ending.told_by}"
                stored = f"{row.status} {row.answer[-40:]!r}"
                ledger.problems.append(f"{device.name}: {turn_id} was told as {said}, and stored as {stored}")


async def _outbox(ledger: Ledger, url: str) -> None:
    """No push has two outcomes, or an outcome while it waits."""
    async with _connected(url) as connection:
        twice = await connection.fetch(
            "SELECT turn_id, device_id, kind, count(*) FROM push_outcomes GROUP BY 1, 2, 3 HAVING count(*) > 1"
        )
    ledger.problems += [f"a push with more than one outcome: {dict(row)}" for row in twice]


async def _answers(ledger: Ledger, cluster: Cluster, at_once: int = 8) -> None:
    """`GET /api/turns/{id}` says what is stored, on whichever node."""
    nodes = [node for node in cluster.nodes if node.healthy]
    if not nodes:
        return
    todo = list(enumerate(ledger.rows.values()))

    async def ask(http: httpx2.AsyncClient) -> None:
        while todo:
            number, row = todo.pop()
            headers = {"Authorization": f"Bearer {cluster.tokens[row.user_id]}"}
            answer = await http.get(f"{nodes[number % len(nodes)].url}/api/turns/{row.turn_id}", headers=headers)
            shown = answer.json()
            if answer.status_code != 200 or (shown["status"], shown["content"]) != (row.status, row.answer):
                ledger.problems.append(f"GET of {row.turn_id}, {row.status}: {answer.status_code} {str(shown)[:300]}")

    async with httpx2.AsyncClient(timeout=20, trust_env=False) as http:
        await asyncio.gather(*(ask(http) for _ in range(at_once)))
