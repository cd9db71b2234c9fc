"""Arms of the `bytes_to_loss` benchmark: one training run each, all workers in one process.

An in-process fleet computes bit for bit what separate workers compute, so loss and payload bytes
are those of the real thing; `diloco_wire` checks bytes and utilisation on real links. Every arm of
a seed starts from the same weights and sees the same batches.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch

from foundry.engines.training.diloco.config import (
    Bf16,
    Codec,
    E3m0,
    Fp32,
    Int8,
    OuterConfig,
    TopK,
)
from foundry.engines.training.diloco.local import LocalFleet
from foundry.engines.training.files import whole_directory
from foundry.engines.training.packing import Batch
from foundry.engines.training.schedule import learning_rate
from tests.bench.byte_gpt import ByteGpt, ByteGptSource

Kind = Literal["ddp-fp32", "ddp-bf16", "alone", "diloco"]
POINTS = 8
_WARMUP = 0.04


@dataclass(frozen=True, slots=True)
class Regime:
    """How long and on what every arm trains.

    Attributes:
        base_steps: steps of one worker before the run; its weights are where all arms begin, as a
            registered base model is. 0: random weights.
        steps: optimiser steps of each worker.
        batch_size, length: windows of one worker's batch, and bytes of a window.
        lr: peak of the inner rate, cosine to zero. The best of a sweep for data parallel.
    """

    base_steps: int
    steps: int
    batch_size: int
    length: int
    lr: float


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train. `outer` is for DiLoCo alone.

    Attributes:
        pace: inner learning rate, in units of the regime's.
        stretch: steps, in units of the regime's; its schedule stretches with them.
    """

    name: str
    kind: Kind
    workers: int
    seed: int
    outer: OuterConfig | None = None
    pace: float = 1.0
    stretch: float = 1.0

    def key(self, regime: Regime) -> str:
        outer = self.outer.model_dump_json() if self.outer else ""
        what = [self.kind, self.workers, self.seed, outer, self.pace, self.stretch]
        text = json.dumps([*what, asdict(regime)])
        return sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Point:
    """After so many steps of each worker: what each has sent, and the outer parameters' loss."""

    step: int
    bytes_sent: int
    loss: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One finished arm."""

    name: str
    kind: Kind
    workers: int
    seed: int
    points: tuple[Point, ...]

    @property
    def steps(self) -> int:
        return self.points[-1].step

    @property
    def loss(self) -> float:
        return self.points[-1].loss

    @property
    def bytes_sent(self) -> int:
        return self.points[-1].bytes_sent

    def first_below(self, loss: float) -> Point | None:
        return next((point for point in self.points if point.loss <= loss), None)


def diloco(
    name: str,
    workers: int,
    seed: int,
    inner_steps: int,
    codec: Codec,
    *,
    lr: float = 0.7,
    momentum: float = 0.9,
    pace: float = 1.0,
    stretch: float = 1.0,
    **more: object,
) -> Arm:
    outer = OuterConfig.model_validate(
        {"inner_steps": inner_steps, "codec": codec, "lr": lr, "momentum": momentum, **more}
    )
    return Arm(name, "diloco", workers, seed, outer, pace, stretch)


CODECS: dict[str, Codec] = {"fp32": Fp32(), "bf16": Bf16(), "int8": Int8(), "E3M0": E3m0()}


def top_k(share: int) -> TopK:
    return TopK(density=1 / share)


def run_all(
    arms: Sequence[Arm],
    regime: Regime,
    corpus: Path,
    cache: Path,
    *,
    processes: int = 2,
    minutes: float = math.inf,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[Arm, Curve]:
    """The arms in their order, each a process with one thread; what `cache` has is not run again.

    Args:
        minutes: after them no further arm is begun, and the curves that are there are returned.
    """
    cache.mkdir(parents=True, exist_ok=True)
    base = _base(regime, corpus, cache)
    waiting = [arm for arm in arms if not _place(arm, regime, cache).is_file()]
    ends = time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        running: dict[Future[Curve], Arm] = {}
        while running or (waiting and time.monotonic() < ends):
            while waiting and len(running) < processes and time.monotonic() < ends:
                arm = waiting.pop(0)
                running[pool.submit(_run, arm, regime, corpus, base)] = arm
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                arm, curve = running.pop(job), job.result()
                _write(curve, _place(arm, regime, cache))
                which = f"{arm.name} N={arm.workers} seed {arm.seed}"
                tell(f"{which}: {curve.loss:.4f}; {len(waiting)} arms to go")
    places = {arm: _place(arm, regime, cache) for arm in arms}
    return {arm: _read(place) for arm, place in places.items() if place.is_file()}


def _base(regime: Regime, corpus: Path, cache: Path) -> Path | None:
    """The weights that all arms begin with; trained once."""
    if not regime.base_steps:
        return None
    key = sha256(json.dumps(asdict(regime)).encode()).hexdigest()[:16]
    target = cache / f"base-{key}"
    if not target.is_dir():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(_train_base, regime, corpus, target).result()
    return target


def _train_base(regime: Regime, corpus: Path, target: Path) -> None:
    torch.set_num_threads(2)
    # Another seed than any run's: the runs see other batches.
    workload = _open(regime, corpus, seed=1_000_000)
    for step in range(regime.base_steps):
        rate = regime.lr * min(1.0, (step + 1) / (_WARMUP * regime.base_steps))
        batches = [batch for half in (0, 1) for batch in workload.batches(2 * step + half)]
        workload.learner.step(batches, rate)
    with whole_directory(target) as staging:
        torch.save(workload.model.state_dict(), staging / "model.pt")


def _open(regime: Regime, corpus: Path, seed: int, base: Path | None = None) -> ByteGpt:
    source = ByteGptSource(corpus, seed, regime.steps, regime.batch_size, regime.length, regime.lr)
    workload = source.open()
    if base is not None:
        workload.model.load_state_dict(torch.load(base / "model.pt"))
    return workload


def _run(arm: Arm, regime: Regime, corpus: Path, base: Path | None) -> Curve:
    torch.set_num_threads(1)
    regime = replace(regime, steps=round(arm.stretch * regime.steps))
    run = _fleet if arm.kind == "diloco" else _data_parallel
    points = tuple(run(arm, regime, corpus, base))
    return Curve(arm.name, arm.kind, arm.workers, arm.seed, points)


def _data_parallel(arm: Arm, regime: Regime, corpus: Path, base: Path | None) -> Iterator[Point]:
    """One model on everybody's batches: what an all-reduce of the gradients computes."""
    workload = _open(regime, corpus, arm.seed, base)
    workers = 1 if arm.kind == "alone" else arm.workers
    if arm.kind == "ddp-bf16":
        for parameter in workload.learner.parameters.values():
            # A ring adds one worker's gradient a hop, and sends the sum on in bfloat16.
            hook: Any = parameter.register_post_accumulate_grad_hook
            hook(_round_gradient)
    width = {"ddp-fp32": 4, "ddp-bf16": 2, "alone": 0}[arm.kind]
    size = sum(p.numel() for p in workload.learner.parameters.values())
    per_step = 2 * (workers - 1) * size * width // workers
    for step in range(regime.steps):
        batches = [b for worker in range(workers) for b in _batches(workload, arm, step, worker)]
        workload.learner.step(batches, arm.pace * _rate(regime, step))
        if _due(regime, step):
            yield Point(step + 1, per_step * (step + 1), _loss(workload))


def _fleet(arm: Arm, regime: Regime, corpus: Path, base: Path | None) -> Sequence[Point]:
    if arm.outer is None:
        raise ValueError(f"{arm.name} says nothing of the outer optimiser")
    workloads = [_open(regime, corpus, arm.seed, base) for _ in range(arm.workers)]
    judge = _open(regime, corpus, arm.seed)
    fleet = LocalFleet([workload.learner for workload in workloads], arm.outer)

    def train(worker: int, step: int) -> None:
        workload = workloads[worker]
        workload.learner.step(_batches(workload, arm, step, worker), arm.pace * _rate(regime, step))

    points: list[Point] = []

    def committed(step: int) -> None:
        # At most so many evaluations: with few inner steps there are many commits.
        told = points[-1].step if points else 0
        if step == regime.steps or step >= told + regime.steps / POINTS:
            fleet.replicas[0].write_outer(judge.learner.parameters)
            points.append(Point(step, fleet.bytes_sent, _loss(judge)))

    fleet.run(regime.steps, train, committed)
    return points


def _round_gradient(parameter: torch.Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad.copy_(parameter.grad.bfloat16())


def _batches(workload: ByteGpt, arm: Arm, step: int, worker: int) -> list[Batch]:
    return workload.batches(step * arm.workers + worker)


def _rate(regime: Regime, step: int) -> float:
    return learning_rate(
        step, peak=regime.lr, total_steps=regime.steps, warmup_ratio=_WARMUP, kind="cosine"
    )


def _due(regime: Regime, step: int) -> bool:
    every = max(1, regime.steps // POINTS)
    return (step + 1) % every == 0 or step + 1 == regime.steps


def _loss(workload: ByteGpt) -> float:
    loss = workload.learner.evaluate(workload.evaluation())
    if loss is None:
        raise ValueError("nothing is held out")
    return loss


def _place(arm: Arm, regime: Regime, cache: Path) -> Path:
    return cache / f"arm-{arm.key(regime)}.json"


def _write(curve: Curve, target: Path) -> None:
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(curve)))
    partial.rename(target)


def _read(path: Path) -> Curve:
    document = json.loads(path.read_text())
    points = tuple(Point(**point) for point in document.pop("points"))
    return Curve(**document, points=points)
