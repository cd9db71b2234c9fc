"""The parts of `make bench NAME=gpu`, each a process of its own: see `tests/bench/gpu.py`."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

METHODS = ("full", "lora")
RANK, ALPHA = 16, 32


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured.

    Attributes:
        rows: sequences of an optimiser step when speed is measured; the largest that fits is kept.
        memory_rows: sequences of a step when both sides are compared at one batch.
        rounds: load-train-release rounds.
    """

    device: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_heads: int
    length: int
    rows: tuple[int, ...]
    memory_rows: int
    steps: int
    rounds: int
    gemm: int

    def config(self) -> dict[str, Any]:
        """The config.json of the model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.hidden_size // self.heads,
            "hidden_act": "silu",
            "max_position_embeddings": 2 * self.length,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": True,
        }


CARD = Scale(
    device="cuda", vocab_size=128_256, hidden_size=2048, intermediate_size=8192, layers=16,
    heads=32, key_heads=8, length=4096, rows=(8, 4, 2, 1), memory_rows=2, steps=6, rounds=10,
    gemm=8192,
)  # fmt: skip
REHEARSAL = Scale(
    device="cpu", vocab_size=512, hidden_size=64, intermediate_size=128, layers=2,
    heads=4, key_heads=2, length=64, rows=(2, 1), memory_rows=1, steps=2, rounds=3,
    gemm=256,
)  # fmt: skip


class Card:
    """The device's clock and memory; on a CPU, in a rehearsal, what stands in for them."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda if device == "cuda" else None

    def wait(self) -> None:
        if self._cuda:
            self._cuda.synchronize()

    def forget_peak(self) -> None:
        if self._cuda:
            self._cuda.empty_cache()
            self._cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        """Since the peak was forgotten; None in a rehearsal."""
        return int(self._cuda.max_memory_allocated()) if self._cuda else None

    def driver_bytes(self) -> int | None:
        """Used on the whole device, as the driver counts; None in a rehearsal."""
        if not self._cuda:
            return None
        free, total = self._cuda.mem_get_info()
        return int(total - free)


def measure_steps(step: Callable[[], object], card: Card, steps: int) -> float:
    """Median seconds of a step, after two that warm up."""
    for _ in range(2):
        step()
    times = []
    for _ in range(steps):
        card.wait()
        started = time.perf_counter()
        step()
        card.wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def find_fitting_rows(scale: Scale, attempt: Callable[[int], float], card: Card) -> dict[str, Any]:
    """Speed and peak memory of every batch size that fits, and the fastest of them."""
    import torch

    speeds: dict[int, float] = {}
    peaks: dict[int, int | None] = {}
    for rows in scale.rows:
        card.forget_peak()
        try:
            speeds[rows] = rows * scale.length / attempt(rows)
            peaks[rows] = card.peak_bytes()
        except torch.OutOfMemoryError:
            continue
    rows = max(speeds, key=lambda r: speeds[r])
    return {"rows": rows, "tokens_per_s": speeds[rows], "speeds": speeds, "peaks": peaks}


def build_model(scale: Scale, method: str) -> Any:
    """Foundry's decoder with random weights, made on the device."""
    import torch

    from foundry.engines.training.decoder.config import DecoderConfig
    from foundry.engines.training.decoder.model import Decoder

    torch.manual_seed(0)
    config = DecoderConfig.of(scale.config())
    with torch.device(scale.device):
        model = Decoder(config, torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            _ = parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(0.0, 0.02)
    return model.to(torch.bfloat16) if method == "lora" else model


def open_learner(scale: Scale, method: str) -> Any:
    from foundry.engines.training.config import Lora
    from foundry.engines.training.decoder import lora
    from foundry.engines.training.devices import demand_exact_sums
    from foundry.engines.training.learner import Learner

    demand_exact_sums()
    model = build_model(scale, method)
    declared = {name for name, _ in model.named_parameters()}
    if method == "lora":
        config = Lora(rank=RANK, alpha=ALPHA)
        lora.attach(model, config, 0)
        declared = lora.declared_names(model, config)
    return Learner(model, lora.trainable(model, declared), lr=1e-5, weight_decay=0.0, grad_clip=1.0)


def random_rows(scale: Scale, rows: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(rows)
    return torch.randint(0, scale.vocab_size, (rows, scale.length), generator=generator)


def collate_rows(scale: Scale, lengths: tuple[int, ...]) -> Any:
    """One micro-batch of random tokens, all but each row's first trained."""
    import torch

    from foundry.engines.training.messages.targets import Example
    from foundry.engines.training.packing import collate

    tokens = random_rows(scale, 1)[0].tolist()
    examples = [Example(tuple(tokens[:n]), (True,) * n) for n in lengths]
    return collate(examples, torch.device(scale.device))


def measure_foundry(scale: Scale, method: str) -> dict[str, Any]:
    card = Card(scale.device)
    learner = open_learner(scale, method)

    def attempt(rows: int) -> float:
        batch = collate_rows(scale, (scale.length,) * rows)
        return measure_steps(lambda: learner.step([batch], 1e-5), card, scale.steps)

    result = find_fitting_rows(scale, attempt, card)
    return result | {"mixed": measure_mixed(scale, learner, card)}


def measure_mixed(scale: Scale, learner: Any, card: Card) -> float:
    """Tokens per second of packs that hold many rows of 1/64 to a half of the length."""
    unit = scale.length // 64
    pack = [unit * share for share in (32, 12, 8, 4, 3, 2, 1, 1, 1)]
    batch = collate_rows(scale, tuple(pack) * scale.memory_rows)
    seconds = measure_steps(lambda: learner.step([batch], 1e-5), card, scale.steps)
    return sum(pack) * scale.memory_rows / seconds


def measure_gemm(scale: Scale) -> dict[str, Any]:
    """FLOP per second of one large matrix product, by torch.matmul."""
    import torch

    card, size = Card(scale.device), scale.gemm
    left, right = (
        torch.randn(size, size, device=scale.device, dtype=torch.bfloat16) for _ in range(2)
    )
    out = torch.empty_like(left)

    def repeat() -> None:
        for _ in range(10):
            torch.matmul(left, right, out=out)

    return {"flops": 10 * 2 * size**3 / measure_steps(repeat, card, 7)}


def measure_slope(scale: Scale) -> dict[str, Any]:
    """Bytes that the driver counts after each load-train-release round, and their slope."""
    import torch

    from foundry.engines.training.decoder.weights import load_model
    from foundry.engines.training.files import write_json, write_tensors
    from foundry.engines.training.learner import Learner

    card, used = Card(scale.device), []
    small = Scale(**{**asdict(scale), "layers": 2})
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(small, "full")
        write_json(Path(folder) / "config.json", small.config())
        write_tensors(Path(folder) / "model.safetensors", dict(model.named_parameters()))
        del model
        batch = collate_rows(scale, (scale.length,))
        for _ in range(scale.rounds):
            loaded = load_model(Path(folder), compute_dtype=torch.bfloat16, device=scale.device)
            learner = Learner(
                loaded, dict(loaded.named_parameters()), lr=1e-5, weight_decay=0.0, grad_clip=1.0
            )
            learner.step([batch], 1e-5)
            del loaded, learner
            card.forget_peak()
            used.append(card.driver_bytes())
    # The first round opens the libraries; what they keep is no leak.
    settled = [count for count in used[1:] if count is not None]
    if not settled:
        return {}
    return {
        "used": used,
        "slope": statistics.linear_regression(range(len(settled)), settled).slope,
    }


def measure_part(part: str, scale: Scale) -> dict[str, Any]:
    """`gemm`, `slope`, or `foundry-` and a method."""
    if part == "gemm":
        return measure_gemm(scale)
    if part == "slope":
        return measure_slope(scale)
    return measure_foundry(scale, part.removeprefix("foundry-"))


def main(measure: Callable[[str, Scale], dict[str, Any]]) -> None:
    """Measure the part that the command line names, and write its result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("result", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    scale = REHEARSAL if options.rehearse else CARD
    options.result.write_text(json.dumps(measure(options.part, scale)))


if __name__ == "__main__":
    main(measure_part)
