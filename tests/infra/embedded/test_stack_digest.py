from pathlib import Path

import pytest

from foundry.config import Settings, environment_of
from foundry.infra.embedded import stack_digest as module
from foundry.infra.embedded.stack_digest import describe_changes, digest_stack

_KEY = b"k" * 32


def _settings(tmp_path: Path, **sections: object) -> Settings:
    return Settings.model_validate({"home": tmp_path, **sections})


def _changes(before: Settings, after: Settings) -> list[str]:
    running = environment_of(before)
    return describe_changes(digest_stack(before, _KEY), digest_stack(after, _KEY), after, running)


def test_the_same_is_no_change(tmp_path: Path) -> None:
    assert _changes(_settings(tmp_path), _settings(tmp_path)) == []


def test_changed_settings_are_named(tmp_path: Path) -> None:
    after = _settings(tmp_path, http={"port": 9000}, ray={"num_cpus": 3})
    assert _changes(_settings(tmp_path), after) == [
        "changed settings: FOUNDRY_HTTP__PORT, FOUNDRY_RAY__NUM_CPUS"
    ]


def test_a_secret_changes_the_stack_and_is_not_shown(tmp_path: Path) -> None:
    before = _settings(tmp_path, objects={"secret_access_key": "one"})
    after = _settings(tmp_path, objects={"secret_access_key": "two"}, http={"port": 9000})
    assert _changes(before, after) == [
        "changed settings: FOUNDRY_HTTP__PORT, FOUNDRY_OBJECTS__SECRET_ACCESS_KEY"
    ]
    assert "two" not in str(digest_stack(after, _KEY))
    assert digest_stack(after, _KEY) != digest_stack(after, b"other")


def test_what_only_clients_read_changes_nothing(tmp_path: Path) -> None:
    after = _settings(tmp_path, client={"api_key": "fk"}, budsim_data=tmp_path)
    assert _changes(_settings(tmp_path), after) == []


def test_the_code_of_clients_is_not_the_stacks(tmp_path: Path) -> None:
    for name in ("config.py", "cli/tui/app.py", "sdk/jobs.py", "infra/roles.sql", "a.pyc"):
        path = tmp_path / "foundry" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert list(module._list_sources(tmp_path)) == ["foundry/config.py", "foundry/infra/roles.sql"]


def test_a_changed_checkout_and_a_stack_without_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path)
    before, running = digest_stack(settings, _KEY), environment_of(settings)
    monkeypatch.setattr(module, "_PACKAGES", ("serve_apps",))
    wanted = digest_stack(settings, _KEY)
    assert describe_changes(before, wanted, settings, running) == ["this checkout has changed"]
    assert describe_changes({}, wanted, settings, running) == [
        "it was started by an earlier release"
    ]
