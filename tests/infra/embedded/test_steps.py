from pathlib import Path

import pytest

from foundry.errors import SetupError, Unavailable
from foundry.infra.embedded.steps import run_step


def _step(
    tmp_path: Path, code: str, timeout_s: float = 30.0, arguments: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    (tmp_path / "astep.py").write_text(code)
    seen: list[str] = []
    lines = run_step(
        "astep",
        log=tmp_path / "astep.log",
        environment={"PYTHONPATH": str(tmp_path)},
        timeout_s=timeout_s,
        progress=seen.append,
        arguments=arguments,
    )
    return lines, seen


def test_progress_goes_to_the_callback_and_answers_come_back(tmp_path: Path) -> None:
    code = 'print("progress: one"); print(\'{"api_key": null}\'); print("progress: two")'
    lines, seen = _step(tmp_path, code)
    assert lines == ['{"api_key": null}']
    assert seen == ["one", "two"]


def test_arguments_reach_the_module(tmp_path: Path) -> None:
    lines, _ = _step(tmp_path, "import sys; print(sys.argv[1:])", arguments=("a", "b c"))
    assert lines == ["['a', 'b c']"]


def test_the_last_line_of_a_failed_step_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"`astep` failed: it broke \(log: .*astep\.log\)"):
        _step(tmp_path, "import sys; sys.exit('noise\\nit broke')")


def test_exit_code_two_means_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        _step(tmp_path, "import sys; print('set X', file=sys.stderr); sys.exit(2)")


def test_a_step_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="did not finish in 1 s"):
        _step(tmp_path, "import time; time.sleep(60)", timeout_s=1.0)
