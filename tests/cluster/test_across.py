"""A person's devices are on different nodes, and it makes no difference: what one does, the other sees.

Everything is tried twice: with two nodes that serve and run turns, and with two that only serve, in front of a worker.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.client import Client, Frame, place
from tests.cluster.conftest import NewCluster
from tests.cluster.nodes import Cluster, Node
from tests.cluster.upstream import Upstream, asking, text_of
from tests.e2e.eventsource import events
from tests.fakes.ntfy import NtfyFake
from tests.fakes.push_http import Action, Request
from tests.fakes.push_tls import Authority, make_authority
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

GRACE = 0.3
SOON = 5.0
"""Seconds within which the other node knows."""


@dataclass
class HeldNtfy(NtfyFake):
    """Shows what it gets at once, and answers while `answers` is set."""

    answers: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answers.set()

    async def handle(self, request: Request) -> Action:
        action = await super().handle(request)
        await self.answers.wait()
        return action


def pushing(ntfy: NtfyFake, authority: Authority) -> dict[str, Any]:
    """Settings of a node that pushes through it."""
    return {
        "PUSH__GRACE_SECONDS": str(GRACE),
        "PUSH__NTFY": {"server": ntfy.url, "ca_path": str(authority.ca_path)},
    }


@dataclass
class House:
    cluster: Cluster
    upstream: Upstream
    ntfy: HeldNtfy
    made: list[Client]

    @property
    def a(self) -> Node:
        return self.cluster.nodes[0]

    @property
    def b(self) -> Node:
        return self.cluster.nodes[1]

    async def phone(self, node: Node, user: str = "alice", **options: Any) -> Client:
        client = Client(node.url, **{"token": self.cluster.tokens[user], **options})
        self.made.append(client)
        await client.connect()
        return client


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["nodes", "workers"])
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp(f"across-{request.param}")
    name = f"across_{request.param}"
    authority, ntfy = make_authority(folder), HeldNtfy()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(postgres.drop_database, name)
        url = postgres.create_database(name)
        await stack.enter_async_context(ntfy.serving(authority))
        redis = stack.enter_context(RedisServer(folder / "redis"))
        upstream = await stack.enter_async_context(Upstream())
        cluster = Cluster(
            folder,
            url,
            redis,
            upstream,
            nodes=2,
            workers=request.param == "workers",
            sabotage="steerable",
            agents={"steerable": {"provider": "steerable"}},
            front={"RUN_TURNS": "false"} if request.param == "workers" else {},
            environment=pushing(ntfy, authority),
        )
        await stack.enter_async_context(cluster)
        await cluster.start()
        yield House(cluster, upstream, ntfy, [])
        alarms = [alarm for node in cluster.all for alarm in node.alarms]
        assert not alarms, alarms[:3]


@pytest_asyncio.fixture(loop_scope="module")
async def house(shared: House) -> AsyncIterator[House]:
    """The module's, without the devices of other tests."""
    yield shared
    shared.upstream.let_go()
    for client in shared.made:
        if client.connected:
            await client.abort()
    shared.made.clear()


async def eventually(holds: Callable[[], Any], what: str, within: float = SOON) -> Any:
    """Ask again and again: another process brings it about."""
    async with asyncio.timeout(within):
        while True:
            found = holds()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.05)
    raise AssertionError(what)


async def hanging(phone: Client, thread_id: str, after: str = "") -> Frame:
    """A turn that has said something and runs until it is cancelled."""
    accepted = await phone.message(f"/echo begun\n{after}\n/hang", thread_id=thread_id)
    await phone.receive(until=lambda f: f["type"] == "message" and f["turn_id"] == accepted["turn_id"])
    return accepted


async def test_text_is_the_same_on_both_nodes_from_the_first_piece_on(house: House) -> None:
    near, far = await house.phone(house.a, agent="claude"), await house.phone(house.b)
    content = asking("same-text", pieces=40, interval=0.02)
    accepted = await near.message(content, thread_id="same-text")
    await far.attach("same-text", accepted["cursor"])
    one, other = await asyncio.gather(near.finish(accepted["turn_id"]), far.finish(accepted["turn_id"]))
    assert one == other
    assert far.texts[accepted["turn_id"]] == text_of(content)
    assert any(frame["type"] == "typing" for frame in far.frames)


async def test_a_snapshot_on_another_node_shows_the_turn_so_far_and_goes_on_behind_it(house: House) -> None:
    house.upstream.hold()
    near, far = await house.phone(house.a, agent="claude"), await house.phone(house.b)
    content = asking("so-far", pieces=5, interval=0.0)
    accepted = await near.message(content, thread_id="so-far")
    await near.receive(until="message")
    await far.attach("so-far")
    snapshot = (await far.receive(until="snapshot"))[-1]
    assert snapshot["turn"]["turn_id"] == accepted["turn_id"]
    assert snapshot["turn"]["content"] == near.texts[accepted["turn_id"]]

    async def shown() -> bool:
        turn = await house.b.get(f"/api/turns/{accepted['turn_id']}")
        assert turn["status"] == "running"
        return bool(turn["content"] == near.texts[accepted["turn_id"]])

    await eventually(shown, "GET on another node shows what was said so far")
    house.upstream.let_go()
    assert (await far.finish(accepted["turn_id"]))["content"] == text_of(content)


async def test_a_turn_is_cancelled_from_another_node(house: House) -> None:
    near, far = await house.phone(house.a), await house.phone(house.b)
    for number, how in enumerate(("socket", "thread", "http")):
        accepted = await hanging(near, f"cancelled-{number}")
        if how == "http":
            assert (await house.b.post(f"/api/turns/{accepted['turn_id']}/cancel")).status_code < 300
        elif how == "socket":
            await far.send("cancel", turn_id=accepted["turn_id"])
        else:
            queued = await near.message("/echo waits", thread_id=accepted["thread_id"])
            await far.send("cancel", thread_id=accepted["thread_id"])
            assert (await near.finish(queued["turn_id"]))["status"] == "cancelled"
        assert (await near.finish(accepted["turn_id"]))["status"] == "cancelled"
        assert (await house.b.get(f"/api/turns/{accepted['turn_id']}"))["content"] == "begun"


async def test_what_waits_behind_a_turn_of_another_node_runs_after_it(house: House) -> None:
    near, far = await house.phone(house.a), await house.phone(house.b)
    first = await hanging(near, "waits")
    second = await far.message("/echo second", thread_id="waits")
    assert second["queued"] == 1
    await far.send("cancel", turn_id=first["turn_id"])
    for client in (near, far):
        assert (await client.finish(second["turn_id"]))["content"] == "second"


async def test_an_approval_is_decided_on_another_node_and_the_first_answer_stands(house: House) -> None:
    near, far = await house.phone(house.a, device_id="near"), await house.phone(house.b, device_id="far")
    accepted = await near.message("/approval command", thread_id="asked")
    request = (await near.receive(until="approval_request"))[-1]
    await far.attach("asked", accepted["cursor"])
    await far.receive(until="approval_request")
    await far.send("approval", approval_id=request["approval_id"], decision="approved")
    for client in (near, far):
        resolved = (await client.receive(until="approval_resolved"))[-1]
        assert (resolved["decision"], resolved["by"]) == ("approved", "far")
        assert (await client.finish(accepted["turn_id"]))["status"] == "completed"
    late = await house.b.post(f"/api/approvals/{request['approval_id']}", {"decision": "declined"})
    assert late.json()["decision"] == "approved"


async def test_of_two_answers_on_two_nodes_at_once_one_stands(house: House) -> None:
    near, far = await house.phone(house.a), await house.phone(house.b)
    for number in range(5):
        accepted = await near.message("/approval question", thread_id=f"race-{number}")
        request = (await near.receive(until="approval_request"))[-1]
        await far.attach(accepted["thread_id"], accepted["cursor"])
        await far.receive(until="approval_request")
        await asyncio.gather(
            near.send("approval", approval_id=request["approval_id"], decision="red"),
            far.send("approval", approval_id=request["approval_id"], decision="blue"),
        )
        done = await asyncio.gather(near.finish(accepted["turn_id"]), far.finish(accepted["turn_id"]))
        assert done[0]["content"] == done[1]["content"]
        await asyncio.gather(near.quiet(), far.quiet())
        told = {
            f["decision"]
            for client in (near, far)
            for f in client.frames
            if f["type"] == "approval_resolved" and f["approval_id"] == request["approval_id"]
        }
        assert len(told) == 1
        assert f"You chose {told.pop()}" in done[0]["content"]


async def test_seen_on_one_node_is_read_on_the_other(house: House) -> None:
    near, far = await house.phone(house.a), await house.phone(house.b)
    accepted = await near.message("/echo read me", thread_id="seen")
    done = await near.finish(accepted["turn_id"])
    await near.send("seen", thread_id="seen", message_id=done["message_id"])
    read = await far.receive(until=lambda f: f["type"] == "read" and f["thread_id"] == "seen")
    assert read[-1]["message_id"] == done["message_id"]
    assert not [frame for frame in await near.quiet() if frame["type"] == "read"]


async def test_list_screens_on_other_nodes_are_told_and_those_of_other_users_are_not(house: House) -> None:
    far, bobs = await house.phone(house.b), await house.phone(house.b, "bob")
    near = await house.phone(house.a)
    accepted = await near.message("/echo news", thread_id="listed")
    told = await far.receive(
        until=lambda f: f["type"] == "thread_updated" and f["status"] == "idle" and f["preview"] == "news"
    )
    assert told[-1]["thread_id"] == "listed"
    await near.finish(accepted["turn_id"])
    async with house.a.http() as http:
        assert (await http.patch("/api/threads/listed", json={"title": "Renamed"})).status_code == 200
    await far.receive(until=lambda f: f["type"] == "thread_updated" and f["title"] == "Renamed")
    assert not [frame for frame in await bobs.quiet() if frame["type"] == "thread_updated"]


async def test_a_thread_that_is_deleted_on_another_node_is_gone_everywhere(house: House) -> None:
    near, far = await house.phone(house.a), await house.phone(house.b)
    accepted = await hanging(near, "deleted")
    await far.attach("deleted", accepted["cursor"])
    await far.receive(until="message")
    old = far.cursors["deleted"]
    async with house.b.http() as http:
        assert (await http.delete("/api/threads/deleted")).status_code == 204
    await asyncio.gather(near.receive(until="detached"), far.receive(until="detached"))
    for node in (house.a, house.b):
        async with node.http() as http:
            assert (await http.get("/api/threads/deleted")).status_code == 404
            assert (await http.get(f"/api/turns/{accepted['turn_id']}")).status_code == 404
    again = await near.message("/echo anew", thread_id="deleted")
    await near.finish(again["turn_id"])
    assert (await far.attach("deleted", old))["recovered"] is False
    shown = (await far.receive(until="snapshot"))[-1]["messages"]
    assert [message["content"] for message in shown] == ["/echo anew", "anew"]


async def test_a_turn_that_failed_is_retried_on_another_node(house: House) -> None:
    near = await house.phone(house.a)
    accepted = await near.message("/echo half\n/error overloaded after", thread_id="retried")
    assert (await near.finish(accepted["turn_id"]))["status"] == "failed"
    answer = await house.b.post(f"/api/turns/{accepted['turn_id']}/retry")
    assert answer.status_code == 202, answer.text
    assert answer.json()["retry_of"] == accepted["turn_id"]
    assert (await near.finish(answer.json()["turn_id"]))["status"] == "failed"


async def test_a_running_turn_is_steered_from_another_node(house: House) -> None:
    near, far = await house.phone(house.a, agent="steerable"), await house.phone(house.b, agent="steerable")
    accepted = await near.message("go", thread_id="steered")
    await near.receive(until="message")
    steered = await far.message("left", thread_id="steered", when_busy="steer", id="steer-left")
    assert (steered["turn_id"], steered["queued"]) == (accepted["turn_id"], 0)
    again = await near.message("left", thread_id="steered", when_busy="steer", id="steer-left")
    assert (again["turn_id"], again["duplicate"]) == (accepted["turn_id"], True)
    last = await far.message("stop", thread_id="steered", when_busy="steer", id="steer-stop")
    assert last["turn_id"] == accepted["turn_id"]
    done = await near.finish(accepted["turn_id"])
    assert (done["status"], done["content"]) == ("completed", "begun, left, stop")


async def test_a_stream_of_events_is_taken_up_on_another_node(house: House) -> None:
    content = asking("sse", pieces=30, interval=0.02)
    body = {"content": content, "id": "sse-1", "thread_id": "sse"}
    got: list[Frame] = []
    last = None
    for number in range(20):
        node = (house.a, house.b)[number % 2]
        async with events(node, "/api/claude/stream", body, last=last) as stream:
            taken = 0
            while (event := await stream.next()) is not None:
                if event.id is None:
                    continue
                got.append(event.frame)
                last, taken = event.id, taken + 1
                if taken == 4:
                    break
        if got and got[-1]["type"] == "done":
            break
    assert got[-1]["type"] == "done"
    joined = "".join(frame["content"] for frame in got if frame["type"] == "message")
    assert joined == got[-1]["content"] == text_of(content)
    offsets = [place(frame["cursor"])[1] for frame in got]
    assert offsets == sorted(set(offsets))
    assert house.upstream.twice() == {}


async def test_what_was_said_on_one_node_is_found_and_exported_on_the_other(house: House) -> None:
    near = await house.phone(house.a)
    accepted = await near.message("/echo the Zürich tide tables", thread_id="found")
    await near.finish(accepted["turn_id"])
    hits = (await house.b.get("/api/search?q=zürich%20tide"))["results"]
    assert {hit["thread_id"] for hit in hits} == {"found"}
    async with house.b.http() as http:
        exported = json.loads((await http.get("/api/threads/found/export")).text)
    assert [m["content"] for m in exported["messages"]] == ["/echo the Zürich tide tables", "the Zürich tide tables"]


async def test_a_file_that_was_uploaded_to_one_node_is_used_and_downloaded_on_the_other(house: House) -> None:
    content = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
    async with house.a.http() as http:
        answer = await http.post("/api/attachments", content=content)
        assert answer.status_code == 201, answer.text
        file_id = answer.json()["id"]
    async with house.b.http() as http:
        assert (await http.get(f"/api/attachments/{file_id}")).content == content
    bodies: list[dict[str, Any]] = []
    house.upstream.script = lambda call: bodies.append(call.body)
    try:
        far = await house.phone(house.b, agent="claude")
        accepted = await far.message(asking("pictured"), attachments=[{"id": file_id}], thread_id="pictured")
        assert (await far.finish(accepted["turn_id"]))["status"] == "completed"
    finally:
        house.upstream.script = lambda call: None
    image = next(block for block in bodies[-1]["messages"][-1]["content"] if block["type"] == "image")
    assert base64.b64decode(image["source"]["data"]) == content


async def paired(house: House, name: str) -> dict[str, Any]:
    """Made on one node, shown to another."""
    made = await house.a.post("/api/pair/codes")
    assert made.status_code == 200, made.text
    body = {"code": made.json()["code"], "device_name": name}
    answer = await house.b.post("/api/pair", body, user=None)
    assert answer.status_code == 200, answer.text
    device: dict[str, Any] = answer.json()
    return device


async def test_a_phone_that_was_paired_on_one_node_is_known_to_the_other_at_once(house: House) -> None:
    for number in range(3):
        device = await paired(house, f"phone {number}")
        for node in (house.a, house.b):
            await house.phone(node, token=device["token"])


async def test_a_token_that_is_revoked_on_one_node_closes_its_sockets_on_the_other(house: House) -> None:
    device = await paired(house, "lost")
    phone = await house.phone(house.b, token=device["token"])
    async with house.a.http() as http:
        assert (await http.delete(f"/api/pair/devices/{device['id']}")).status_code == 204
    assert (await phone.closed(within=SOON)).code == 4501
    async with house.b.http(None) as http:
        headers = {"Authorization": f"Bearer {device['token']}"}
        assert (await http.get("/api/threads", headers=headers)).status_code == 401


async def test_health_counts_the_connections_of_all_nodes(house: House) -> None:
    for node, agent in ((house.a, "demo"), (house.b, "demo"), (house.b, "claude")):
        await house.phone(node, agent=agent)

    async def counted() -> bool:
        counts = [(await node.get("/api/health", user=None))["connections"] for node in (house.a, house.b)]
        return all((count["demo"], count["claude"]) == (2, 1) for count in counts)

    await eventually(counted, "both nodes count three", 15)


async def pushed_once(nodes: Sequence[Node], ntfy: HeldNtfy) -> None:
    """While one node's pushes are under way, the other sends its own, and none a second time."""
    topic, count = "topicOfAlice", 10
    async with nodes[0].http() as http:
        body = {"platform": "ntfy", "token": topic, "notify": "always"}
        assert (await http.put("/api/devices/pushed", json=body)).status_code == 200
    try:
        ntfy.answers.clear()
        turns = []
        for number in range(count):
            answer = await nodes[number % 2].post("/api/demo/messages", {"content": f"/echo push {number}"})
            turns.append(answer.json()["turn_id"])
        await eventually(lambda: len({shown["message"] for shown in ntfy.shown}) == count, "all are under way", 20)
        ntfy.answers.set()

        async def told() -> bool:
            return all([(await nodes[1].get(f"/api/turns/{turn_id}"))["pushes"] for turn_id in turns])

        await eventually(told, "all are pushed", 20)
        for turn_id in turns:
            pushes = (await nodes[0].get(f"/api/turns/{turn_id}"))["pushes"]
            assert [push["outcome"] for push in pushes] == ["sent"], pushes
        sent = Counter(shown["message"] for shown in ntfy.shown)
        assert sent.keys() == {f"push {number}" for number in range(count)}
        assert sent.total() == count, f"pushed more than once: {sent}"
    finally:
        ntfy.answers.set()
        async with nodes[0].http() as http:
            await http.delete("/api/devices/pushed")


async def test_a_turn_is_pushed_once_though_every_node_has_an_outbox(house: House) -> None:
    await pushed_once(house.cluster.nodes, house.ntfy)


@pytest.mark.asyncio(loop_scope="function")
async def test_where_nodes_do_not_see_each_others_leases_a_turn_is_pushed_twice(
    new_cluster: NewCluster, tmp_path: Path
) -> None:
    authority, ntfy = make_authority(tmp_path), HeldNtfy()
    async with (
        ntfy.serving(authority),
        new_cluster(nodes=2, sabotage="no-push-leases", environment=pushing(ntfy, authority)) as cluster,
    ):
        await cluster.start()
        with pytest.raises(AssertionError, match="pushed more than once"):
            await pushed_once(cluster.nodes, ntfy)


async def test_who_says_seen_on_another_node_gets_no_push(house: House) -> None:
    async with house.a.http() as http:
        await http.put("/api/devices/seen", json={"platform": "ntfy", "token": "topicOfSeen"})
    try:
        far = await house.phone(house.b, device_id="seen")
        accepted = await far.message("/echo seen elsewhere", thread_id="seen-elsewhere")
        done = await far.finish(accepted["turn_id"])
        await far.send("seen", thread_id="seen-elsewhere", message_id=done["message_id"])

        async def told() -> Any:
            return (await house.a.get(f"/api/turns/{accepted['turn_id']}"))["pushes"]

        [push] = await eventually(told, "the push has an outcome", 20)
        assert (push["outcome"], push["reason"]) == ("suppressed", "seen")
    finally:
        async with house.a.http() as http:
            await http.delete("/api/devices/seen")


@pytest.mark.asyncio(loop_scope="function")
async def test_nodes_that_do_not_hear_each_other_do_not_tell_their_devices(new_cluster: NewCluster) -> None:
    async with new_cluster(nodes=2, sabotage="deaf") as deaf:
        await deaf.start()
        a, b = (Client(node.url, token=deaf.tokens["alice"]) for node in deaf.nodes)
        async with a as near, b as far:
            accepted = await near.message("/echo read me", thread_id="seen")
            done = await near.finish(accepted["turn_id"])
            await near.send("seen", thread_id="seen", message_id=done["message_id"])
            await near.quiet()
            with pytest.raises(TimeoutError):
                await far.receive(until="read", within=1.5)
