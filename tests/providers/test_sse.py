from __future__ import annotations

import pytest

from providers.sse import EventTooLarge, ServerSentEvents

STREAM = 'event: a\ndata: {"x": "ä"}\n\n: comment\n\ndata:one\ndata: two\n\n\n\nevent: no data\n\nid: 7\ndata: c\n\n'
EVENTS = [(b"a", '{"x": "ä"}'.encode()), (b"", b"one\ntwo"), (b"", b"c")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_chunks_may_be_cut_anywhere(line_end: str) -> None:
    stream = STREAM.replace("\n", line_end).encode()
    for cut in range(len(stream)):
        decoder = ServerSentEvents()
        found = [*decoder.feed(stream[:cut]), *decoder.feed(stream[cut:]), *decoder.feed(b"\n")]
        assert found == EVENTS, cut


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_bytes_may_come_one_by_one(line_end: str) -> None:
    decoder = ServerSentEvents()
    stream = STREAM.replace("\n", line_end).encode()
    found = [event for byte in stream for event in decoder.feed(bytes([byte]))]
    assert found + list(decoder.feed(b"\n")) == EVENTS


def test_an_event_that_the_end_cuts_off_is_dropped() -> None:
    assert list(ServerSentEvents().feed(b"data: half\n")) == []


def test_an_endless_line_is_refused() -> None:
    decoder = ServerSentEvents(limit=1000)
    list(decoder.feed(b"x" * 1000))
    with pytest.raises(EventTooLarge):
        list(decoder.feed(b"x"))
