from pathlib import Path

import pytest

from foundry.errors import AlreadyRunning
from foundry.infra.embedded.home_lock import lock_home


def test_the_second_command_is_told_who_is_at_work(tmp_path: Path) -> None:
    with (
        lock_home(tmp_path, "foundry up"),
        pytest.raises(AlreadyRunning, match=r"foundry up \(pid \d+\) is at work in .*: wait until"),
        lock_home(tmp_path, "foundry down"),
    ):
        pass
    with lock_home(tmp_path, "foundry down"):
        pass
