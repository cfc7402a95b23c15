"""The one `codex app-server` process: started when first needed, again when it died, never left behind."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from providers.children import Child
from providers.codex.client import LINE_BYTES, Client, Disconnected, RpcError
from providers.errors import ProviderError
from providers.version import version

__all__ = ["AppServer"]

log = logging.getLogger(__name__)

CLIENT_NAME = "agentline"
HANDSHAKE_SECONDS = 30.0
FIRST_DELAY = 0.2
LONGEST_DELAY = 30.0
HEALTHY_SECONDS = 60.0
"""A process that lived so long begins a new count of failures."""
UNWANTED = (
    "account/rateLimits/updated",
    "app/list/updated",
    "item/fileChange/outputDelta",
    "item/commandExecution/terminalInteraction",
    "mcpServer/startupStatus/updated",
    "remoteControl/status/changed",
    "skills/changed",
    "thread/readState/changed",
    "thread/settings/updated",
    "thread/status/changed",
    "turn/diff/updated",
)
"""Notifications that nothing here reads."""


class AppServer:
    """Owns the process. Everything it starts belongs to the task group that it is given.

    It starts at first use and not with the gateway: a gateway whose users do not use Codex does not pay for it
    (0.3 s of CPU, 60 MB), and a Codex that cannot start is a failed turn, not a gateway that does not come up.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], group: asyncio.TaskGroup) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._group = group
        self._ready: asyncio.Future[Client] | None = None
        self._runs: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._not_before = 0.0
        self.pid: int | None = None
        """Of the supervisor of the process that was started last."""
        self.starts = 0

    async def client(self, within: float) -> Client:
        """The connection to the running process; starts one if there is none.

        Raises:
            ProviderError: `connection_failed`, nothing was sent.
        """
        ready = self._ready
        if ready is None or (ready.done() and not _usable(ready)):
            ready = self._ready = asyncio.get_running_loop().create_future()
            run = self._group.create_task(self._run(ready), name="codex app-server")
            self._runs.add(run)
            run.add_done_callback(self._runs.discard)
        try:
            async with asyncio.timeout(within):
                return await asyncio.shield(ready)
        except TimeoutError:
            wait = max(0.0, self._not_before - time.monotonic())
            raise ProviderError(
                "connection_failed", "Codex did not start in time.", retryable=True, retry_after=wait, refused=True
            ) from None

    async def stop(self) -> None:
        """End the process; returns when it is gone."""
        for run in tuple(self._runs):
            run.cancel()
        if self._runs:
            await asyncio.wait(tuple(self._runs))

    async def _run(self, ready: asyncio.Future[Client]) -> None:
        """One life of the process, from start to end. Raises nothing but CancelledError."""
        began = time.monotonic()
        try:
            await asyncio.sleep(max(0.0, self._not_before - began))
            began = time.monotonic()
            self.starts += 1
            await self._live(ready)
        except (OSError, RpcError, Disconnected, TimeoutError) as error:
            log.error("codex: the app server did not start: %s", type(error).__name__)
        finally:
            lived = time.monotonic() - began
            self._failures = 1 if lived > HEALTHY_SECONDS else self._failures + 1
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (self._failures - 1))
            self._not_before = time.monotonic() + delay * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
            if not ready.done():
                ready.set_exception(
                    ProviderError("connection_failed", "Codex could not be started.", retryable=True, refused=True)
                )
                ready.exception()  # seen, also if nobody waits any more

    async def _live(self, ready: asyncio.Future[Client]) -> None:
        if home := self._environment.get("CODEX_HOME"):
            await asyncio.to_thread(Path(home).mkdir, mode=0o700, parents=True, exist_ok=True)
        child = await Child.start(self._command, env=self._environment, line_bytes=LINE_BYTES)
        self.pid = child.pid
        try:
            await self._serve(Client(child.stdout, child.stdin), ready)
        finally:
            await child.stop()

    async def _serve(self, client: Client, ready: asyncio.Future[Client]) -> None:
        """Returns when the process has ended, or nobody wants it any more; then nobody reads its output either."""
        reading = asyncio.create_task(client.run(), name="codex stdout")
        over = asyncio.create_task(client.over.wait(), name="codex retired")
        try:
            await self._shake_hands(client)
            ready.set_result(client)
            await asyncio.wait((reading, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            client.close()
            for task in (reading, over):
                task.cancel()
            await asyncio.wait((reading, over))

    async def _shake_hands(self, client: Client) -> None:
        capabilities = {
            "experimentalApi": True,  # tells which decisions an approval allows
            "requestAttestation": False,
            "optOutNotificationMethods": list(UNWANTED),
        }
        info = {"name": CLIENT_NAME, "title": "Agentline", "version": version()}
        await client.request("initialize", {"clientInfo": info, "capabilities": capabilities}, within=HANDSHAKE_SECONDS)
        client.notify("initialized")


def _usable(ready: asyncio.Future[Client]) -> bool:
    return ready.exception() is None and not (ready.result().closed or ready.result().retired)
