"""The same `id` is the same turn, however often and from wherever it is sent."""

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.e2e.conftest import NewClient
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import answer, text
from tests.server import GatewayProcess

SENDS = 1_000
CONNECTIONS = 8


class Sender:
    """One connection that sends, counts what is accepted, and stops following a thread once its turn is done."""

    def __init__(self, client: Client) -> None:
        self._socket = client.socket
        self.accepted: list[dict[str, Any]] = []
        self.contents: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        """By thread: done when the turn that was sent there is."""

    async def send(self, **frame: Any) -> None:
        """Send a message, and wait for the end of its turn."""
        done = self._waiting[frame["thread_id"]] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"type": "message", **frame}))
        await done

    async def receive(self) -> None:
        mine: set[str] = set()
        async for received in self._socket:
            frame = json.loads(received)
            assert frame["type"] != "error", frame
            if frame["type"] == "accepted":
                self.accepted.append(frame)
                mine.add(frame["turn_id"])
            elif frame["type"] == "done" and frame["turn_id"] in mine:
                self.contents[frame["turn_id"]] = frame["content"]
                await self._socket.send(json.dumps({"type": "detach", "thread_id": frame["thread_id"]}))
                self._waiting.pop(frame["thread_id"]).set_result(None)


async def send_all(clients: list[Client], *, ids: bool, sends: int) -> tuple[list[Sender], int, float]:
    """Send `sends` messages, each one to five times at once over different connections.

    Returns the senders, how many sends it were, and how long it took until the last turn had ended.
    """
    chance, at_once, total = random.Random(1), asyncio.Semaphore(40), 0
    senders = [Sender(client) for client in clients]

    async def send(number: int, through: list[Sender]) -> None:
        frame = {
            "content": f"question {number}",
            "thread_id": f"{ids}-{number}",
            **({"id": f"id-{number}"} if ids else {}),
        }
        try:
            await asyncio.gather(*(sender.send(**frame) for sender in through))
        finally:
            at_once.release()

    began = time.monotonic()
    async with asyncio.timeout(60), asyncio.TaskGroup() as receiving:
        listening = [receiving.create_task(sender.receive()) for sender in senders]
        async with asyncio.TaskGroup() as sending:
            for number in range(sends):
                await at_once.acquire()
                through = chance.sample(senders, chance.randint(1, 5))
                total += len(through)
                sending.create_task(send(number, through))
        for task in listening:
            task.cancel()
    return senders, total, time.monotonic() - began


@pytest.fixture
def quick(messages_api: MessagesApi) -> MessagesApi:
    messages_api.script = answer(text("yes"))
    return messages_api


async def connected(gateway: GatewayProcess, new_client: NewClient) -> list[Client]:
    clients = [new_client(gateway, agent="claude") for _ in range(CONNECTIONS)]
    await asyncio.gather(*(client.connect() for client in clients))
    return clients


async def test_a_thousand_messages_sent_up_to_five_times_at_once_are_a_thousand_turns_and_calls(
    gateway: GatewayProcess, new_client: NewClient, quick: MessagesApi, capsys: pytest.CaptureFixture[str]
) -> None:
    clients = await connected(gateway, new_client)
    senders, total, seconds = await send_all(clients, ids=True, sends=SENDS)
    accepted = [one for sender in senders for one in sender.accepted]
    assert len(accepted) == total
    by_id: dict[str, set[str]] = {}
    for one in accepted:
        by_id.setdefault(one["id"], set()).add(one["turn_id"])
    assert len(by_id) == SENDS
    assert all(len(turns) == 1 for turns in by_id.values())
    assert len({turn for turns in by_id.values() for turn in turns}) == SENDS
    assert Counter(one["duplicate"] for one in accepted) == {False: SENDS, True: total - SENDS}
    assert len(quick.calls) == SENDS
    assert Counter(call.question for call in quick.calls).most_common(1)[0][1] == 1
    assert all(content == "yes" for sender in senders for content in sender.contents.values())
    with capsys.disabled():
        rates = f"{total / seconds:.0f} sends/s, {SENDS / seconds:.0f} turns/s"
        print(f"\n{total} sends over {CONNECTIONS} connections: {SENDS} turns and calls, {seconds:.1f} s, {rates}")


async def test_without_ids_the_same_sends_are_as_many_turns_as_sends(
    gateway: GatewayProcess, new_client: NewClient, quick: MessagesApi
) -> None:
    """What the test above would see if the gateway did not look at ids."""
    clients = await connected(gateway, new_client)
    senders, total, _ = await send_all(clients, ids=False, sends=60)
    accepted = [one for sender in senders for one in sender.accepted]
    assert len(accepted) == total
    assert len({one["turn_id"] for one in accepted}) == total
    assert len(quick.calls) == total > 60


async def test_an_id_sent_again_after_the_turn_replays_it_from_its_first_event(
    gateway: GatewayProcess, new_client: NewClient, quick: MessagesApi
) -> None:
    first, second = new_client(gateway, agent="claude"), new_client(gateway, agent="claude")
    await first.connect()
    accepted = await first.message("Hi", id="again", thread_id="again")
    done = await first.finish(accepted["turn_id"])
    await second.connect()
    repeated = await second.message("Hi", id="again", thread_id="again")
    assert repeated["duplicate"] is True
    assert repeated["cursor"] == accepted["cursor"]
    assert repeated["turn_id"] == accepted["turn_id"]
    assert await second.finish(accepted["turn_id"]) == done
    assert [f["type"] for f in second.frames if "cursor" in f] == ["accepted", "user_message", "message", "done"]
    assert len(quick.calls) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"content": "other"}, "id_conflict"),
        ({"thread_id": "conflict-2"}, "id_conflict"),
        ({}, None),
    ],
)
async def test_an_id_stands_for_one_content_and_one_thread(
    gateway: GatewayProcess, new_client: NewClient, quick: MessagesApi, change: dict[str, Any], code: str | None
) -> None:
    client = new_client(gateway, agent="claude")
    await client.connect()
    message = {"content": "Hi", "id": "conflict", "thread_id": "conflict"}
    await client.send("message", **message)
    accepted = (await client.receive(until="accepted"))[-1]
    await client.finish(accepted["turn_id"])
    await client.send("message", **{**message, **change})
    answer = (await client.receive(until=lambda f: f["type"] in ("accepted", "error")))[-1]
    if code is None:
        assert answer["duplicate"] is True
    else:
        assert (answer["code"], answer["id"], answer["field"]) == (code, "conflict", "id")


async def test_an_id_is_one_agent_s_and_one_user_s(
    gateway: GatewayProcess, new_client: NewClient, quick: MessagesApi
) -> None:
    alice, elsewhere = new_client(gateway, agent="claude"), new_client(gateway, agent="demo")
    bob = new_client(gateway, user="bob", agent="claude")
    for client in (alice, elsewhere, bob):
        await client.connect()
    await alice.finish((await alice.message("Hi", id="whose"))["turn_id"])
    await elsewhere.send("message", content="Hi", id="whose")
    assert (await elsewhere.receive(until="error"))[-1]["code"] == "id_conflict"
    accepted = await bob.message("Hi", id="whose")
    assert accepted["duplicate"] is False
    await bob.finish(accepted["turn_id"])


async def test_an_id_is_remembered_over_a_kill(
    new_gateway: Any, new_client: NewClient, quick: MessagesApi, tmp_path: Path
) -> None:
    gateway = new_gateway()
    await gateway.start_soon()
    client = new_client(gateway, agent="claude")
    await client.connect()
    accepted = await client.message("Hi", id="kept", thread_id="kept")
    await client.finish(accepted["turn_id"])
    await gateway.kill()
    await gateway.restart()
    later = new_client(gateway, agent="claude")
    await later.connect()
    repeated = await later.message("Hi", id="kept", thread_id="kept")
    assert (repeated["duplicate"], repeated["turn_id"]) == (True, accepted["turn_id"])
    assert (await later.finish(accepted["turn_id"]))["content"] == "yes"
    assert len(quick.calls) == 1
