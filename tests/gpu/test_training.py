"""Runs of a few steps on the device: they learn, they resume, and their memory comes back."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from foundry.engines.training.config import Full, Lora, SftConfig
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.devices import read_traits, release_memory
from foundry.engines.training.precision import find_rule
from foundry.engines.training.progress import SftResult, TrainEvent
from foundry.engines.training.sft import run_sft
from tests.gpu.streams import Stream, draw_rows, loss_sum
from tests.gpu.test_numerics import skip_where_it_is_slow

pytestmark = pytest.mark.gpu

CONFIG = SftConfig(
    method=Lora(rank=8), max_steps=8, batch_size=8, micro_batch_size=4, max_seq_len=160, lr=2e-3
)
ROUNDS, WARM_UP = 8, 2
MIB = 2**20


def train(
    config: SftConfig, model_dir: Path, work_dir: Path, device: torch.device, **options: Any
) -> tuple[SftResult, list[TrainEvent]]:
    """A run on the test's rows, with its events."""
    events: list[TrainEvent] = []
    result = run_sft(
        config,
        model_dir=model_dir,
        train_rows=draw_rows(),
        work_dir=work_dir,
        device=str(device),
        on_event=events.append,
        **options,
    )
    return result, events


@pytest.mark.parametrize("method", [Lora(rank=8), Full()], ids=["lora", "full"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_learns_as_in_float32(
    device: torch.device, model_dir: Path, tmp_path: Path, precision: str, method: Lora | Full
) -> None:
    """float16's losses are scaled: else its smallest gradients would be zero."""
    skip_where_it_is_slow(device, getattr(torch, precision))
    if device.type == "cpu" and precision == "float16" and isinstance(method, Full):
        pytest.skip("a processor computes float16 a hundred times slower; LoRA rehearses it")
    changes = {"method": method, "lr": 2e-3 if isinstance(method, Lora) else 3e-4}
    wide = CONFIG.model_copy(update={"precision": "float32"} | changes)
    narrow = CONFIG.model_copy(update={"precision": precision} | changes)
    _, expected = train(wide, model_dir, tmp_path / "wide", torch.device("cpu"))
    result, events = train(narrow, model_dir, tmp_path / "narrow", device)
    assert result.steps == 8
    assert events[-1].loss < events[0].loss - 0.2
    for one, other in zip(events, expected, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=0.06)
        assert one.tokens_total == other.tokens_total


def test_an_interrupted_run_goes_on_where_it_was(
    device: torch.device, model_dir: Path, tmp_path: Path
) -> None:
    """Bit for bit on a processor; a device may add gradients in another order."""
    _, whole = train(CONFIG, model_dir, tmp_path / "whole", device)
    asked = count()
    stopped, first = train(
        CONFIG, model_dir, tmp_path / "cut", device, should_stop=lambda: next(asked) == 3
    )
    assert stopped.stopped and stopped.steps == 3
    result, rest = train(CONFIG, model_dir, tmp_path / "cut", device)
    assert [event.step for event in first + rest] == list(range(1, 9))
    gap = 0.0 if device.type == "cpu" else 0.02
    for one, other in zip(first + rest, whole, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=gap)
    assert result.adapter_dir is not None


def test_recomputed_activations_are_not_kept(accelerator: torch.device, model_dir: Path) -> None:
    stream = Stream.draw((512,) * 8)
    peaks, losses = [], []
    for recomputes in (False, True):
        model = load_model(model_dir, compute_dtype=torch.float32, device=accelerator)
        model.recomputed_layers = len(model.model.layers) * recomputes
        model.train()
        torch.accelerator.empty_cache()
        torch.accelerator.reset_peak_memory_stats()
        loss = loss_sum(model, stream)
        torch.autograd.backward(loss)
        losses.append(loss.item())
        peaks.append(torch.accelerator.max_memory_allocated())
        del model, loss
        release_memory()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert peaks[1] < 0.8 * peaks[0]


def read_used_bytes(device: torch.device) -> int:
    """Of the whole device as its driver counts; of this process in a rehearsal."""
    if device.type == "cpu":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096
    free, total = torch.accelerator.get_memory_info(device)
    return total - free


def test_no_memory_stays_behind(device: torch.device, model_dir: Path, tmp_path: Path) -> None:
    """Rounds of load, train, release: the least-squares slope of what the driver calls used."""
    config = CONFIG.model_copy(update={"max_steps": 2})
    used = []
    for number in range(WARM_UP + ROUNDS):
        method = (Lora(rank=8), Full())[number % 2]
        changed = config.model_copy(update={"method": method})
        train(changed, model_dir, tmp_path / str(number), device)
        release_memory()
        used.append(read_used_bytes(device))
    rounds = torch.arange(ROUNDS, dtype=torch.float64)
    rounds -= rounds.mean()
    slope = (rounds @ torch.tensor(used[WARM_UP:], dtype=torch.float64)) / rounds.square().sum()
    assert slope < (1 if device.type != "cpu" else 8) * MIB, used


def test_the_device_s_best_is_taken(device: torch.device, model_dir: Path, tmp_path: Path) -> None:
    """Full training keeps float32 masters and exports what it computed in."""
    config = CONFIG.model_copy(update={"method": Full(), "max_steps": 1})
    result, _ = train(config, model_dir, tmp_path, device)
    assert result.model_dir is not None
    best = find_rule(read_traits(device)).formats[0]
    exported = load_file_dtypes(result.model_dir)
    assert exported == {getattr(torch, best)}


def load_file_dtypes(folder: Path) -> set[torch.dtype]:
    from safetensors.torch import load_file

    return {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}
