from __future__ import annotations

import subprocess
import sys

import pytest

from providers import UnknownProvider
from providers.demo import DemoProvider
from providers.registry import create, installed


def test_the_providers_of_this_distribution_are_found() -> None:
    assert {"claude", "demo"} <= set(installed())


def test_a_provider_is_made_with_its_options() -> None:
    assert isinstance(create("demo", {"pace": 5}), DemoProvider)


def test_an_unknown_provider_is_answered_with_those_that_exist() -> None:
    with pytest.raises(UnknownProvider, match=r"no provider named 'nope' is installed \(there are: .*demo"):
        create("nope", {})


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        create("demo", {"colour": "red"})


def test_a_wrong_option_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="pace"):
        create("demo", {"pace": -1})


def test_finding_providers_imports_none_of_them() -> None:
    code = (
        "import sys, providers.registry as r; r.installed(); "
        "sys.exit(any(name in sys.modules for name in ('providers.demo', 'providers.claude', 'anthropic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
