"""The scenarios that the example clients share: frames in, and what must come of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "scenarios"


def scenarios() -> dict[str, list[dict[str, Any]]]:
    """The steps of each, by file name."""
    return {path.name: json.loads(path.read_text("utf-8"))["steps"] for path in sorted(FOLDER.glob("*.json"))}
