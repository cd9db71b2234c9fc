"""The example settings are settings."""

from urllib.parse import urlsplit

import pytest

from foundry.config import load_settings
from foundry.infra.embedded import ray
from foundry.infra.embedded.postgres import Role
from foundry.infra.wiring import database_url
from foundry.install.installer import ROOT
from serve_apps.security import require_variables


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


def test_the_example_is_as_hard_as_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _example()
    only_here = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "VLLM_HOST_IP", "SPT_NOENV"}
    wanted = {name: value for name, value in ray.HARDENED.items() if name not in only_here}
    assert {name: found.get(name) for name in wanted} == wanted
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert [
        urlsplit(database_url(settings, role)).username for role in (Role.APP, Role.GATEWAY)
    ] == [
        "foundry_app",
        "foundry_gateway",
    ]
    assert urlsplit(database_url(settings, Role.MIGRATE)).username == "foundry_migrate"
    assert urlsplit(database_url(settings)).query == "ssl=verify-full"
    require_variables(settings, found)


def _example() -> dict[str, str]:
    lines = (ROOT / "cluster_configs" / "on-premises.env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    return {pair[0]: pair[1] for pair in pairs}
