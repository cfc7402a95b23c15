"""Log lines: structlog and the standard library's loggers through one renderer, to standard error.

What a person or a model wrote is in no line. An exception's message can quote it, so exceptions are shown as
their types and the places they went through, never as their text. Libraries' debug lines show what they send
and receive, so the debug level is for the gateway's own loggers alone.
"""

from __future__ import annotations

import logging
import sys
import traceback
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

__all__ = ["configure_logs", "describe_exception", "log_failure", "log_loop_exception"]

_OWN = ("gateway", "providers", "notifications", "agentline")
_QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "sqlalchemy", "aiosqlite", "alembic")
"""Libraries whose info lines show URLs or statements, or are of no use."""
NO_HANDSHAKE = "ASGI callable returned without completing handshake."
"""What uvicorn says, as an error, of every socket that was refused by an HTTP answer, which is no error."""
_FRAMES = 30
_CHAIN = 8


def configure_logs(
    level: str = "info", format: Literal["console", "json"] | None = None, stream: TextIO | None = None
) -> None:
    """Set up logging for the whole process; a second call replaces the first. `format` None: console on a terminal."""
    out = stream if stream is not None else sys.stderr
    console = format == "console" or (format is None and out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_exception_text,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _plain_arguments,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    rendering: list[structlog.typing.Processor] = (
        [_as_text, structlog.dev.ConsoleRenderer(colors=out.isatty())]
        if console
        else [structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(out)
    handler.addFilter(_redact)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    chosen = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(chosen, logging.INFO))
    for name in _OWN:
        logging.getLogger(name).setLevel(chosen)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(chosen, logging.WARNING))
    # Its info lines tell what the gateway's own tell better; its name would make errors of them.
    logging.getLogger("uvicorn.error").setLevel(max(chosen, logging.WARNING))
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
    logging.captureWarnings(True)


def log_loop_exception(loop: AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """An event loop's exception handler: what asyncio's own says, without the exception's text or an object's repr."""
    subject = context.get("future") or context.get("task") or context.get("handle")
    name = subject.get_name() if isinstance(subject, Task) else type(subject).__name__
    structlog.get_logger("gateway.loop").error(
        "loop_exception", message=context.get("message"), subject=name, exc_info=context.get("exception")
    )


def log_failure(log: structlog.typing.FilteringBoundLogger, event: str, **fields: Any) -> Callable[[Task[Any]], None]:
    """The done callback of a task that runs in the background: nothing awaits it while the gateway runs, so its failure
    is logged at once, or it would stay unknown until the end."""

    def ended(task: Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical(event, **fields, exc_info=error)

    return ended


def describe_exception(error: BaseException) -> list[dict[str, Any]]:
    """The exception, its causes and its group's members as types and frames `file:line in function`, outermost first.

    Bounded: the innermost frames of each, and so many exceptions in all.
    """
    return [
        {"type": f"{type(one).__module__}.{type(one).__qualname__}".removeprefix("builtins."), "frames": _frames(one)}
        for one, _ in zip(_related(error, set()), range(_CHAIN), strict=False)
    ]


def _related(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _related(member, seen)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _related(cause, seen)


def _frames(error: BaseException) -> list[str]:
    # Not a StackSummary: that one reads source lines, and reports the exceptions' text.
    walked = [
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return walked[-_FRAMES:]


def _without_exception_text(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = _exception(event_dict.pop("exc_info", None))
    event_dict.pop("stack_info", None)
    for key, value in event_dict.items():
        if key != "_record":
            event_dict[key] = _plain(value)
    if error is not None:
        event_dict["exception"] = describe_exception(error)
    return event_dict


def _exception(exc_info: Any) -> BaseException | None:
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, TracebackType() | None):
            return error
        case _:
            return sys.exception() if exc_info else None


def _plain_arguments(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if "positional_args" in event_dict:
        event_dict["positional_args"] = tuple(_plain(item) for item in event_dict["positional_args"])
    return event_dict


def _plain(value: Any) -> Any:
    """The value made of JSON values. An exception, or any object whose `repr` may show anything, is its type's name."""
    match value:
        case None | str() | int() | float():
            return value
        case PurePath():
            return str(value)
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case _:
            return type(value).__qualname__


def _redact(record: logging.LogRecord) -> bool:
    """Change a standard-library record before its message is put together. False drops it."""
    if record.msg == NO_HANDSHAKE:
        return False
    if isinstance(record.msg, BaseException):
        record.msg = type(record.msg).__qualname__
    if isinstance(record.args, tuple):
        record.args = tuple(_argument(record.name, item) for item in record.args)
    elif isinstance(record.args, Mapping):
        record.args = {key: _argument(record.name, item) for key, item in record.args.items()}
    return True


def _argument(logger: str, value: object) -> object:
    if isinstance(value, BaseException):
        return type(value).__qualname__
    if isinstance(value, str) and logger.startswith("uvicorn"):
        return value.partition("?")[0]  # it logs the paths of WebSockets with their query, whatever access_log says
    return value


def _as_text(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    chain = event_dict.pop("exception", None)
    if chain:
        lines = [line for one in chain for line in (one["type"], *(f"  {frame}" for frame in one["frames"]))]
        event_dict["exception"] = "\n".join(lines)
    return event_dict
