"""Fine-tuning as users start it, and what a kill, a full cluster and bad data do to it."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from foundry.errors import InvalidArtifact
from foundry.execution.jobs.schemas import JobOut
from foundry.infra.embedded.processes import list_stack_processes
from foundry.infra.embedded.state import stack_id
from foundry.sdk import Foundry, SftConfig
from tests.integration.conftest import Stack
from workflows.demo import BASE, DATASET

pytestmark = pytest.mark.engine

SHORT = SftConfig(
    max_steps=6, batch_size=2, micro_batch_size=2, max_seq_len=256, checkpoint_every=2
)


@pytest.fixture(scope="module")
def numbers(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of which a few steps take seconds."""
    path = tmp_path_factory.mktemp("data") / "numbers.jsonl"
    rows = [{"prompt": f"What follows {n}?", "completion": str(n + 1)} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with stack.client() as client:
        return client.datasets.add("numbers", path).reference


def _file_digest(client: Foundry, job: JobOut) -> str:
    """Of the adapter's weights that the job registered."""
    assert job.state == "SUCCEEDED", job.error
    name, version = str((job.result or {})["model"]).split("@")
    files = {file.path: file for file in client.models.artifacts(name, version).data}
    return files["adapter_model.safetensors"].sha256


def _sft_worker(stack: Stack) -> psutil.Process | None:
    for process in list_stack_processes(stack_id(stack.home)):
        with suppress(psutil.Error):
            if "SftWorker" in "".join(process.cmdline()[:1]):
                return process
    return None


@pytest.mark.long(reason="it trains twice, and the killed one waits for its lease")
def test_killed_in_the_midst_it_ends_with_the_same_bytes(stack: Stack, numbers: str) -> None:
    with stack.client() as client:
        whole = client.jobs.submit_sft("whole", BASE, numbers, SHORT, force=True)
        expected = _file_digest(client, client.jobs.wait(whole.id, timeout_s=300))
        job = client.jobs.submit_sft("killed", BASE, numbers, SHORT, force=True)

        def kill_once(update: JobOut) -> None:
            step: Any = update.progress.get("step", 0)
            if update.attempt == 1 and step >= 3 and (worker := _sft_worker(stack)) is not None:
                worker.kill()

        ended = client.jobs.wait(job.id, kill_once, poll_s=0.1, timeout_s=400)
        assert ended.attempt == 2
        assert _file_digest(client, ended) == expected


def test_by_hand_outside_of_a_ray_job_says_how(stack: Stack) -> None:
    done = stack.run("workflows.train", "--base", BASE, "--dataset", DATASET, "--name", "x")
    assert done.returncode == 2
    assert "ray job submit -- python -m workflows.train" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_free_processor_it_waits_and_can_be_cancelled(stack: Stack) -> None:
    slow = SftConfig(max_steps=500, batch_size=2, micro_batch_size=2, max_seq_len=256)
    with stack.client() as client:
        busy = [
            client.jobs.submit_sft(f"busy-{number}", BASE, DATASET, slow, force=True)
            for number in range(psutil.cpu_count() or 1)
        ]
        deadline = time.monotonic() + 120
        waiting: list[str | None] = []
        while "free resources: it needs 1 CPU" not in waiting:
            assert time.monotonic() < deadline, waiting
            time.sleep(0.5)
            waiting = [client.jobs.get(job.id).waiting_for for job in busy]
        for job in busy:
            client.jobs.cancel(job.id)
        ended = [client.jobs.wait(job.id, timeout_s=120).state for job in busy]
    assert set(ended) == {"CANCELLED"}


def test_a_broken_line_is_named(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": 7}\n')
    done = stack.run("foundry.cli.main", "datasets", "add", "broken", str(path))
    assert done.returncode != 0
    assert "row 2: completion" in done.stderr


def test_a_corrupt_adapter_is_refused_and_harms_nobody(stack: Stack, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x10" * 512)
    with stack.client() as client, pytest.raises(InvalidArtifact) as raised:
        client.jobs.submit_import("corrupt", f"file://{tmp_path}", base=BASE)
    assert "adapter_model.safetensors" in raised.value.message
