"""Everything that the OpenAPI document allows, and much that it does not, thrown at a running gateway."""

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import GatewayProcess

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
PATHS = """
[[operations]]
include-path-regex = "/(messages|export|threads/)"
parameters = { "path.agent" = "demo", "path.thread_id" = ["fuzzed", "other"] }
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
    answer = await gateway.post("/api/demo/messages", {"content": "/echo Hi", "thread_id": "fuzzed"})
    assert answer.status_code == 202
    settings = directory / "schemathesis.toml"
    settings.write_text(PATHS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run"),
        f"{gateway.url}/openapi.json",
        *("-H", "Authorization: Bearer token-of-alice", "--checks", CHECKS, "--mode", "all"),
        *("--max-examples", str(examples), "--seed", str(seed), "--phases", "coverage,fuzzing"),
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


def tested(said: str) -> int:
    """How many test cases schemathesis made."""
    match = re.search(r"(\d+) generated", said)
    assert match is not None, said[-2000:]
    return int(match[1])


@pytest.mark.timeout(180)
async def test_no_request_breaks_the_server_or_gets_an_undeclared_answer(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    said = await fuzz(gateway, tmp_path, examples=3, within=150, seed=7)
    assert tested(said) > 300


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_no_request_of_very_many_does_either(gateway: GatewayProcess, tmp_path: Path) -> None:
    for seed in range(3):
        print(tested(await fuzz(gateway, tmp_path, examples=150, within=590, seed=seed)))
