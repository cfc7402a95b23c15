"""What holds for SQLite in particular: its durability, its file, and how it says that it cannot go on."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from gateway.store import engine
from gateway.store.base import StoreUnavailable
from gateway.store.records import NewTurn
from gateway.store.sql import SqlStore
from gateway.store.writer import Writer

SECRET = "the user's own words"


def new(name: str, **changes: Any) -> NewTurn:
    fields: dict[str, Any] = {
        "user_id": "alice",
        "agent": "demo",
        "thread_id": f"t-{name}",
        "client_id": name,
        "turn_id": name,
        "message_id": f"m-{name}",
        "answer_id": f"a-{name}",
        "content": SECRET,
        "epoch": 1,
        "title": SECRET,
        "queue_limit": 8,
        "at": 1,
    }
    return NewTurn(**fields | changes)


async def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """FULL is 2. In WAL mode NORMAL, 1, would lose acknowledged commits with the power."""
    url = engine.sqlite_url(f"sqlite:///{tmp_path}/store.db")
    async with SqlStore.open(str(url)):
        pass
    writing = engine.sqlite_engine(url, writes=True)
    with writing.connect() as connection:
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
    writing.dispose()


async def test_the_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        await store.accept(new("1"))
        modes = {entry.name: oct(entry.stat().st_mode & 0o777) for entry in os.scandir(tmp_path)}
        assert modes == {"store.db": "0o600", "store.db-wal": "0o600", "store.db-shm": "0o600"}


async def test_a_locked_database_is_unavailable_without_telling_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_MS", 100)
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        calls = [store.accept(new(str(n))) for n in range(5)]
        async with asyncio.timeout(5):
            results = await asyncio.gather(*calls, return_exceptions=True)
        for error in results:
            assert isinstance(error, StoreUnavailable)
            assert "locked" in str(error)
            assert SECRET not in "".join(traceback.format_exception(error))
        await store.ping()  # readers wait for no writer
        other.execute("COMMIT")
        other.close()
        assert not (await store.accept(new("1"))).duplicate
        assert await store.turn("alice", "2") is None


async def test_an_error_of_a_statement_names_no_values(tmp_path: Path) -> None:
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        await store.accept(new("1"))
        with pytest.raises(Exception, match="UNIQUE constraint failed") as caught:
            await store.accept(new("2", message_id="m-1"))
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert await store.thread("alice", "t-2") is None


async def test_a_turn_id_used_twice_is_an_error_not_a_duplicate(tmp_path: Path) -> None:
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        await store.accept(new("1"))
        with pytest.raises(ValueError, match="turn_id"):
            await store.accept(new("2", turn_id="1"))


@pytest.mark.parametrize("make", ["directory", "garbage", "missing"])
async def test_a_file_that_cannot_be_used_is_unavailable(tmp_path: Path, make: str) -> None:
    path = tmp_path / "store.db"
    if make == "directory":
        path.mkdir()
    elif make == "garbage":
        path.write_bytes(b"not a database, " * 100)
    else:
        path = tmp_path / "missing" / "store.db"
    with pytest.raises(StoreUnavailable):
        async with SqlStore.open(f"sqlite:///{path}"):
            pass


def test_a_full_disk_refuses_and_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    """The child may write files of at most 2 MB: what it accepted is there, what was refused is not, and it goes on."""
    program = """
        import asyncio, resource, signal, sys
        from gateway.store.base import StoreUnavailable
        from gateway.store.records import NewTurn
        from gateway.store.sql import SqlStore

        async def accept(store, n):
            await store.accept(NewTurn(
                user_id="alice", agent="demo", thread_id=str(n), client_id=str(n), turn_id=str(n),
                message_id=f"m-{n}", answer_id=f"a-{n}", content="x" * 10_000, epoch=1, title="",
                queue_limit=8, at=1))

        async def main():
            accepted = 0
            async with SqlStore.open(sys.argv[1]) as store:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
                while True:
                    try:
                        await accept(store, accepted)
                    except StoreUnavailable:
                        break
                    accepted += 1
                await store.ping()
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                await accept(store, accepted)
                print(accepted + 1)

        asyncio.run(main())
    """
    url = f"sqlite:///{tmp_path}/store.db"
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), url], capture_output=True, text=True, timeout=30, check=False
    )
    assert child.stderr == ""
    database = sqlite3.connect(tmp_path / "store.db")
    turns = [turn_id for (turn_id,) in database.execute("SELECT turn_id FROM turns ORDER BY key")]
    database.close()
    assert len(turns) > 5
    assert turns == [str(n) for n in range(int(child.stdout))]


async def test_calls_that_wait_together_are_committed_together_and_fail_alone(tmp_path: Path) -> None:
    url = engine.sqlite_url(f"sqlite:///{tmp_path}/store.db")
    async with SqlStore.open(str(url)):
        pass
    writing = engine.sqlite_engine(url, writes=True)
    commits = 0

    def count(connection: Connection) -> None:
        nonlocal commits
        commits += 1

    event.listen(writing, "commit", count)

    def bury(connection: Connection, n: int) -> int:
        connection.execute(text("INSERT INTO tombstones VALUES ('alice', :n, 1)"), {"n": str(n)})
        if n % 3 == 0:
            raise LookupError(n)
        return n

    writer = Writer(writing)
    writer.start()
    calls = [writer.run(lambda connection, n=n: bury(connection, n)) for n in range(30)]  # type: ignore[misc]
    async with asyncio.timeout(10):
        results = await asyncio.gather(*calls, return_exceptions=True)
        await writer.close()
    assert [n for n in results if isinstance(n, int)] == [n for n in range(30) if n % 3]
    assert sum(isinstance(error, LookupError) for error in results) == 10
    assert commits == 1
    with writing.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM tombstones")) == 20
    writing.dispose()


async def test_the_event_loop_goes_on_while_the_database_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_MS", 500)
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        call = asyncio.create_task(store.accept(new("1")))
        for _ in range(20):
            await store.ping()
        assert not call.done()
        other.execute("ROLLBACK")
        other.close()
        async with asyncio.timeout(5):
            assert (await call).turn.status == "running"


async def test_opening_waits_for_another_that_still_makes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waits = []

    def release(seconds: float) -> None:
        waits.append(seconds)
        if other.in_transaction:
            other.execute("ROLLBACK")

    monkeypatch.setattr(engine, "BUSY_MS", 300)
    monkeypatch.setattr("gateway.store.engine.time.sleep", release)
    async with asyncio.timeout(10), SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        await store.ping()
    other.close()
    assert waits
