"""The README shows what its command prints today."""

import re
from pathlib import Path

import pytest

from foundry.cli.main import run
from foundry.install.builds import ROOT

_CONFIG = re.compile(
    r"cat > /tmp/config\.json <<'END'\n(.*?)\nEND\n(.*?)```\n\n```text\n(.*?)```", re.S
)


def test_the_shown_answer_is_todays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _CONFIG.search((ROOT / "README.md").read_text())
    assert found is not None
    config, command, shown = found.groups()
    (tmp_path / "config.json").write_text(config)
    line = command.replace("\\\n", " ").replace("/tmp/config.json", str(tmp_path / "config.json"))
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))
    assert run(line.split()[1:]) == 0
    assert capsys.readouterr().out.startswith(shown)
