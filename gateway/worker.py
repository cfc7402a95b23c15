"""A node that runs turns and nothing else: no port is listened on, no client comes."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import structlog
from uvicorn.loops.auto import auto_loop_factory

from gateway.draining import DrainResult, drain_within
from gateway.logs import log_loop_exception
from gateway.server import DRAIN_MARGIN_SECONDS
from gateway.services import open_services
from gateway.settings import Settings

log = structlog.get_logger(__name__)


def work(settings: Settings) -> int:
    """Run turns until SIGTERM or SIGINT; a second signal marks what still runs `interrupted` at once. One that comes
    before it has started ends the process.

    Returns the exit code: 0 after a stop that went as it should, 1 after another one. Raises as `open_services`.
    """
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return 0 if runner.run(_work(settings)) == "drained" else 1


async def _work(settings: Settings) -> DrainResult:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_exception)
    stop, force = asyncio.Event(), asyncio.Event()
    opened = False

    def on_signal(number: signal.Signals) -> None:
        if not opened:  # nothing runs yet, and to wait for a migration may take minutes
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        (force if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    async with open_services(settings) as services:
        opened = True
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process
        log.info("running_turns")
        sys.stdout.write("running turns\n")
        sys.stdout.flush()
        await stop.wait()
        log.info("draining", seconds=settings.drain_seconds)
        seconds = settings.drain_seconds + DRAIN_MARGIN_SECONDS
        result = await drain_within(lambda: services.runner.drain(settings.drain_seconds), seconds, force)
        log.info("drained", result=result)
    return result
