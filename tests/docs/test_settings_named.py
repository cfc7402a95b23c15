"""Every setting that the operators' pages name is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.configuration import PREFIX
from gateway.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
_NAME = re.compile(rf"{PREFIX}([A-Z]+(?:_{{1,2}}[A-Z]+)*)|…(__[A-Z]+(?:_[A-Z]+)*)")
FILE = "CONFIG"
"""Not a setting, but where they are."""


def known(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """All settings, as the environment names them, without the prefix."""
    for field, about in model.model_fields.items():
        yield f"{prefix}{field.upper()}"
        kinds = [about.annotation, *getattr(about.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from known(kind, f"{prefix}{field.upper()}__")


def named(text: str) -> Iterator[str]:
    """The settings that a page names; `…__X` stands behind another of the same group."""
    group = ""
    for full, rest in _NAME.findall(text):
        if full:
            group = full.rpartition("__")[0]
        yield full or group + rest


def wrong(text: str) -> list[str]:
    settings = {*known(), FILE}
    return [name for name in named(text) if name not in settings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    assert wrong(page.read_text("utf-8")) == []


def test_every_setting_is_named_for_operators() -> None:
    page = set(named((DOCS / "operate.md").read_text("utf-8")))
    assert {name.partition("__")[0] for name in known()} <= {name.partition("__")[0] for name in page}


def test_a_setting_that_does_not_exist_is_found() -> None:
    text = "`AGENTLINE_LEASE_SECONDS`, `AGENTLINE_LIMITS__QUEUE`, `…__QUEUES`, `AGENTLINE_LEASE`"
    assert wrong(text) == ["LIMITS__QUEUES", "LEASE"]
