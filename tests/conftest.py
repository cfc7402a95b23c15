"""What concerns all tests."""

from __future__ import annotations

import pytest

REAL_PROGRAMS = ("codex", "claude_code", "opencode")
WEB = ("tests/console/test_client.py",)
"""Run by Node; what runs in Chromium is known by its fixture."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need more than Python: the real program of an agent, a browser, Node. Each is a set apart."""
    for item in items:
        if item.nodeid.startswith(WEB) or "chromium_path" in getattr(item, "fixturenames", ()):
            item.add_marker("web")
        if any(name in item.nodeid for name in REAL_PROGRAMS):
            item.add_marker("agents")
