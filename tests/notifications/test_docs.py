from __future__ import annotations

import json
import re
from pathlib import Path

from notifications import payload
from notifications.records import OUTCOMES
from tests.notifications.pushes import push

PAGE = (Path(__file__).parents[2] / "docs" / "push.md").read_text("utf-8")


def test_the_payloads_on_the_page_are_what_arrives() -> None:
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)]
    assert shown == [json.loads(payload.apns(push())), payload.fcm_data(push()), json.loads(payload.webpush(push()))]


def test_the_page_names_every_outcome_and_every_limit() -> None:
    for outcome in OUTCOMES:
        assert f"`{outcome}`" in PAGE
    for limit in (payload.APNS_LIMIT, payload.FCM_LIMIT, payload.WEBPUSH_LIMIT, payload.NTFY_LIMIT):
        assert f"{limit:,}" in PAGE
    assert payload.APPROVAL_CATEGORY in PAGE
