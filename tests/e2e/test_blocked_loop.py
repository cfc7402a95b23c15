"""A plug-in that blocks the event loop holds up everybody: it is noticed, and named to the operator."""

import textwrap
from pathlib import Path

import httpx2

from tests.e2e.conftest import NewClient, NewGateway
from tests.server import TOKENS, GatewayProcess

BLOCKED_SECONDS = 2.5
OWNER = "token-of-owner"
PLUGIN = f"""
import time

from providers import Completed, TextDelta


class SlowProvider:
    name = "slow"
    capabilities = frozenset()

    async def stream(self, turn, /):
        yield TextDelta("a", "before ")
        calls_something_synchronous()
        yield TextDelta("a", "after")
        yield Completed()


def calls_something_synchronous():
    time.sleep({BLOCKED_SECONDS})
"""


def install(site: Path) -> None:
    """A distribution with one provider, as pip lays it out."""
    about = site / "slow_provider-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "slow_provider.py").write_text(textwrap.dedent(PLUGIN))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-provider\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[agentline.providers]\nslow = slow_provider:SlowProvider\n")


async def health(gateway: GatewayProcess, token: str) -> dict[str, object]:
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=10, trust_env=False) as http:
        answer = await http.get("/api/health", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    shown: dict[str, object] = answer.json()
    return shown


async def test_a_provider_that_blocks_the_loop_is_named_in_the_log_and_in_health(
    new_gateway: NewGateway, new_client: NewClient, tmp_path: Path
) -> None:
    install(tmp_path / "site")
    start = "import sys; sys.path.insert(0, {!r}); from gateway.cli import main; sys.exit(main(sys.argv[1:]))"
    gateway = new_gateway(
        ("-c", start.format(str(tmp_path / "site")), "serve", "--port", "0"),
        AGENTS={"claude": None, "codex": None, "demo": {"pace": 0}, "culprit": {"provider": "slow"}},
        AUTH__TOKENS={**TOKENS, "owner": OWNER},
    )
    await gateway.start_soon()
    before = await health(gateway, OWNER)
    assert before["status"] == "ok"
    assert isinstance(before["checks"], dict)
    assert before["checks"]["event loop"] == "never blocked"

    phone, other = new_client(gateway, agent="culprit"), new_client(gateway, agent="demo")
    await phone.connect()
    await other.connect()
    accepted = await phone.message("a private question", thread_id="t")
    done = await phone.finish(accepted["turn_id"])
    assert (done["status"], done["content"]) == ("completed", "before after")

    (line,) = gateway.events("loop_blocked")
    assert line["level"] == "error"
    assert line["task"] == f"provider of agent culprit, turn {accepted['turn_id']}"
    assert any(frame.endswith("in calls_something_synchronous") for frame in line["frames"])
    assert "private" not in gateway.log
    after = await health(gateway, OWNER)
    assert after["status"] == "degraded"
    assert isinstance(after["checks"], dict)
    assert "blocked by provider of agent culprit" in after["checks"]["event loop"]
    assert "slow_provider.py" in after["checks"]["event loop"]
    told = await health(gateway, TOKENS["alice"])
    assert told["status"] == "degraded"
    assert "checks" not in told
    # It harmed for as long as it lasted, and no longer.
    accepted = await other.message("/echo still here")
    assert (await other.finish(accepted["turn_id"]))["status"] == "completed"
