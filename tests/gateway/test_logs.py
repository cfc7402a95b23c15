"""Log lines: their form, and what is never in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

import pytest
import structlog

from gateway.logs import configure_logs, describe_exception, log_failure, log_loop_exception

SECRET = "what the person wrote"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    loggers = [value for value in root.manager.loggerDict.values() if isinstance(value, logging.Logger)]
    before = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, its_level, propagate, its_handlers in before:
        logger.setLevel(its_level)
        logger.propagate = propagate
        logger.handlers[:] = its_handlers
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(out: io.StringIO) -> Lines:
    configure_logs("debug", "json", out)
    return lambda: [json.loads(line) for line in out.getvalue().splitlines()]


def inner() -> None:
    raise ValueError(SECRET)


def raised() -> Exception:
    try:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError(f"because {SECRET}") from error
    except RuntimeError as error:
        return error
    raise AssertionError


def test_a_line_is_one_json_object(lines: Lines) -> None:
    structlog.get_logger("gateway.x").info("turn_done", tokens=3, path=PurePosixPath("/a"))
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "turn_done", "level": "info", "logger": "gateway.x", "tokens": 3, "path": "/a"}


def test_lines_of_the_standard_library_look_the_same(lines: Lines) -> None:
    logging.getLogger("some.library").warning("%d of %s", 1, "two")
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == ("1 of two", "warning", "some.library")


@pytest.mark.parametrize("format", ["json", "console"])
def test_an_exception_is_shown_as_types_and_places_and_never_as_its_text(
    out: io.StringIO, format: Literal["json", "console"]
) -> None:
    configure_logs("info", format, out)
    error = raised()
    group = ExceptionGroup(SECRET, [error])
    ours, theirs = structlog.get_logger("gateway.x"), logging.getLogger("some.library")
    ours.error("failed", exc_info=error)
    ours.error("failed", exc_info=group)
    ours.error("failed", error=error, errors=[error], by_key={"k": error})
    ours.error("failed %s", error)
    ours.error(error)
    theirs.error("failed", exc_info=error)
    theirs.error("failed %s", error)
    theirs.error("failed %(e)s", {"e": error})
    theirs.error(error)
    try:
        inner()
    except ValueError:
        ours.exception("failed")
        theirs.exception("failed")
        ours.error("failed", exc_info=True)
    text = out.getvalue()
    assert SECRET not in text
    assert "ValueError" in text
    assert "RuntimeError" in text
    assert f"{__file__}:" in text
    assert "in inner" in text


def test_the_description_names_causes_and_members_once_each_and_ends() -> None:
    error = raised()
    assert [one["type"] for one in describe_exception(error)] == ["RuntimeError", "ValueError"]
    assert describe_exception(error)[1]["frames"][-1].endswith(" in inner")
    group = ExceptionGroup("", [error, ExceptionGroup("", [TypeError()])])
    assert [one["type"] for one in describe_exception(group)] == [
        "ExceptionGroup",
        "RuntimeError",
        "ValueError",
        "ExceptionGroup",
        "TypeError",
    ]
    circle = ValueError()
    circle.__cause__ = error
    error.__cause__ = circle
    assert len(describe_exception(error)) == 2
    assert len(describe_exception(ExceptionGroup("", [ValueError() for _ in range(1000)]))) == 8


def test_an_object_is_shown_as_its_type_because_its_repr_may_quote_anything(lines: Lines) -> None:
    class Message:
        def __repr__(self) -> str:
            return SECRET

    structlog.get_logger("gateway.x").info("event", message=Message(), several=[Message()])
    (line,) = lines()
    assert "Message" in line["message"]
    assert SECRET not in json.dumps(line)


def test_a_task_whose_exception_no_one_took_is_logged_without_its_text(lines: Lines) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_exception)
        task = loop.create_task(fails(), name="the-task")
        await asyncio.wait([task])
        del task

    async def fails() -> None:
        inner()

    asyncio.run(main())
    (line,) = [line for line in lines() if line["event"] == "loop_exception"]
    assert line["subject"] == "the-task"
    assert line["exception"][0]["type"] == "ValueError"
    assert SECRET not in json.dumps(line)


async def test_a_background_task_that_fails_is_logged_at_once_and_one_that_was_stopped_is_not(lines: Lines) -> None:
    async def fail() -> None:
        inner()

    failing, stopped = asyncio.create_task(fail()), asyncio.create_task(asyncio.Event().wait())
    for task in (failing, stopped):
        task.add_done_callback(log_failure(structlog.get_logger("gateway.test"), "loop_failed", loop=task.get_name()))
    stopped.cancel()
    await asyncio.wait((failing, stopped))
    [line] = lines()
    assert (line["level"], line["event"], line["loop"]) == ("critical", "loop_failed", failing.get_name())
    assert line["exception"][0]["type"] == "ValueError"
    assert SECRET not in json.dumps(line)


def test_uvicorn_shows_no_query_and_no_access_line(lines: Lines) -> None:
    client = ("10.0.0.1", 5)
    logging.getLogger("uvicorn.error").warning('%s - "WebSocket %s" [accepted]', client, f"/api/demo/ws?token={SECRET}")
    logging.getLogger("uvicorn.access").info('%s - "%s"', client, f"/?token={SECRET}")
    (line,) = lines()
    assert line["event"].endswith('"WebSocket /api/demo/ws" [accepted]')


def test_debug_is_for_the_gateways_own_loggers(lines: Lines) -> None:
    for name in ("gateway.x", "providers.demo", "anthropic", "websockets.server", "uvicorn.error", "some.library"):
        logging.getLogger(name).debug(name)
    for name in ("httpx", "sqlalchemy.engine", "some.library"):
        logging.getLogger(name).info(name)
    assert [line["event"] for line in lines()] == ["gateway.x", "providers.demo", "some.library"]


def test_the_level_holds_back_what_is_below_it(out: io.StringIO) -> None:
    configure_logs("warning", "json", out)
    structlog.get_logger("gateway.x").info("no")
    logging.getLogger("some.library").info("no")
    structlog.get_logger("gateway.x").warning("yes")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["yes"]


def test_a_terminal_gets_console_lines_and_anything_else_json() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
        configure_logs("info", None, stream)
        structlog.get_logger("gateway.x").info("event")
        assert stream.getvalue().startswith("{") is is_json


def test_configuring_again_replaces_the_first_configuration(lines: Lines) -> None:
    second = io.StringIO()
    configure_logs("info", "json", second)
    structlog.get_logger("gateway.x").info("event")
    assert lines() == []
    assert len(second.getvalue().splitlines()) == 1
