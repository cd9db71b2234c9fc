"""What a worker tells the run; the run itself is tested with the engine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch

from foundry.catalog.datasets.domain import EVAL_FILE, TRAIN_FILE
from foundry.catalog.datasets.shards import ShardWriter
from foundry.config import Settings
from foundry.engines.training import sft, workload
from foundry.engines.training.config import SftConfig
from foundry.execution.workers.diloco.job import RegistrySource
from foundry.execution.workers.messages import Inputs, SftTask
from foundry.execution.workers.sft import SftWorker

BEGAN = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


class _Cache:
    """Has everything already."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def ensure(self, digest: str, files: object, *, keep: bool) -> Path:
        return self._folder / digest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, line in ((TRAIN_FILE, b'{"prompt": "a"}'), (EVAL_FILE, b'{"prompt": "b"}')):
        with ShardWriter(folder / name) as shard:
            shard.write(line)
    return folder


def test_a_job_tells_the_run_when_it_was_made(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(sft, "run_sft", lambda config, **options: told.update(options))
    none = Inputs("", ())
    task = SftTask(UUID(int=1), 1, none, none, SftConfig(), torch.get_num_threads(), BEGAN)
    settings = Settings.model_validate({"home": tmp_path})
    SftWorker(settings)._train(task, tmp_path, data)
    assert told["began"] == BEGAN
    assert (told["train_rows"], told["eval_rows"]) == ([{"prompt": "a"}], [{"prompt": "b"}])


def test_every_member_of_a_fleet_is_told_the_same(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        workload.SftWorkload, "prepare", lambda *given, **options: told.update(options)
    )
    monkeypatch.setattr(
        "foundry.execution.workers.diloco.job.open_weights", lambda settings: _Cache(tmp_path)
    )
    settings = Settings.model_validate({"home": tmp_path})
    RegistrySource(settings, Inputs("base", ()), Inputs("data", ()), SftConfig(), BEGAN).open()
    assert told["began"] == BEGAN
