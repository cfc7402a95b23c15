"""What concerns all tests."""

from __future__ import annotations

import pytest

REAL_PROGRAMS = ("codex", "claude_code", "opencode")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need more than Python: the real program of an agent, a browser. Each is a set apart."""
    for item in items:
        if "chromium_path" in getattr(item, "fixturenames", ()):
            item.add_marker("web")
        if any(name in item.nodeid for name in REAL_PROGRAMS):
            item.add_marker("agents")
