"""The Redis of the tests keeps its port and its data over kills, and can be failed over."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.redis_server import RedisServer


def test_what_redis_has_answered_survives_a_kill_on_the_same_port(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        url = redis.url
        redis.command("XADD", "log", "3-7", "first", "5")
        redis.kill_now()
        with pytest.raises(OSError, match="refused"):
            redis.command("PING")
        assert redis.start() == url
        assert redis.command("XRANGE", "log", "-", "+") == [[b"3-7", [b"first", b"5"]]]
        redis.kill_now()
        redis.forget()
        redis.start()
        assert redis.command("XLEN", "log") == 0


def test_a_frozen_redis_holds_its_connections_and_answers_once_it_is_thawed(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis, socket.create_connection(("127.0.0.1", redis.port)) as connection:
        connection.settimeout(0.2)
        with redis.frozen():
            connection.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(100)
        connection.settimeout(5)
        assert connection.recv(100) == b"+PONG\r\n"


def test_a_replica_has_what_its_master_had_and_takes_writes_once_it_is_promoted(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "one") as one, RedisServer(tmp_path / "two", replica_of=one) as two:
        one.command("SET", "name", "value")
        two.await_replication()
        one.kill_now()
        two.promote()
        two.command("SET", "other", "more")
        assert (two.command("GET", "name"), two.command("GET", "other")) == (b"value", b"more")
