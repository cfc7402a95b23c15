from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from providers.claude import ClaudeProvider
from tests.fakes.messages_api import MessagesApi


@pytest.fixture(autouse=True)
def no_real_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def api() -> AsyncIterator[MessagesApi]:
    async with MessagesApi(api_key="sk-secret") as api:
        yield api
        assert not api.refusals, "the provider sent a request that the real API would refuse"


@pytest.fixture
async def claude(api: MessagesApi) -> AsyncIterator[ClaudeProvider]:
    async with ClaudeProvider(api_key="sk-secret", base_url=api.url) as provider:
        yield provider
