"""Every block of docs/python-client.md runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.server import ROOT, TOKENS, GatewayProcess

PAGE = (ROOT / "docs" / "python-client.md").read_text()
BLOCKS = [
    (section.partition("\n")[0], block)
    for section in PAGE.split("\n## ")[1:]
    for block in re.findall(r"```python\n([^`]*)```", section)
]
SAID = {
    "Without asyncio": "1 2 3 4 5 ",
    "With asyncio": "completed This text stands instead.\n",
    "Decisions": "Run rm notes.txt? ['approved', 'approved_for_session', 'declined']\n",
    "Coming back": "".join(f"{n} " for n in range(1, 21)) + "\n",
}


def test_each_block_is_known() -> None:
    assert [title for title, _ in BLOCKS] == list(SAID)
    assert PAGE.count("```python") == len(BLOCKS)


@pytest.mark.parametrize(("title", "block"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_a_block_does_what_it_says(gateway: GatewayProcess, title: str, block: str) -> None:
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "GATEWAY_URL": gateway.url,
        "GATEWAY_TOKEN": TOKENS["alice"],
    }
    command = [sys.executable, "-W", "error", "-c", block]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(SAID[title])
    assert ran.stderr == ""
