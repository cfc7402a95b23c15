"""What is peculiar to Postgres: it may go away, and others use it at the same time."""

import asyncio
import contextlib
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from gateway.store import postgres
from gateway.store.base import StoreUnavailable
from gateway.store.migrate import DatabaseTooNew
from gateway.store.records import NewDeviceToken, PairCode
from gateway.store.sql import SqlStore
from gateway.store.tables import metadata
from tests.contract.test_store import end, new
from tests.postgres_server import PostgresServer

HEALED_SECONDS = 1.0


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server to be mistreated."""
    with PostgresServer() as server:
        server.create_database("store")
        yield server


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[SqlStore]:
    async with SqlStore.open(postgres_url) as store:
        yield store


def sql(statement: str) -> Any:
    """A transaction of one statement that returns the first row's first column, if there is a row."""

    def work(connection: Connection) -> Any:
        result = connection.execute(text(statement))
        return result.scalar() if result.returns_rows else None

    return work


async def healed(store: SqlStore) -> None:
    """Returns once a write succeeds; in time, or it is a failure."""
    async with asyncio.timeout(HEALED_SECONDS):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await store.database.write(sql("CREATE TEMPORARY TABLE IF NOT EXISTS healed (a int)"))
                return
            await asyncio.sleep(0.01)


# Opening


def test_five_processes_open_a_fresh_database_at_once(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database("fresh")
    program = """
import asyncio, sys
from gateway.store.sql import SqlStore
async def main():
    async with SqlStore.open(sys.argv[1]) as store:
        print((await store.secret("one")).hex())
asyncio.run(main())
"""
    try:
        command = [sys.executable, "-c", program, url]
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(5)
        ]
        ended = [process.communicate(timeout=60) for process in started]
        assert [err for _, err in ended] == [""] * 5
        assert len({out for out, _ in ended}) == 1
    finally:
        postgres_server.drop_database("fresh")


async def test_the_migrated_schema_equals_the_tables(store: SqlStore) -> None:
    def differences(connection: Connection) -> Any:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, metadata)

    assert await store.database.write(differences) == []


async def test_a_database_of_a_newer_program_is_refused_in_one_line(store: SqlStore, postgres_url: str) -> None:
    await store.database.write(sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew, match="9999") as caught:
        async with SqlStore.open(postgres_url):
            pass
    assert "\n" not in str(caught.value)


async def test_a_database_that_cannot_be_used_is_one_line_at_once_without_its_password(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    refused = postgres_server.url().replace(str(postgres_server.port), "1")
    wrong = postgres_server.url(password="hunter2")
    for url, says in ((refused, "reached"), (wrong, "password authentication failed"), (f"{wrong}?sslmode=no", "URL")):
        with pytest.raises((StoreUnavailable, ValueError), match=says) as caught:
            async with asyncio.timeout(2), SqlStore.open(url):
                pass
        told = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
        assert "\n" not in str(caught.value)
        assert "hunter2" not in told
        assert postgres_server.password not in told


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_the_url_may_be_written_in_each_usual_way(postgres_url: str, scheme: str) -> None:
    url = f"{scheme}:{postgres_url.partition(':')[2]}?sslmode=prefer&application_name=mine"
    async with SqlStore.open(url) as store:
        await store.ping()


async def test_every_commit_waits_for_the_disk(store: SqlStore) -> None:
    assert await store.database.write(sql("SHOW synchronous_commit")) == "on"


# Going away


async def test_a_stopped_server_is_unavailable_at_once_and_all_is_well_when_it_is_back(
    own_server: PostgresServer,
) -> None:
    async with SqlStore.open(own_server.url("store")) as store:
        await asyncio.gather(*(store.ping() for _ in range(20)))
        await own_server.stop()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            began = time.monotonic()
            results = await asyncio.gather(
                store.accept(new("1")), *(store.ping() for _ in range(20)), return_exceptions=True
            )
            assert all(isinstance(result, StoreUnavailable) for result in results)
            assert time.monotonic() - began < 1
            await asyncio.sleep(0.05)
        await own_server.start_soon()
        await healed(store)
        assert not (await store.accept(new("1"))).duplicate


async def test_a_server_that_stands_still_is_unavailable_in_time_and_all_is_well_when_it_goes_on(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqlStore.open(own_server.url("store")) as store:
        await asyncio.gather(*(store.ping() for _ in range(20)))
        monkeypatch.setattr(postgres, "CALL_SECONDS", 1.0)
        own_server.freeze()
        try:
            for _ in range(2):  # connections that are open, then new ones
                began = time.monotonic()
                calls = [store.accept(new(str(n), thread_id=f"t-{n}")) for n in range(15)]
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(result, StoreUnavailable) for result in results)
                assert time.monotonic() - began < 2
        finally:
            own_server.thaw()
        await healed(store)
        await asyncio.gather(*(store.accept(new(str(n), thread_id=f"t-{n}")) for n in range(15)))
        began = time.monotonic()
    assert time.monotonic() - began < 3


async def test_a_store_can_be_closed_while_the_server_stands_still(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CALL_SECONDS", 1.0)
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 1.0)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(SqlStore.open(own_server.url("store")))
        await store.ping()
        own_server.freeze()
        stack.callback(own_server.thaw)
        call = asyncio.create_task(store.ping())
        await asyncio.sleep(0)
        stack.push_async_callback(asyncio.wait, [call])
        began = time.monotonic()
        await stack.pop_all().aclose()
        assert time.monotonic() - began < 4
    assert isinstance(call.exception(), StoreUnavailable)


async def test_connections_that_the_server_has_closed_are_not_noticed(store: SqlStore) -> None:
    await asyncio.gather(*(store.ping() for _ in range(20)))
    others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    mine = " AND datname = current_database() AND application_name = 'agentline'"
    for _ in range(3):
        assert await store.database.write(sql(others + mine)) > 0
        await asyncio.sleep(0.05)  # what the server said has arrived
        await asyncio.gather(*(store.ping() for _ in range(20)))


async def test_what_was_accepted_before_the_server_was_killed_is_there_after_its_recovery() -> None:
    with PostgresServer(durable=True) as server:
        server.create_database("store")
        async with SqlStore.open(server.url("store")) as store:
            told: list[str] = []
            begun = asyncio.Event()

            async def keep_accepting(who: int) -> None:
                with contextlib.suppress(StoreUnavailable):
                    for n in range(10_000):
                        accepted = await store.accept(new(f"{who}-{n}", user_id=f"user-{who}", thread_id=f"t-{n}"))
                        told.append(accepted.turn.turn_id)
                        if len(told) == 40:
                            begun.set()

            async with asyncio.TaskGroup() as group:
                for who in range(8):
                    group.create_task(keep_accepting(who))
                await begun.wait()
                await server.kill()
            await server.start_soon()
            await healed(store)
            assert {turn.turn_id for _, turn in await store.running()} >= set(told)
            assert len(told) >= 40


# Others at the same time


async def test_transactions_that_wait_for_each_other_are_tried_anew(store: SqlStore) -> None:
    await asyncio.gather(*(store.accept(new(name, thread_id=name)) for name in "ab"))
    met = [asyncio.Event(), asyncio.Event()]
    tries = [0, 0]

    def crossing(which: int) -> Any:
        def work(connection: Connection) -> None:
            tries[which] += 1
            lock = text("UPDATE threads SET title = :title WHERE thread_id = :id")
            connection.execute(lock, {"id": "ab"[which], "title": str(which)})
            met[which].set()
            if tries[which] == 1:
                connection.execute(text("SELECT pg_sleep(0.1)"))
            connection.execute(lock, {"id": "ba"[which], "title": str(which)})

        return work

    await asyncio.gather(*(store.database.write(crossing(which)) for which in (0, 1)))
    assert sorted(tries) == [1, 2]


async def test_a_call_that_waits_too_long_for_another_is_unavailable_and_harms_nobody(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = await store.accept(new("1"))
    locked, done = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        connection = await store.database._engine.connect()  # type: ignore[attr-defined]
        driver = (await connection.get_raw_connection()).driver_connection
        async with driver.transaction():
            await driver.execute("SELECT * FROM threads FOR UPDATE")
            locked.set()
            await done.wait()
        await connection.close()

    holder = asyncio.create_task(hold())
    await locked.wait()
    monkeypatch.setattr(postgres, "CALL_SECONDS", 0.3)
    calls = [store.finish(end(accepted)) for _ in range(postgres.CONNECTIONS - 1)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    done.set()
    await holder
    monkeypatch.undo()
    assert await store.finish(end(accepted)) is None


async def test_a_cancelled_call_is_done_or_undone_and_gives_its_connection_back(store: SqlStore) -> None:
    for n in range(60):
        call = asyncio.create_task(store.accept(new(str(n), thread_id=f"t-{n}")))
        await asyncio.sleep(n * 0.0001)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
    async with asyncio.timeout(5):
        await asyncio.gather(*(store.ping() for _ in range(50)))
    for n in range(60):
        found = await store.turn("alice", f"u-{n}")
        assert (found is None) == (await store.thread("alice", f"t-{n}") is None)
        assert (await store.accept(new(str(n), thread_id=f"t-{n}"))).duplicate == (found is not None)
    pool = store.database._engine.pool  # type: ignore[attr-defined]
    assert (pool.checkedout(), store.database._slots._value) == (0, postgres.CONNECTIONS)  # type: ignore[attr-defined]
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    assert await store.database.write(sql(busy)) == 0


async def test_pages_lose_none_of_the_threads_that_changed_at_the_very_same_time(postgres_url: str) -> None:
    async with SqlStore.open(postgres_url) as one, SqlStore.open(postgres_url) as other:
        await asyncio.gather(*((one, other)[n % 2].accept(new(str(n), thread_id=f"t-{n}")) for n in range(60)))
        tie = sql("UPDATE threads SET updated_at = updated_at / 100 * 100 RETURNING updated_at")
        await one.database.write(tie)
        shares = sql("SELECT count(*) - count(DISTINCT updated_at) FROM threads")
        assert await one.database.read(shares) > 0
        seen: list[str] = []
        before: int | None = None
        while page := await one.threads("alice", agent=None, before=before, limit=7):
            seen += [summary.thread.thread_id for summary in page]
            before = page[-1].thread.updated_at
        assert len(seen) == len(set(seen)) == 60


async def test_a_token_that_another_node_adds_is_never_missed(postgres_url: str) -> None:
    """The mark is the number of tokens and the highest key: keys must become visible in their order."""
    async with SqlStore.open(postgres_url) as one, SqlStore.open(postgres_url) as other:
        seen = await one.all_device_tokens(None)
        for round_ in range(5):
            codes = [bytes([round_, n]) * 16 for n in range(8)]
            for code in codes:
                await one.add_pair_code(PairCode(digest=code, user_id="alice", created_at=1, expires_at=9))
            pairings = [
                asyncio.create_task(
                    store.pair(code, NewDeviceToken(token_id=code.hex(), digest=code * 1, name="", created_at=2))
                )
                for store, code in zip((one, other) * 4, codes, strict=True)
            ]
            while not all(task.done() for task in pairings):
                seen = await one.all_device_tokens(seen.mark if seen else None) or seen
                if seen and seen.tokens and len(seen.tokens) % 3 == 0:
                    await other.remove_device_token("alice", seen.tokens[0].token_id)
            await asyncio.gather(*pairings)
            seen = await one.all_device_tokens(seen.mark if seen else None) or seen
            assert seen is not None
            assert seen.tokens == await other.device_tokens("alice")


async def test_an_error_of_a_statement_names_no_values(store: SqlStore) -> None:
    await store.accept(new("1"))
    for changes in ({"message_id": "m-1", "content": "hunter2"}, {"at": 2**70, "content": "hunter2"}):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each has its own
            await store.accept(new("2", **changes))
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
        assert "m-1" not in "".join(traceback.format_exception(caught.value))
    await store.ping()


async def test_it_is_known_whether_a_transaction_that_was_lost_may_have_been_committed(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, lost = asyncpg.Connection.execute, "BEGIN"

    async def losing(driver: asyncpg.Connection, query: str) -> str:
        said: str = await execute(driver, query)
        if query.startswith(lost):
            raise ConnectionResetError
        return said

    monkeypatch.setattr(asyncpg.Connection, "execute", losing)
    for lost, undone in (("BEGIN", True), ("COMMIT", False)):  # noqa: B007 - `losing` reads it
        with pytest.raises(StoreUnavailable) as raised:
            await store.database.write(sql("SELECT 1"))
        assert raised.value.undone is undone


async def test_what_operators_write_behind_the_url_for_libpq_is_taken(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+asyncpg://")
    query = "sslmode=prefer&connect_timeout=10&keepalives=1&keepalives_idle=30&application_name=mine&gssencmode=disable"
    async with SqlStore.open(f"{url}?{query}") as store:
        assert await store.database.read(sql("SHOW application_name")) == "agentline"
    async with SqlStore.open(f"{url}?connect_timeout=10"):
        pass


async def test_what_only_libpq_could_keep_is_refused_in_words(postgres_url: str) -> None:
    with pytest.raises(StoreUnavailable, match=r'unrecognized configuration parameter "channel_binding"'):
        async with SqlStore.open(f"{postgres_url}?channel_binding=require"):
            pass
