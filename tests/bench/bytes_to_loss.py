"""`make bench NAME=bytes_to_loss`: how few bytes between workers reach data parallel's loss.

Data parallel with bfloat16 gradients in a ring is the denominator. Every arm sees the same batches
in the same number of steps; what is reported is the loss of the outer parameters, the bytes each
worker sends (it receives as many), and both when the arm first reaches data parallel's final loss.
The quick form runs the arms that the goals are judged by; `--full` runs the whole frontier, is
resumed where it was stopped, and writes the table and the plot under `docs/`.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from foundry.config import load_settings
from foundry.engines.training.diloco.config import E3m0, Fp32, OuterConfig
from tests.bench import diloco_wire
from tests.bench.byte_gpt import ByteGptSource, write_corpus
from tests.bench.frontier import CODECS, Arm, Curve, Regime, diloco, run_all, top_k
from tests.bench.frontier_report import Row, best_reduction, markdown, page, plot, table

REGIME = Regime(base_steps=1000, steps=1500, batch_size=4, length=64, lr=1e-3)
# Shares and inner steps that send 500 and 100 times less, by workers; then what is beyond.
GOALS = {2: ((16, 16), (8, 6)), 4: ((64, 11), (16, 7))}
BEYOND = {2: ((16, 32), (8, 16)), 4: ((32, 16), (64, 22))}
# Data parallel's own inner rate, in units of the regime's, for each number of workers.
TUNED = {2: 1.0, 4: 2.0}
SEEDS = (0, 1, 2)
WORKERS = (2, 4)
INNER_STEPS = (10, 25, 50, 100, 500)
OUTER_RATES = (0.4, 0.7)
DOCS = Path(__file__).parents[2] / "docs"
# Measured on real links with longer steps, as the workers of slow links have them.
WIRE = OuterConfig(inner_steps=100, codec=E3m0(), lr=0.7, momentum=0.9)
WIRE_BATCH = 16


def references(workers: int, seed: int) -> list[Arm]:
    """What the others are measured by; `alone` is one worker's share of the batches, unshared."""
    return [
        Arm("ddp-bf16", "ddp-bf16", workers, seed, pace=TUNED[workers]),
        Arm("ddp-fp32", "ddp-fp32", workers, seed, pace=TUNED[workers]),
        Arm("alone", "alone", workers, seed),
    ]


def contenders(workers: int, seed: int) -> list[Arm]:
    """The arms that the goals are judged by."""
    return [_sparse_arm(workers, seed, plan) for plan in GOALS[workers]]


def beyond(workers: int, seed: int) -> list[Arm]:
    """Their neighbours, and the farther one with a quarter more tokens."""
    far = GOALS[workers][0]
    return [
        *(_sparse_arm(workers, seed, plan) for plan in BEYOND[workers]),
        _sparse_arm(workers, seed, far, stretch=1.25),
    ]


def _sparse_arm(workers: int, seed: int, plan: tuple[int, int], stretch: float = 1.0) -> Arm:
    """Averaging N workers divides the noise of a step by √N. Adam divides by the noise of one
    worker, so its steps are √N shorter than data parallel's: the outer rate makes up for it.
    Everybody sends to everybody, because a second rounding to so few values costs more than it
    saves.
    """
    share, inner = plan
    return diloco(
        f"top-k 1/{share} H {inner}{', longer' if stretch > 1 else ''}",
        workers,
        seed,
        inner,
        top_k(share),
        lr=workers**0.5,
        momentum=0.0,
        pace=2**0.5,
        stretch=stretch,
        exchange="gather",
    )


def local_sgd(workers: int, seed: int) -> list[Arm]:
    """Plain averaging of the parameters."""
    return [
        diloco(f"LocalSGD H {inner}", workers, seed, inner, Fp32(), lr=1.0, momentum=0.0)
        for inner in INNER_STEPS
    ]


def diloco_as_published(workers: int, seed: int, inner: int, codec: str, rate: float) -> Arm:
    """Nesterov with momentum 0.9."""
    name = f"DiLoCo {codec} H {inner} η {rate}"
    return diloco(name, workers, seed, inner, CODECS[codec], lr=rate)


def sweep(workers: int) -> list[Arm]:
    """Which outer rate suits how many inner steps."""
    return [
        diloco_as_published(workers, SEEDS[0], inner, "E3M0", rate)
        for inner in INNER_STEPS
        for rate in OUTER_RATES
    ]


def grid(workers: int, seed: int, rates: Mapping[tuple[int, int], float]) -> list[Arm]:
    """DiLoCo with every codec, at the outer rates that the sweep has found, by (workers, H)."""
    return [
        diloco_as_published(workers, seed, inner, codec, rates[workers, inner])
        for codec in CODECS
        for inner in INNER_STEPS
        if (workers, inner) in rates
    ]


def best_rates(found: Mapping[Arm, Curve]) -> dict[tuple[int, int], float]:
    """By workers and inner steps; only where both rates were tried."""
    arms = [arm for workers in WORKERS for arm in sweep(workers) if arm in found]
    tried: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for arm in arms:
        if arm.outer is not None:
            key = (arm.workers, arm.outer.inner_steps)
            tried.setdefault(key, []).append((found[arm].loss, arm.outer.lr))
    return {key: min(pairs)[1] for key, pairs in tried.items() if len(pairs) == len(OUTER_RATES)}


def streaming(workers: int, seed: int) -> list[Arm]:
    """Fragments of the five layers in turn, sent while training goes on."""
    return [
        diloco(
            f"Streaming E3M0 H {inner}",
            workers,
            seed,
            inner,
            E3m0(),
            lr=0.4,
            fragments=5,
            overlap=1,
            mixing=0.5,
        )
        for inner in (25, 100)
    ]


def sparse(workers: int, seed: int) -> list[Arm]:
    """SparseLoCo as published: no outer momentum, outer rate 1."""
    return [
        diloco(f"SparseLoCo 1/64 H {inner}", workers, seed, inner, top_k(64), lr=1.0, momentum=0.0)
        for inner in (15, 30)
    ]


def quick() -> list[Arm]:
    """Two workers, the goals' arms and their denominator, three seeds."""
    return [arm for seed in SEEDS for arm in (references(2, seed)[0], *contenders(2, seed))]


def frontier(run: Callable[[Sequence[Arm]], dict[Arm, Curve]]) -> dict[Arm, Curve]:
    """Everything, the most telling first: a run that is stopped leaves the best table it can."""
    first, *more = SEEDS
    found = run(quick())
    for workers in WORKERS:
        found |= run(judged(workers, first))
    for workers in WORKERS:
        found |= run(sweep(workers))
        found |= run(others(workers, first, best_rates(found)))
    for arms in (
        [arm for seed in more for workers in WORKERS for arm in judged(workers, seed)],
        [
            arm
            for seed in more
            for workers in WORKERS
            for arm in others(workers, seed, best_rates(found))
        ],
    ):
        found |= run(arms)
    return found


def judged(workers: int, seed: int) -> list[Arm]:
    return references(workers, seed)[:1] + contenders(workers, seed) + beyond(workers, seed)


def others(workers: int, seed: int, rates: Mapping[tuple[int, int], float]) -> list[Arm]:
    return [
        *references(workers, seed),
        *local_sgd(workers, seed),
        *streaming(workers, seed),
        *sparse(workers, seed),
        *grid(workers, seed, rates),
    ]


def metrics(rows: Sequence[Row]) -> dict[str, float]:
    """What the goals are about, and the scale to read it by."""
    found = {
        "best_reduction_at_gap_1pct": best_reduction(rows, 1.0),
        "best_reduction_at_gap_0_3pct": best_reduction(rows, 0.3),
    }
    for row in rows:
        name = f"{row.name.replace(' ', '_')}_n{row.workers}"
        found[f"gap_pct_{name}"] = row.gap
        if row.reduction is not None:
            found[f"reduction_{name}"] = row.reduction
    return found


def wire(corpus: Path) -> dict[str, float | int | str | None]:
    """The arm that `utilisation_100mbit` is asked of, on hosts of its own at 100 Mbit/s."""
    plan = diloco_wire.WirePlan(WIRE, batch_size=WIRE_BATCH, length=REGIME.length)
    found = diloco_wire.measure(plan, corpus)
    return {
        "utilisation_100mbit": found["utilisation"],
        "counter_vs_analytic": found["counter_vs_analytic"],
    } | {f"wire_{name}": value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the whole frontier: hours")
    parser.add_argument("--corpus", type=Path, help="any text; default: the one of the lock")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no arm after them")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    home = load_settings().home / "bench" / "bytes_to_loss"
    corpus = arguments.corpus or home / "prose.txt"
    digest = write_corpus(corpus)
    step_s = diloco_wire.solo_step_s(
        ByteGptSource(corpus, batch_size=REGIME.batch_size, length=REGIME.length)
    )
    begun = time.monotonic()

    def run(arms: Sequence[Arm]) -> dict[Arm, Curve]:
        return run_all(
            arms,
            REGIME,
            corpus,
            home / digest[:12] if arguments.full else home / f"{digest[:12]}-quick",
            processes=arguments.processes,
            minutes=arguments.minutes - (time.monotonic() - begun) / 60,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )

    curves = frontier(run) if arguments.full else run(quick())
    rows = table(list(curves.values()))
    print(markdown(rows, REGIME, step_s), file=sys.stderr)
    found: dict[str, object] = {"corpus_sha256": digest, "step_s": step_s} | metrics(rows)
    if arguments.full:
        (DOCS / "bytes_to_loss.md").write_text(page(rows, REGIME, step_s, digest))
        plot(rows, DOCS / "bytes_to_loss.png")
    else:
        found |= wire(corpus)
    shown = {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in found.items()
    }
    print(json.dumps({"bench": "bytes_to_loss", "metrics": shown}))


if __name__ == "__main__":
    main()
