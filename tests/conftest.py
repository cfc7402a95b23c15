"""What concerns all tests."""

from __future__ import annotations

import pytest

REAL_PROGRAMS = ("codex", "claude_code", "opencode")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that drives the real program of an agent: they are a set of their own."""
    for item in items:
        if any(name in item.nodeid for name in REAL_PROGRAMS):
            item.add_marker("agents")
