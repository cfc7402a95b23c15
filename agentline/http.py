"""The gateway's HTTP calls, asynchronous and blocking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx2

from agentline.address import Address
from agentline.calls import Call
from agentline.deadlines import Backoff, Deadlines
from agentline.endings import Lost
from agentline.errors import ContractBroken, Disconnected, Refused

__all__ = ["AsyncHttp", "perform"]

Answer = TypeVar("Answer")


class AsyncHttp:
    """Performs calls on connections that it keeps until `aclose`."""

    def __init__(self, address: Address, deadlines: Deadlines) -> None:
        self._address = address
        self._deadlines = deadlines
        self._client = httpx2.AsyncClient(**_options(address, deadlines))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def perform(self, call: Call[Answer]) -> Answer:
        """Perform the call. One that may be repeated is, until the gateway is reached.

        Raises:
            Refused, Disconnected, ContractBroken
        """
        backoff = Backoff(self._deadlines)
        while True:
            try:
                async with asyncio.timeout(self._deadlines.connect + self._deadlines.answer):
                    response = await self._client.request(**_request(self._address, call))
                return _answer(call, response)
            except (httpx2.TransportError, TimeoutError) as error:
                lost = _lost(call, error)
            except Lost as again:
                lost = again
            await asyncio.sleep(backoff.lost(lost.reason, lost.at_least))


def perform(address: Address, deadlines: Deadlines, call: Call[Answer]) -> Answer:
    """Perform the call and block for it; as `AsyncHttp.perform`. Leaves no connection behind."""
    backoff = Backoff(deadlines)
    with httpx2.Client(**_options(address, deadlines)) as client:
        while True:
            try:
                response = client.request(**_request(address, call))
                return _answer(call, response)
            except httpx2.TransportError as error:
                lost = _lost(call, error)
            except Lost as again:
                lost = again
            time.sleep(backoff.lost(lost.reason, lost.at_least))


def _options(address: Address, deadlines: Deadlines) -> Mapping[str, Any]:
    verify: Any = True
    if address.tls is not None:
        verify = address.tls
    elif not address.secure:
        verify = False  # there is nothing to verify, and reading the system's certificates takes 20 ms
    return {
        "base_url": address.http,
        "timeout": httpx2.Timeout(deadlines.answer, connect=deadlines.connect),
        "trust_env": False,
        "verify": verify,
    }


def _request(address: Address, call: Call[Any]) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "params": dict(call.params),
        "json": call.body,
        "headers": address.bearer(),
    }


def _answer(call: Call[Answer], response: httpx2.Response) -> Answer:
    try:
        return call.answer(response.status_code, response.headers, response.content)
    except Refused as error:
        if call.idempotent and (response.status_code in (502, 504) or error.code in ("draining", "unavailable")):
            raise Lost(error.message, error.retry_after or 0.0) from None
        raise


def _lost(call: Call[Any], error: Exception) -> Lost:
    """Raises `Disconnected` where another try could do the same thing twice, `ContractBroken` where none can help."""
    reason = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        raise ContractBroken(f"the gateway's certificate: {reason}") from None
    if call.idempotent or isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Lost(reason)
    raise Disconnected(0.0, f"whether {call.method} {call.path} was done is not known: {reason}") from None
