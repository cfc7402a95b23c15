"""A stream in the calling thread: connects, reconnects, and yields what the session makes of the frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

from agentline import calls
from agentline.address import Address
from agentline.blocking_socket import BlockingSocket
from agentline.deadlines import Backoff, Deadlines
from agentline.endings import Lost
from agentline.errors import TimedOut
from agentline.events import Event
from agentline.http import perform
from agentline.session import Session, moved

__all__ = ["run"]


def run(
    address: Address,
    deadlines: Deadlines,
    agent: Callable[[], str],
    session: Session,
    *,
    within: float | None = None,
    idle: float | None = None,
) -> Generator[Event | None, None, None]:
    """Drive the session to its end. None: nothing came for `idle` seconds.

    Raises:
        Refused, Disconnected, ContractBroken
        TimedOut: the end did not come `within` so many seconds.
    """
    backoff = Backoff(deadlines)
    ends_at = None if within is None else time.monotonic() + within
    open_socket: BlockingSocket | None = None
    answer_by = pause = 0.0
    try:
        while True:
            events: list[Event] = []
            if ends_at is not None and within is not None and time.monotonic() >= ends_at:
                raise TimedOut(within)
            try:
                if open_socket is None:
                    if pause > 0:
                        step = min([pause, *_given(idle), *_left(ends_at)])
                        time.sleep(step)
                        pause -= step
                        if pause > 0:
                            yield None
                        continue
                    open_socket = BlockingSocket(address, agent(), deadlines)
                    backoff.connected()
                    session.connected()
                    answer_by = time.monotonic() + deadlines.answer
                if session.needs_turn and session.turn_id is not None:
                    events = session.looked_up(perform(address, deadlines, calls.turn(session.turn_id)))
                else:
                    waits = [*_given(idle), *_left(ends_at), *([] if session.answered else _left(answer_by))]
                    text = open_socket.receive(min(waits) if waits else None)
                    if text is None:
                        if not session.answered and time.monotonic() >= answer_by:
                            raise Lost("the gateway did not answer in time")
                        yield None
                        continue
                    events = session.receive(text)
                while session.outgoing:
                    open_socket.send(session.outgoing[0])
                    session.outgoing.pop(0)
            except Lost as lost:
                if open_socket is not None:
                    open_socket.close()
                    open_socket = None
                session.outgoing.clear()
                if not session.over:
                    pause = backoff.lost(lost.reason, max(session.pause, lost.at_least))
                    continue
            if moved(events):
                backoff.progressed()
            if session.over:
                if open_socket is not None:
                    closing_socket, open_socket = open_socket, None
                    closing_socket.close_in_order()
                yield from events
                return
            yield from events
    finally:
        if open_socket is not None:
            open_socket.close()


def _given(seconds: float | None) -> list[float]:
    return [] if seconds is None else [seconds]


def _left(moment: float | None) -> list[float]:
    return [] if moment is None else [max(moment - time.monotonic(), 0.0)]
