"""What `serve_apps` binds: versions that keep replicas, and the chore that watches the guard."""

from pathlib import Path

import pytest

from foundry.config import Settings
from foundry.errors import Unavailable
from foundry.infra.embedded.plan import digest_wanted_stack
from foundry.infra.embedded.stack_digest import version_of
from serve_apps import control, gateway
from serve_apps.guarding import guarding_chores
from serve_apps.version import find_version


@pytest.mark.parametrize("application", [gateway, control])
def test_an_application_has_the_version_that_it_is_given(
    application: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve restarts every replica of a deployment whose version is another."""
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    build = application.build  # type: ignore[attr-defined]
    versions = [build({"version": "a1b2"})._bound_deployment.version for _ in range(2)]
    assert versions == ["a1b2", "a1b2"]


def test_a_version_is_the_callers_or_that_of_this_checkout(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert find_version(settings, ["a1b2"]) == "a1b2"
    own = find_version(settings, [])
    assert own == version_of(digest_wanted_stack(settings))
    assert len(own) == 24
    other = settings.model_copy(update={"home": tmp_path / "other"})
    assert find_version(other, []) != own


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"stack_id": "x"}, ["guard"]),
        ({}, []),
        ({"stack_id": "x", "ray": {"address": "127.0.0.1:1"}}, []),
    ],
)
async def test_a_supervisor_that_up_has_started_watches_its_guard(
    settings: dict[str, object], names: list[str], tmp_path: Path
) -> None:
    chores = guarding_chores(Settings.model_validate({"home": tmp_path, **settings}))
    assert [chore.name for chore in chores] == names
    for chore in chores:
        # A minute for an `up`, which ends it and starts another, and still told within two.
        assert 60 < chore.overdue_s < 120
        with pytest.raises(Unavailable, match="the guard of this stack is not running"):
            await chore.step()
