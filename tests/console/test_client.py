"""`agentline.js` and the Markdown parser alone, in Node's own test runner: no browser, no packages."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable

from tests.server import TOKENS, GatewayProcess

NODE_TESTS = Path(__file__).parent / "node"
DEADLINE_SECONDS = 90


@pytest.mark.parametrize("name", ["agentline", "markdown"])
async def test_the_javascript_tests_pass(name: str, gateway: GatewayProcess) -> None:
    # The Node that Playwright brings along: the same version everywhere, with a WebSocket.
    node = compute_driver_executable()[0]
    process = await asyncio.create_subprocess_exec(
        node,
        "--test-reporter=spec",
        "--test",
        "--test-force-exit",
        str(NODE_TESTS / f"{name}.test.mjs"),
        env={"PATH": os.environ.get("PATH", ""), "GATEWAY_URL": gateway.url, "GATEWAY_TOKEN": TOKENS["alice"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        output, _ = await process.communicate()
        pytest.fail(f"the tests did not end in {DEADLINE_SECONDS} s:\n{output.decode()}", pytrace=False)
    assert process.returncode == 0, output.decode()
