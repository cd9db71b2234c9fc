"""The example settings are settings."""

import pytest

from foundry.config import load_settings
from foundry.install.installer import ROOT


def test_the_on_premises_example_names_every_external_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for line in (ROOT / "cluster_configs" / "on-premises.env").read_text().splitlines():
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    settings = load_settings()
    assert settings.database.url is not None
    assert settings.database.pool_size == 10
    assert settings.objects.url == "s3://foundry/artifacts"
    assert settings.ray.address == "ray-head.example:6379"
    assert str(settings.security.pepper_file) == "/etc/foundry/pepper"
