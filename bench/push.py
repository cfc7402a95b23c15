"""How fast pushes go out, and how many arrive: ours and aioapns beside it, against the same strict fake.

    python bench/push.py [--count 2000] [--latency 0.03] [--uvloop] [--aioapns-python PYTHON]

2,000 alerts of 4,000 bytes to a fake of APNs in a process of its own (TLS, HTTP/2, default windows of
65,535 bytes, 1,000 streams, an answer after 30 ms). aioapns is no dependency of anything: give the
interpreter of an environment that has it (`pip install "aioapns>=4,<5"`), or leave it out.
Run it from the root of the repository, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

KEY_ID, TEAM_ID, TOPIC = "KEY1234567", "TEAM123456", "org.example.app"
SIZE = 4000
TOKEN = "ab" * 32


async def ours(options: argparse.Namespace) -> int:
    """Through the transport alone."""
    from notifications import payload
    from notifications.apns import Apns

    what = _push(options)
    assert len(payload.apns(what)) == SIZE
    expires_at = int(time.time() * 1000) + 3_600_000
    async with Apns(_settings(options)) as apns:
        device = _device()
        verdicts = await asyncio.gather(
            *(
                apns.send(device, what, delivery_id=str(uuid.uuid4()), expires_at=expires_at)
                for _ in range(options.count)
            )
        )
    return sum(1 for verdict in verdicts if verdict.kind == "sent")


async def outbox(options: argparse.Namespace) -> int:
    """Through the outbox with its rows in SQLite: lease, look, send, settle, each a transaction."""
    from notifications.apns import Apns
    from notifications.outbox import Outbox
    from tests.notifications.sqlite_store import SqliteStore

    what, device, now = _push(options), _device(), int(time.time() * 1000)
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "outbox.db")
        for _ in range(options.count):
            store.add(
                device, what, delivery_id=str(uuid.uuid4()), created_at=now, due_at=now, expires_at=now + 3_600_000
            )
        sent = 0
        done = asyncio.Event()

        def count(*outcome: str) -> None:
            nonlocal sent
            sent += outcome[1] == "sent"
            if sent == options.count:
                done.set()

        async with Apns(_settings(options)) as apns:
            task = asyncio.create_task(Outbox(store, {"ios": apns}, on_outcome=count).run())
            async with asyncio.timeout(60):
                await done.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        store.close()
    return sent


async def aioapns(options: argparse.Namespace) -> int:
    """With aioapns as its README has it; a push that raises is lost."""
    from aioapns import APNs, NotificationRequest, PushType
    from aioapns.connection import APNsProductionClientProtocol

    logging.disable()
    APNsProductionClientProtocol.APNS_SERVER = "127.0.0.1"
    APNsProductionClientProtocol.APNS_PORT = options.port
    context = ssl.create_default_context(cafile=options.ca)
    context.set_alpn_protocols(["h2"])
    client = APNs(key=options.pem, key_id=KEY_ID, team_id=TEAM_ID, topic=TOPIC, ssl_context=context)
    message: dict[str, Any] = {"aps": {"alert": {"title": "A conversation", "body": ""}}}
    message["aps"]["alert"]["body"] = "x" * (SIZE - len(json.dumps(message)))

    async def one() -> bool:
        request = NotificationRequest(
            TOKEN, message, time_to_live=3600, priority=10, collapse_key="turn-u-41", push_type=PushType.ALERT
        )
        try:
            async with asyncio.timeout(60):
                return bool((await client.send_notification(request)).is_successful)
        except Exception:
            return False

    results = await asyncio.gather(*(one() for _ in range(options.count)))
    return sum(results)


def _settings(options: argparse.Namespace) -> Any:
    from notifications.apns import ApnsSettings

    return ApnsSettings(
        key_path=Path(options.key),
        key_id=KEY_ID,
        team_id=TEAM_ID,
        topic=TOPIC,
        endpoint=f"https://127.0.0.1:{options.port}",
        ca_path=Path(options.ca),
    )


def _device() -> Any:
    from notifications.records import Device

    return Device(user_id="alice", device_id="phone", platform="ios", token=TOKEN, registered_at=0)


def _push(options: argparse.Namespace) -> Any:
    from notifications import payload
    from notifications.records import Push

    def made(length: int) -> Push:
        return Push(
            kind="turn",
            title="A conversation",
            body="x" * length,
            length=length,
            thread_id="t-9f",
            turn_id="u-41",
            message_id="m-42",
            agent="claude",
            status="completed",
            badge=3,
        )

    return made(SIZE - len(payload.apns(made(0))))


SENDERS: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, int]]] = {
    "ours": ours,
    "outbox": outbox,
    "aioapns": aioapns,
}


@contextmanager
def serving(folder: Path, latency: float) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """The fake in its own process: its port, and a function that stops it and gives its report."""
    command = [
        sys.executable, "-m", "tests.fakes.apns", f"--chain={folder / 'server.pem'}",
        f"--public-key={folder / 'public.pem'}", f"--latency={latency}",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    def report() -> dict[str, Any]:
        process.terminate()
        assert process.stdout is not None
        found: dict[str, Any] = json.loads(process.stdout.readline())
        return found

    try:
        yield int(process.stdout.readline()), report
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def measure(name: str, python: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One sender against a fake of its own; what the fake saw, and what the sender believes."""
    with serving(folder, options.latency) as (port, report):
        command = [
            python, str(Path(__file__)), f"--send={name}", f"--port={port}", f"--count={options.count}",
            f"--ca={folder / 'ca.pem'}", f"--key={folder / 'key.p8'}", *(["--uvloop"] if options.uvloop else []),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        return report() | json.loads(done.stdout)


def write_keys(folder: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from tests.fakes.push_tls import ec_key_pem, make_authority

    make_authority(folder)
    private, public = ec_key_pem()
    (folder / "key.p8").write_text(private)
    (folder / "public.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def send(options: argparse.Namespace) -> None:
    """The child process: sends, and prints how many it believes were sent and how long that took."""
    if options.uvloop:
        import uvloop

        runner = uvloop.run
    else:
        runner = asyncio.run
    options.pem = Path(options.key).read_text()
    began = time.perf_counter()
    sent = runner(SENDERS[options.send](options))
    print(json.dumps({"believed": sent, "took": time.perf_counter() - began}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.03)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--aioapns-python")
    parser.add_argument("--send", choices=SENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ca", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        send(options)
        return
    names = [("ours", sys.executable), ("outbox", sys.executable)]
    if options.aioapns_python:
        names.append(("aioapns", options.aioapns_python))
    with tempfile.TemporaryDirectory() as folder:
        write_keys(Path(folder))
        print(f"{options.count} alerts of {SIZE} bytes, answered after {options.latency * 1000:.0f} ms")
        for name, python in names:
            seen = measure(name, python, Path(folder), options)
            rate = seen["delivered"] / seen["seconds"] if seen["seconds"] else 0.0
            print(
                f"{name:8} delivered {seen['delivered']:5} lost {options.count - seen['delivered']:4}"
                f" twice {seen['twice']:3} | {rate:5.0f}/s over {seen['seconds']:.2f} s, {seen['took']:.2f} s in all"
                f" | {seen['connections']} connections | believed sent: {seen['believed']}"
            )


if __name__ == "__main__":
    main()
