"""Everything that the OpenAPI document allows, and much that it does not, thrown at a running gateway."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import GatewayProcess

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
OPERATIONS = """
[[operations]]
include-operation-id-regex = "^{operations}$"
parameters = {{ "path.{name}" = {value} }}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("fuzzed"), {"DRAIN_SECONDS": "0"})
    process.start()
    try:
        yield process
    finally:
        process.stop_now()


async def fuzz(gateway: GatewayProcess, directory: Path, examples: int, within: float, seed: int) -> str:
    """Run schemathesis; what it printed. Fails if it found anything."""
    settings = directory / "schemathesis.toml"
    settings.write_text(await _own_things(gateway))
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("schemathesis"), "--config-file", settings, "run"),
        f"{gateway.url}/openapi.json",
        *("-H", "Authorization: Bearer token-of-alice", "--checks", CHECKS, "--mode", "all"),
        *("--max-examples", str(examples), "--seed", str(seed), "--phases", "coverage,fuzzing"),
        *("--exclude-path-regex", "/events$"),  # such an answer has no end
        *("--request-timeout", "10", "--workers", "1", "--generation-database", "none", "--no-color"),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(within):
            said = (await process.stdout.read()).decode()
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert code == 0, said[-6000:]
    assert not gateway.events("request_failed")
    return said


async def _own_things(gateway: GatewayProcess) -> str:
    """Settings with names of things that are there, else nearly every call would only find nothing."""
    body = {"content": "/error overloaded after", "thread_id": "fuzzed"}
    turn_id = (await gateway.post("/api/demo/messages", body)).json()["turn_id"]
    async with gateway.http() as http:
        uploaded = await http.post("/api/attachments", content=b"%PDF-1.7 and pages")
        device = {"platform": "ntfy", "token": "a-topic"}
        assert (await http.put("/api/devices/phone", json=device)).status_code == 200
    things = (
        ("(send_message|sessions|adopt_session)", "agent", "demo"),
        ("(thread|rename_thread|messages|export_thread)", "thread_id", "fuzzed"),
        ("(turn|cancel_turn|retry_turn)", "turn_id", turn_id),
        ("download", "attachment_id", uploaded.json()["id"]),
        ("(device|put_device|try_device)", "device_id", "phone"),
    )
    return "".join(OPERATIONS.format(operations=a, name=b, value=json.dumps(c)) for a, b, c in things)


def generated(said: str) -> int:
    """How many test cases schemathesis made."""
    match = re.search(r"(\d+) generated", said)
    assert match is not None, said[-2000:]
    return int(match[1])


@pytest.mark.timeout(180)
async def test_no_request_breaks_the_server_or_gets_an_undeclared_answer(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    said = await fuzz(gateway, tmp_path, examples=8, within=150, seed=7)
    assert generated(said) > 300


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_no_request_of_very_many_does_either(gateway: GatewayProcess, tmp_path: Path) -> None:
    for seed in range(3):
        print(generated(await fuzz(gateway, tmp_path, examples=150, within=590, seed=seed)))
