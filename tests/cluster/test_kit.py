"""The kit itself, over a single node on SQLite: what the tests of many nodes rely on to see a fault."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cluster.device import Device
from tests.cluster.upstream import Upstream, asking, text_of
from tests.server import GatewayProcess
from tests.wire import Wire


@pytest.fixture
async def gateway(tmp_path: Path, upstream: Upstream) -> GatewayProcess:
    port = await upstream.port_of("only")
    claude = {"provider": "claude", "base_url": f"http://127.0.0.1:{port}", "api_key": "sk-ant-test"}
    return GatewayProcess(
        tmp_path / "gateway", {"AGENTS": {"codex": None, "demo": {"pace": 0}, "claude": claude}, "DRAIN_SECONDS": "5"}
    )


async def test_a_device_that_is_cut_off_again_and_again_has_the_whole_text(
    gateway: GatewayProcess, upstream: Upstream
) -> None:
    await gateway.start_soon()
    try:
        async with Device("phone", lambda: [gateway.url], "token-of-alice") as phone:
            question = asking("m1", pieces=60, interval=0.02)
            sent = await phone.send(question, thread_id="t1")
            for _ in range(8):
                await asyncio.sleep(0.1)
                await phone.until(lambda: phone.connected, "connected")
                phone.cut()
            ending = await phone.ended(sent.turn_id)
            assert (ending.status, ending.content) == ("completed", text_of(question))
            assert (phone.violations, phone.unrecovered, phone.cuts) == ([], [], 8)
            assert phone.resumed >= 8
        assert upstream.twice() == {}
        assert [(call.marker, call.node, call.cut) for call in upstream.calls] == [("m1", "only", False)]
    finally:
        await asyncio.to_thread(gateway.stop_now)


async def test_a_device_sends_what_was_not_accepted_again_and_learns_of_an_interruption(
    gateway: GatewayProcess, upstream: Upstream
) -> None:
    await gateway.start_soon()
    try:
        async with Device("phone", lambda: [gateway.url], "token-of-alice") as phone:
            sent = await phone.send(asking("m1", pieces=1000, interval=0.02), thread_id="t1")
            await phone.until(lambda: len(phone.texts.get(sent.turn_id, "")) > 60, "some text")
            paid = await upstream.called("m1")
            await gateway.kill()
            late = phone.post(asking("m2"), thread_id="t2", id="late")
            await gateway.restart()
            ending = await phone.ended(sent.turn_id)
            assert (ending.status, ending.told_by) == ("interrupted", "snapshot")
            await asyncio.wait_for(late.accepted.wait(), 10)
            assert (await phone.ended(late.turn_id)).content == text_of(asking("m2"))
            assert len(phone.unrecovered) == 1
            assert phone.violations == []
        assert paid.cut
        assert paid.ended_at is not None
        assert upstream.twice() == {}
    finally:
        await asyncio.to_thread(gateway.stop_now)


async def test_a_device_sees_a_lost_piece(gateway: GatewayProcess, upstream: Upstream) -> None:
    gateway.command = (gateway.command[0], "-m", "tests.cluster.sabotage", "lose-pieces", "serve", "--port", "0")
    await gateway.start_soon()
    try:
        async with Device("phone", lambda: [gateway.url], "token-of-alice") as phone:
            await phone.send(asking("m1", pieces=60, interval=0.01), thread_id="t1")
            await phone.until(lambda: bool(phone.violations), "the loss is seen")
    finally:
        await asyncio.to_thread(gateway.stop_now)


async def test_a_wire_can_be_cut_held_and_led_elsewhere() -> None:
    async def serving(answer: bytes) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(100):
                writer.write(answer)
            writer.close()

        return await asyncio.start_server(serve, "127.0.0.1", 0)

    one, two = await serving(b"one"), await serving(b"two")
    async with one, two, Wire(one.sockets[0].getsockname()[1]) as wire, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(b"?")
        assert await reader.read(10) == b"one"
        wire.pause()
        writer.write(b"?")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(10), 0.1)
        wire.mend()
        assert await reader.read(10) == b"one"
        wire.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(10)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(10)
        writer.close()
        wire.mend()
        wire.switch(two.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(b"?")
        assert await reader.read(10) == b"two"
        writer.close()
