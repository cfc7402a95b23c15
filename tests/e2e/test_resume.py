"""A client that was cut off, wherever it was, goes on exactly there."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from tests.client import BrokenContract, Client, Closed, Frame, place
from tests.e2e.conftest import NewClient, NewGateway
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import Pieces, end, server_tool, start, web_search
from tests.server import GatewayProcess

EVENTS = 200
LAUNCH = """
import sys
from gateway.connection import Connection
from gateway.eventlog.position import Position
{sabotage}
from gateway.cli import main
sys.exit(main(["serve", "--port", "0"]))
"""
ONE_BACK = """
parse = Position.parse
Position.parse = lambda cursor: Position(parse(cursor).epoch, max(parse(cursor).offset - 1, 0))
"""
FROM_THE_HEAD = """
follow = Connection.follow
Connection.follow = lambda self, log, offset, **more: follow(self, log, log.head, **more)
"""


def a_turn_of(events: int) -> Paced:
    """Its `user_message` and `done` included."""
    paced = Paced().think([f"thought {n}, " for n in range(5)])
    paced.block(server_tool("web_search", '{"query":', '"x"}'), web_search("A page"))
    text = events - 2 - 5 - 2
    paced.say([f"{n} 👍🏽 é " for n in range(text // 2)])
    paced.say([f"[{n}]" for n in range(text - text // 2)]).finish()
    return paced


async def next_logged(client: Client) -> Frame:
    return (await client.receive(until=lambda f: "cursor" in f and f["type"] not in ("accepted", "attached")))[-1]


async def until_at(client: Client, cursor: str, thread_id: str) -> None:
    """Read until the client stands at `cursor`."""
    while client.cursors.get(thread_id) != cursor:
        await client.next()


async def reconnect_after_every_frame(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient, events: int
) -> tuple[Client, list[Client]]:
    """Two devices, each cut off after every single frame of a turn. While the first is away the turn goes on; the
    second comes back at the very moment when it does."""
    paced = a_turn_of(events)
    messages_api.script = paced.script
    witness = new_client(gateway, agent="claude", device_id="witness")
    await witness.connect()
    accepted = await witness.message("Hi")
    thread_id = accepted["thread_id"]
    logged = await next_logged(witness)
    away, racing = devices = [new_client(gateway, device_id=name) for name in ("away", "racing")]
    for device in devices:
        await device.connect()
        await device.attach(thread_id, accepted["cursor"])
        await until_at(device, logged["cursor"], thread_id)
    for gate in paced.gates:
        await asyncio.gather(*(device.abort() for device in devices))
        back = asyncio.create_task(racing.resume(thread_id))
        gate.opened.set()
        logged = await next_logged(witness)
        attached = await asyncio.gather(back, away.resume(thread_id))
        assert all(frame["recovered"] for frame in attached)
        await asyncio.gather(*(until_at(device, logged["cursor"], thread_id) for device in devices))
    assert logged["type"] == "done"
    assert logged["content"] == paced.text
    assert place(logged["cursor"])[1] - place(accepted["cursor"])[1] == events
    return witness, devices


async def test_two_devices_cut_off_after_every_frame_of_a_turn_miss_nothing_and_see_nothing_twice(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    witness, devices = await reconnect_after_every_frame(gateway, messages_api, new_client, EVENTS)
    seen = [frame for frame in witness.frames if "cursor" in frame and frame["type"] != "accepted"]
    assert len(seen) == EVENTS
    for device in devices:
        shown = [frame for frame in device.frames if "cursor" in frame and frame["type"] != "attached"]
        assert shown == seen, "the very same frames, one by one"
        assert device.done == witness.done
    assert len(messages_api.calls) == 1


@pytest.mark.parametrize("sabotage", [ONE_BACK, FROM_THE_HEAD])
async def test_a_gateway_that_puts_a_client_in_another_place_than_its_cursor_is_found_out(
    new_gateway: NewGateway, messages_api: MessagesApi, new_client: NewClient, sabotage: str
) -> None:
    gateway = new_gateway(command=("-c", LAUNCH.format(sabotage=sabotage)))
    await gateway.start_soon()
    with pytest.raises((BrokenContract, TimeoutError)):
        async with asyncio.timeout(3):
            await reconnect_after_every_frame(gateway, messages_api, new_client, 20)


async def test_a_client_cut_off_after_any_frame_gets_exactly_the_rest_live(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    """One client for each cut: it reads the turn's beginning, is cut off, comes back, and stays until the end."""
    paced = a_turn_of(EVENTS)
    messages_api.script = paced.script
    witness = new_client(gateway, agent="claude")
    await witness.connect()
    accepted = await witness.message("Hi")
    thread_id, turn_id = accepted["thread_id"], accepted["turn_id"]
    clients: list[Client] = []

    async def stay(client: Client) -> Frame:
        await client.resume(thread_id)
        done = await client.finish(turn_id, within=60)
        await client.close()
        return done

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        staying = []
        for gate in [None, *paced.gates]:
            if gate is not None:
                gate.opened.set()
            logged = await next_logged(witness)
            client = new_client(gateway)
            await client.connect()
            await client.attach(thread_id, accepted["cursor"])
            await until_at(client, logged["cursor"], thread_id)
            await client.abort()
            clients.append(client)
            if logged["type"] != "done":
                staying.append(group.create_task(stay(client)))
    assert len(clients) == EVENTS
    assert all(task.result()["content"] == paced.text for task in staying)
    assert all(client.texts[turn_id] == paced.text for client in clients)


async def test_a_finished_turn_replays_from_every_cursor_also_after_a_restart(
    new_gateway: NewGateway, new_client: NewClient
) -> None:
    """Resets, reasoning, tools, an approval; read from memory, then by a new process from the store."""
    gateway = new_gateway()
    await gateway.start_soon()
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message(
        "/reasoning\n/tool\n/tool open\n/unicode\n/reset item\n/approval question\n/reset\n/tool failed\n/items 3",
        thread_id="t",
    )
    asked = (await phone.receive(until="approval_request"))[-1]
    await phone.send("approval", approval_id=asked["approval_id"], decision="blue", text="like the sky")
    done = await phone.finish(accepted["turn_id"])
    logged = [f for f in phone.frames if "cursor" in f and f["type"] not in ("accepted", "attached")]
    assert len(logged) > 30
    for life in range(2):
        if life:
            await phone.close()
            assert await gateway.stop() == 0
            await gateway.restart()
            phone = new_client(gateway)
            await phone.connect()
        for index, frame in enumerate(logged[:-1]):
            phone.forget()
            await phone.send("attach", thread_id="t", cursor=frame["cursor"])
            rest = await phone.receive(until="done")
            shown = [f for f in rest if "cursor" in f and f["type"] != "attached"]
            assert unjoined(shown) == unjoined(logged[index + 1 :])
            assert shown[-1] == done


def unjoined(frames: list[Frame]) -> list[object]:
    """Frames in a form in which it does not matter how adjacent text was joined."""
    told: list[list[object]] = []
    for frame in frames:
        if frame["type"] in ("message", "reasoning") and told and told[-1][:2] == [frame["type"], frame["item_id"]]:
            told[-1][2] = f"{told[-1][2]}{frame['content']}"
        elif frame["type"] in ("message", "reasoning"):
            told.append([frame["type"], frame["item_id"], frame["content"]])
        else:
            told.append([frame])
    return list(told)


@pytest.mark.parametrize(
    ("seconds", "allowed_drops"), [(0.1, 0), pytest.param(1.0, 1, marks=pytest.mark.soak, id="one a second")]
)
async def test_a_reader_of_one_frame_at_a_time_slows_nobody_and_gets_the_whole_text_in_fewer_frames(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient, seconds: float, allowed_drops: int
) -> None:
    """What a reader has in its buffers for longer than the heartbeat or `TCP_USER_TIMEOUT` allow is taken for dead: at
    one frame a second and 6 KB a frame it is dropped once, and resumes."""
    interval, pieces, piece = 0.01, EVENTS, "0123456789abcdef" * 400
    messages_api.script = [*start(), Pieces(pieces, interval, piece), *end()]
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    slow = new_client(gateway, receive_buffer=4096)
    await slow.connect()
    accepted = await phone.message("Hi")
    thread_id, turn_id = accepted["thread_id"], accepted["turn_id"]
    await slow.attach(thread_id, accepted["cursor"])

    async def read_slowly() -> int:
        drops = 0
        while turn_id not in slow.done:
            try:
                await slow.next(within=30)
            except Closed:
                drops += 1
                assert (await slow.resume(thread_id))["recovered"] is True
            await asyncio.sleep(seconds)  # what makes it slow
        return drops

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        reading = group.create_task(read_slowly())
        done = await phone.finish(turn_id, within=20)
        assert not reading.done()
        behind = place(done["cursor"])[1] - place(slow.cursors[thread_id])[1]
    assert behind > pieces // 2, "the slow one was far behind when the other had it all"
    sent = messages_api.calls[0].sent
    assert sent[-1] - sent[3] < pieces * interval + 1.0, "the turn was not slowed"
    times = [at for f, at in zip(phone.frames, phone.arrivals, strict=True) if f["type"] == "message"]
    assert statistics.median(at - out for at, out in zip(times, sent[3:], strict=False)) < 0.1
    assert slow.texts[turn_id] == phone.texts[turn_id] == piece * pieces
    assert done["truncated"]
    slow_frames = sum(f["type"] == "message" for f in slow.frames)
    drops = reading.result()
    print(f"read by the phone in {len(times)} frames, by the slow reader in {slow_frames}; dropped {drops} times")
    assert drops <= allowed_drops
    assert slow_frames < pieces // 2


MANY = 60_000
"""More than a log keeps in memory."""
ALL_OF_THEM = "".join(f"{number} " for number in range(1, MANY + 1))


async def test_who_is_far_behind_catches_up_from_the_store_and_goes_over_to_live_without_a_seam(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message(f"/pieces {MANY} 0\n/approval question\n/echo and live")
    thread_id, turn_id = accepted["thread_id"], accepted["turn_id"]
    asked = (await phone.receive(until="approval_request"))[-1]
    await asyncio.sleep(0.8)  # by then it is durable, the protocol says, and most of it no longer in memory
    late = [new_client(gateway) for _ in range(3)]
    for client in late:
        await client.connect()
        assert (await client.attach(thread_id, accepted["cursor"]))["recovered"] is True
    await asyncio.gather(*(client.receive(until="approval_request", within=20) for client in late))
    await phone.send("approval", approval_id=asked["approval_id"], decision="red")
    await asyncio.gather(*(client.finish(turn_id) for client in (phone, *late)))
    whole = f"{ALL_OF_THEM}\n\nYou chose red.\n\nand live"
    assert all(client.texts[turn_id] == whole for client in (phone, *late))


async def test_clients_that_are_cut_off_again_and_again_in_a_torrent_of_text_get_all_of_it(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message(f"/pieces {MANY} 0")
    thread_id, turn_id = accepted["thread_id"], accepted["turn_id"]

    async def cut_off_after(frames: int) -> tuple[Client, int]:
        client, times = new_client(gateway), 0
        client.cursors[thread_id] = accepted["cursor"]
        while turn_id not in client.done:
            assert (await client.resume(thread_id))["recovered"] is True
            for _ in range(frames):
                await client.next()
                if turn_id in client.done:
                    break
            await client.abort()
            times += 1
        return client, times

    async with asyncio.timeout(60):
        results = await asyncio.gather(*(cut_off_after(frames) for frames in (2, 3, 5, 20)))
    print("cut off", [times for _, times in results])
    assert all(client.texts[turn_id] == ALL_OF_THEM for client, _ in results)
    assert results[0][1] > 3
