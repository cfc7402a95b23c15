from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from notifications.apns import ApnsSettings
from tests.fakes.apns import ApnsFake
from tests.fakes.push_tls import Authority, ec_key_pem, make_authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def apns_key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ec.EllipticCurvePublicKey]:
    private, public = ec_key_pem()
    path = tmp_path_factory.mktemp("apns") / "AuthKey.p8"
    path.write_text(private, "ascii")
    return path, public


@pytest.fixture
def apns_fake(apns_key: tuple[Path, ec.EllipticCurvePublicKey]) -> ApnsFake:
    return ApnsFake(apns_key[1])


MakeSettings = Callable[..., ApnsSettings]


@pytest.fixture
def apns_settings(
    authority: Authority, apns_key: tuple[Path, ec.EllipticCurvePublicKey], apns_fake: ApnsFake
) -> MakeSettings:
    """Settings that lead to the fake; call it once the fake serves."""

    def make(**changes: Any) -> ApnsSettings:
        settings = ApnsSettings(
            key_path=apns_key[0],
            key_id=apns_fake.key_id,
            team_id=apns_fake.team_id,
            topic="org.example.app",
            endpoint=apns_fake.url,
            ca_path=authority.ca_path,
        )
        return replace(settings, **changes)

    return make
