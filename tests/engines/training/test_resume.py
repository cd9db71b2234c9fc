"""Killed and resumed is the same run, to the bit; and what survives a bad disk."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foundry.config import child_environment
from foundry.engines.training import files
from foundry.engines.training.checkpoint import Checkpoint, Checkpoints, RunState
from foundry.engines.training.files import write_tensors
from foundry.engines.training.progress import SftResult, TrainEvent
from foundry.engines.training.sft import run_sft
from foundry.errors import Conflict, DiskFull
from tests.engines.training.conftest import CHATML, write_tokenizer
from tests.engines.training.interrupted import CONFIG

Rows = list[dict[str, object]]
STATE = RunState(step=1, epoch=0, index=1, tokens=9, trained_tokens=4, threads=1, run_digest="d")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_model: Path, chat_rows: Rows, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    torch.set_num_threads(1)
    return _bytes(_train(tiny_model, chat_rows, tmp_path_factory.mktemp("whole")))


def _train(model: Path, rows: Rows, work_dir: Path, **options: object) -> SftResult:
    return run_sft(CONFIG, model_dir=model, train_rows=rows, work_dir=work_dir, **options)  # type: ignore[arg-type]


def _bytes(result: SftResult) -> dict[str, bytes]:
    assert result.adapter_dir is not None
    return {path.name: path.read_bytes() for path in result.adapter_dir.iterdir()}


# Kind and count of the kill, and the first step after resuming. A checkpoint flushes two files,
# their directory and its parent: 6 is in the midst of the second checkpoint, 8 just after its
# rename; 14 is in the midst of the export, after three checkpoints.
KILLS = [("event", 3, 3), ("flush", 6, 3), ("flush", 8, 5), ("flush", 14, 7)]


@pytest.fixture(scope="module")
def killed(
    tiny_model: Path, chat_rows: Rows, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], Path]:
    """The work directories of runs that were killed."""
    root = tmp_path_factory.mktemp("killed")
    (root / "rows.json").write_text(json.dumps(chat_rows))
    work_dirs = {(kind, count): root / f"{kind}-{count}" for kind, count, _ in KILLS}
    specs = [f"{path}:{kind}:{count}" for (kind, count), path in work_dirs.items()]
    child = subprocess.run(
        [
            *(sys.executable, "-m", "tests.engines.training.interrupted"),
            *(str(tiny_model), str(root / "rows.json"), *specs),
        ],
        env=child_environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(child.stdout) == [-signal.SIGKILL] * len(KILLS)
    return work_dirs


@pytest.mark.parametrize(("kind", "count", "first_step"), KILLS)
def test_killed_and_resumed_gives_the_same_bytes(
    tiny_model: Path,
    chat_rows: Rows,
    killed: dict[tuple[str, int], Path],
    uninterrupted: dict[str, bytes],
    kind: str,
    count: int,
    first_step: int,
) -> None:
    work_dir = killed[kind, count]
    assert not (work_dir / "adapter").exists()
    steps: list[int] = []
    result = _train(tiny_model, chat_rows, work_dir, on_event=lambda e: steps.append(e.step))
    assert steps[0] == first_step
    assert _bytes(result) == uninterrupted
    assert not list(work_dir.rglob(f"{files.STAGING_PREFIX}*"))


def test_stopped_then_resumed_gives_the_same_bytes(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    seen: list[TrainEvent] = []
    stopped = _train(
        tiny_model,
        chat_rows,
        tmp_path,
        on_event=seen.append,
        should_stop=lambda: len(seen) == 5,
    )
    assert stopped.stopped and stopped.steps == 5 and stopped.adapter_dir is None
    assert _bytes(_train(tiny_model, chat_rows, tmp_path)) == uninterrupted


def test_a_finished_run_is_not_repeated(tiny_model: Path, chat_rows: Rows, tmp_path: Path) -> None:
    first = _train(tiny_model, chat_rows, tmp_path)
    events: list[TrainEvent] = []
    assert _train(tiny_model, chat_rows, tmp_path, on_event=events.append) == first
    assert events == []


def test_another_dataset_cannot_continue_a_run(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    _train(tiny_model, chat_rows, tmp_path, should_stop=lambda: True)
    with pytest.raises(Conflict, match="other settings, data or weights"):
        _train(tiny_model, chat_rows[1:], tmp_path)


def test_a_full_disk_ends_the_run_cleanly_and_it_resumes(
    tiny_model: Path,
    chat_rows: Rows,
    tmp_path: Path,
    uninterrupted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flush = files.flush

    def no_space(path: Path) -> None:
        if path.name == "state.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    monkeypatch.setattr(files, "flush", no_space)
    with pytest.raises(DiskFull, match="no space left"):
        _train(tiny_model, chat_rows, tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    monkeypatch.undo()
    assert _bytes(_train(tiny_model, chat_rows, tmp_path)) == uninterrupted


def _checkpoint(step: int, value: float = 1.0) -> Checkpoint:
    return Checkpoint(replace(STATE, step=step), {"x": torch.full((3,), value)})


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 10):
        checkpoints.save(_checkpoint(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]
    loaded = checkpoints.load()
    assert loaded is not None and loaded.state.step == 10
    assert loaded.tensors["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("damaged", ["state.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damaged: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(_checkpoint(1))
    newest = checkpoints.save(_checkpoint(2))
    data = bytearray((newest / damaged).read_bytes())
    data[-3] ^= 0xFF
    (newest / damaged).write_bytes(data)
    loaded = checkpoints.load()
    assert loaded is not None and loaded.state.step == 1
    checkpoints.save(_checkpoint(2, value=5.0))
    repaired = checkpoints.load()
    assert repaired is not None and repaired.tensors["x"].tolist() == [5, 5, 5]


def test_no_space_leaves_older_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    def full(path: Path, tensors: dict[str, Tensor]) -> None:
        write_tensors(path, tensors)
        raise OSError(errno.ENOSPC, "No space left on device")

    Checkpoints(tmp_path).save(_checkpoint(1))
    with pytest.raises(DiskFull):
        Checkpoints(tmp_path, write=full).save(_checkpoint(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_template_with_a_date_resumes_the_next_day(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    write_tokenizer(model, "{{ strftime_now('%d %B %Y %H:%M:%S.%f') }}\n" + CHATML)
    work_dir, events = tmp_path / "work", [0]

    def stop() -> bool:
        events[0] += 1
        return events[0] > 3

    assert _train(model, chat_rows, work_dir, should_stop=stop).stopped
    # The clock has gone on; the run tells the template when it began.
    assert _train(model, chat_rows, work_dir).adapter_dir is not None
    other = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(Conflict, match="other settings, data or weights"):
        _train(model, chat_rows, work_dir, began=other)
