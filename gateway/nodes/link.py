"""A node's connections to Redis, and whether it answers.

Keys begin with `agentline:`. Redis must not evict (`maxmemory-policy noeviction`) and must keep an append-only file:
docs/scale.md tells what is lost without.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Self, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from gateway.ids import new_id

ANSWER_SECONDS = 2.0
"""How long Redis may take to answer before it counts as down."""
CONNECT_SECONDS = 1.0
BLOCK_MS = 2_000
"""How long a blocking read waits for news. One whose server has died is noticed behind it and `ANSWER_SECONDS`."""
CONNECTIONS = 32
"""Commands of one node at the same time; further ones wait for their turn."""
IDLE_SECONDS = 30.0
"""After which Redis, or something on the way, may have dropped a connection."""
RETRY_SECONDS = 0.1
"""Between two tries while Redis is down."""
REFUSED_SECONDS = 1.0
"""Before another try when Redis answers, but refuses."""

CLOSED = "the handler is closed"
"""What uvloop says, as a bare RuntimeError, of a write to a connection that the other side has reset."""

ABOUT_THE_COMMAND = frozenset(("BUSYGROUP", "ERR", "NOGROUP", "NOSCRIPT", "WRONGTYPE"))
"""Codes of errors that are about what was asked. Any other one, such as OOM, NOREPLICAS or UNBLOCKED, is about the
server: it does not do now what it will do later."""
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -([A-Z]+) ")
"""Before Redis 7 an error of a command that a script called stands within another one."""
_IN_PIPELINE = re.compile(r"of pipeline caused error: \(['\"]([A-Z]+) ")

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class RedisDown(Exception):
    """Redis does not answer, or not as a primary that has loaded its data. What was asked for may have happened."""


class RedisLink:
    """`async with` it. Commands of one node share a pool; each blocking read has a connection of its own.

    A command is tried once: whoever calls knows what a repetition would mean.
    """

    def __init__(self, url: str) -> None:
        self.node_id = new_id("n")
        self._url = url
        self.client = self._connect(CONNECTIONS)
        self.up_since: float | None = None
        """Since when Redis has answered without fail (monotonic seconds); None while it does not."""

    def _connect(self, connections: int) -> Redis:
        # RESP2: one form of every answer, whatever the version of the server.
        pool = BlockingConnectionPool.from_url(
            self._url,
            timeout=None,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            # `ask` bounds every command. With a timeout of its own redis-py writes under asyncio.wait_for, which before
            # Python 3.12 loses a cancellation that comes as the write ends.
            socket_timeout=None,
            socket_connect_timeout=CONNECT_SECONDS,
            max_connections=connections,
        )
        return Redis.from_pool(pool)

    @property
    def up(self) -> bool:
        """Whether Redis answered the last time it was asked."""
        return self.up_since is not None

    async def ask(self, command: Awaitable[T], seconds: float | None = ANSWER_SECONDS) -> T:
        """The answer to a command of `client`, within `seconds`.

        Raises:
            RedisDown: there was none in time.
            ResponseError: Redis refused the command.
        """
        try:
            async with asyncio.timeout(seconds):
                answer = await command
        except AuthenticationError as error:
            self.failed(error)
            raise RedisDown("it refuses the password") from error
        except ResponseError as error:
            code = _code_of(error)
            if code in ABOUT_THE_COMMAND:
                raise
            self.failed(error)
            if code == "READONLY":  # a primary that has become a replica: another server is it now
                await self.client.connection_pool.disconnect(inuse_connections=False)
            raise RedisDown(f"it refuses commands: {code}") from error
        except (RedisError, OSError, TimeoutError) as error:
            await self._broken(error)
            raise RedisDown(str(error) or type(error).__name__) from error
        except RuntimeError as error:
            if CLOSED not in str(error):
                raise
            await self._broken(error)
            raise RedisDown("the connection was reset") from error
        if self.up_since is None:
            self.up_since = time.monotonic()
            _log.info("redis_up")
        return answer

    async def run(self, *command: Any) -> Any:
        """`ask`, of one command given by its words."""
        return await self.ask(called(self.client, *command))

    def down(self, error: BaseException) -> RedisDown:
        """What to raise when Redis did not do what a primary does."""
        self.failed(error)
        return RedisDown(str(error) or type(error).__name__)

    async def _broken(self, error: BaseException) -> None:
        """The idle connections have gone the same way, most likely: each would fail one more command, long after."""
        if self.up:
            self.failed(error)
            with contextlib.suppress(RedisError, OSError):
                await self.client.connection_pool.disconnect(inuse_connections=False)

    def failed(self, error: BaseException) -> None:
        """Redis did not do what a primary does."""
        if self.up_since is not None:
            self.up_since = None
            _log.error("redis_down", reason=type(error).__name__)

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        """A connection of its own."""
        connection: AbstractConnection = self.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        line = Line(self, connection)
        try:
            yield line
        finally:
            await line.drop()

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[Reader]:
        """A connection of its own for blocking reads."""
        async with self.line() as line:
            yield Reader(self, line)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self.client.aclose()


class Line:
    """A connection on which commands go as they are, one request after another.

    For what a node does with every piece of text: through the pool a command takes three times the CPU.
    """

    def __init__(self, link: RedisLink, connection: AbstractConnection) -> None:
        self._link = link
        self._connection = connection
        self._used = 0.0

    async def ask(self, *commands: Sequence[Any], seconds: float = ANSWER_SECONDS) -> list[Any]:
        """The answers, as RESP2 has them: names and values of a map in one flat list. That of a command which Redis
        refused is a `ResponseError`.

        Raises:
            RedisDown: they did not all come within `seconds`.
        """
        try:
            answers = await self._link.ask(self._exchange(commands), seconds)
            self._used = time.monotonic()
            return answers
        except BaseException:
            await self.drop()  # its answers may still come: they are not those of the next request
            raise

    async def _exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        connection, answers = self._connection, []
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                if _code_of(error) not in ABOUT_THE_COMMAND:
                    raise
                answers.append(error)
        return answers

    async def freshen(self) -> None:
        """Before a request: do not trust the connection if there was none for long."""
        if time.monotonic() - self._used > IDLE_SECONDS:
            await self.drop()

    async def drop(self) -> None:
        """Close it; what is asked next opens it anew."""
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)


class Reader:
    """Blocking reads of streams, one after another, which another task may cut short."""

    def __init__(self, link: RedisLink, line: Line) -> None:
        self._link = link
        self._line = line
        self._id: int | None = None
        self._blocked = False

    async def read(self, *command: Any) -> list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
        """The entries that an XREAD or XREADGROUP gives, by stream; it blocks for at most `BLOCK_MS`, and gives none if
        there was no news. An entry that was deleted has no fields.

        Raises: as `RedisLink.ask`.
        """
        try:
            if self._id is None:
                (self._id,) = await self._line.ask(("CLIENT", "ID"))
            self._blocked = True
            (answer,) = await self._line.ask(command, seconds=BLOCK_MS / 1000 + ANSWER_SECONDS)
        except RedisDown:
            self._id = None
            raise
        finally:
            self._blocked = False
        if isinstance(answer, ResponseError):
            raise answer
        return [(key, [(entry, fields_of(fields or ())) for entry, fields in entries]) for key, entries in answer or ()]

    async def interrupt(self) -> None:
        """Let a read that waits return at once, with no news. It may come too early, for a read that is about to wait:
        the caller repeats it."""
        if self._blocked and self._id is not None:
            with contextlib.suppress(RedisDown, ResponseError):
                await self._link.run("CLIENT", "UNBLOCK", self._id)


def _code_of(error: ResponseError) -> str:
    """The code that Redis' answer began with, which redis-py takes away where it knows it."""
    if (inner := _IN_SCRIPT.search(str(error))) is not None:
        return inner[1]
    if error.status_code is not None:
        return error.status_code
    inner = _IN_PIPELINE.search(str(error))
    return str(error).partition(" ")[0] if inner is None else inner[1]


def called(client: Redis, *command: Any) -> Awaitable[Any]:
    """A command given by its words, under way."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it without types


def fields_of(entry: Sequence[Any]) -> dict[bytes, bytes]:
    """The fields of a stream's entry, as a script returns them: a flat list."""
    return dict(zip(entry[::2], entry[1::2], strict=True))
