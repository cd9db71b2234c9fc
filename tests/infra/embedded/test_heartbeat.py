from pathlib import Path

import pytest

from foundry.infra.embedded.heartbeat import Heartbeat, read_heartbeat, write_heartbeat
from foundry.infra.embedded.paths import ensure_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    ensure_home(tmp_path)
    return tmp_path


def test_the_last_one_is_read_and_a_longer_one_leaves_nothing_behind(home: Path) -> None:
    assert read_heartbeat(home) is None
    write_heartbeat(home, Heartbeat(7, 1.5, 15.0, acts=True, stuck=("jobs", "endpoints")))
    last = Heartbeat(7, 4.5, 15.0, acts=False)
    write_heartbeat(home, last)
    assert read_heartbeat(home) == last
    file = home / "run" / "supervisor.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_size == 512


@pytest.mark.parametrize("text", ["", '{"pid": 7, "at": 1', "[]", '{"pid": 7}'])
def test_a_torn_one_is_none(home: Path, text: str) -> None:
    (home / "run" / "supervisor.json").write_text(text)
    assert read_heartbeat(home) is None


def test_a_home_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_heartbeat(tmp_path / "gone", Heartbeat(7, 1.5, 15.0, acts=True))
