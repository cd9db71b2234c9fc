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
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundry.config import load_settings
from foundry.training.diloco.config import E3m0, Fp32, OuterConfig
from tests.bench import diloco_wire
from tests.bench.byte_gpt import ByteGptSource, write_corpus
from tests.bench.frontier import CODECS, Arm, Curve, Regime, diloco, run_all, top_k

REGIME = Regime(base_steps=1000, steps=1500, batch_size=4, length=64, lr=1e-3)
# Of the goals' arms: shares and inner steps that send 500 and 100 times less.
FAR, NEAR = {2: (16, 16), 4: (64, 11)}, {2: (8, 6), 4: (16, 7)}
# Data parallel's own inner rate, in units of the regime's, for each number of workers.
TUNED = {2: 1.0, 4: 2.0}
SEEDS = (0, 1, 2)
WORKERS = (2, 4)
INNER_STEPS = (10, 25, 50, 100, 500)
OUTER_RATES = (0.4, 0.7)
LINKS_MBIT_S = (10, 100, 1000)
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
    """The arms that the goals are judged by, and the farther one with a quarter more tokens.

    Averaging N workers divides the noise of a step by √N. Adam divides by the noise of one worker,
    so its steps are √N shorter than data parallel's: the outer rate makes up for it. Everybody
    sends to everybody, because a second rounding to so few values costs more than it saves.
    """

    def arm(plan: tuple[int, int], stretch: float = 1.0) -> Arm:
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

    return [arm(FAR[workers]), arm(NEAR[workers]), arm(FAR[workers], stretch=1.25)]


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
    """DiLoCo with every codec, at the outer rates that the sweep found, by (workers, H)."""
    return [
        diloco_as_published(workers, seed, inner, codec, rates[workers, inner])
        for codec in CODECS
        for inner in INNER_STEPS
    ]


def best_rates(found: Mapping[Arm, Curve]) -> dict[tuple[int, int], float]:
    """By workers and inner steps; empty unless the whole sweep is there."""
    best: dict[tuple[int, int], Arm] = {}
    for arm in (arm for workers in WORKERS for arm in sweep(workers)):
        if arm not in found or arm.outer is None:
            return {}
        key = (arm.workers, arm.outer.inner_steps)
        if key not in best or found[arm].loss < found[best[key]].loss:
            best[key] = arm
    return {key: arm.outer.lr for key, arm in best.items() if arm.outer is not None}


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
    return [arm for seed in SEEDS for arm in (references(2, seed)[0], *contenders(2, seed)[:2])]


def frontier(rates: Mapping[tuple[int, int], float]) -> list[Arm]:
    """Everything, the most telling first: a run that is stopped leaves the best table it can.

    Args:
        rates: outer ones of the grid, which is left out as long as there are none.
    """
    first = [
        arm
        for workers in WORKERS
        for arm in (
            *references(workers, SEEDS[0]),
            *contenders(workers, SEEDS[0]),
            *sweep(workers),
            *local_sgd(workers, SEEDS[0]),
            *streaming(workers, SEEDS[0]),
            *sparse(workers, SEEDS[0]),
        )
    ]
    judged = [
        arm
        for n in WORKERS
        for seed in SEEDS
        for arm in references(n, seed)[:1] + contenders(n, seed)
    ]
    rest = [
        arm
        for seed in SEEDS
        for workers in WORKERS
        for arm in (
            *(grid(workers, seed, rates) if rates else ()),
            *references(workers, seed),
            *local_sgd(workers, seed),
            *streaming(workers, seed),
            *sparse(workers, seed),
        )
    ]
    return list(dict.fromkeys((*quick(), *first, *judged, *(rest if rates else ()))))


@dataclass(frozen=True, slots=True)
class Row:
    """One arm over its seeds.

    Attributes:
        gap: of the mean final loss to data parallel's with bfloat16 gradients, percent.
        spread: standard deviation of the seeds' gaps.
        tokens: of the run, in units of data parallel's.
        reduction: data parallel's bytes over the arm's, both of the whole run.
        to_target: the same at the first evaluation that is not above data parallel's final loss;
            None: not reached by every seed.
        tokens_to_target: by then, in units of data parallel's whole run.
    """

    name: str
    workers: int
    seeds: int
    loss: float
    gap: float
    spread: float
    tokens: float
    bytes_sent: int
    reduction: float | None
    to_target: float | None
    tokens_to_target: float | None


def table(curves: Sequence[Curve]) -> list[Row]:
    """One row an arm, by workers and then by falling bytes."""
    rows = []
    for workers in sorted({curve.workers for curve in curves}):
        mine = [curve for curve in curves if curve.workers == workers]
        baseline = {c.seed: c for c in mine if c.kind == "ddp-bf16"}
        target = statistics.mean(curve.loss for curve in baseline.values())
        names = dict.fromkeys(curve.name for curve in mine)
        found = [_row([c for c in mine if c.name == name], baseline, target) for name in names]
        rows += sorted(found, key=lambda row: -row.bytes_sent)
    return rows


def _row(curves: Sequence[Curve], baseline: dict[int, Curve], target: float) -> Row:
    sent = curves[0].bytes_sent
    whole = next(iter(baseline.values()))
    # Seeds are compared in pairs: both sides of a pair saw the same batches.
    gaps = [100 * (c.loss / baseline[c.seed].loss - 1) for c in curves]
    reached = [curve.first_below(target) for curve in curves]
    points = [point for point in reached if point is not None]
    all_there = len(points) == len(curves)
    return Row(
        name=curves[0].name,
        workers=curves[0].workers,
        seeds=len(curves),
        loss=statistics.mean(curve.loss for curve in curves),
        gap=statistics.mean(gaps),
        spread=statistics.stdev(gaps) if len(gaps) > 1 else 0.0,
        tokens=curves[0].steps / whole.steps,
        bytes_sent=sent,
        reduction=whole.bytes_sent / sent if sent else None,
        to_target=(
            whole.bytes_sent / statistics.mean(p.bytes_sent for p in points)
            if all_there and sent
            else None
        ),
        tokens_to_target=(
            statistics.mean(p.step for p in points) / whole.steps if all_there else None
        ),
    )


def best_reduction(rows: Iterable[Row], gap: float) -> float:
    """The greatest reduction at equal tokens and a mean gap of at most `gap` percent; 0: none."""
    return max(
        (row.reduction for row in rows if row.reduction and row.tokens == 1 and row.gap <= gap),
        default=0.0,
    )


def wall_time_s(row: Row, steps: int, step_s: float, mbit_s: float) -> float:
    """Training and sending in turns, nothing overlapped: an upper bound for both sides."""
    return row.tokens * steps * step_s + row.bytes_sent * 8 / (mbit_s * 1e6)


def markdown(rows: Sequence[Row], regime: Regime, step_s: float) -> str:
    """The frontier as a table."""
    links = " | ".join(f"s at {link} Mbit/s" for link in LINKS_MBIT_S)
    lines = [
        f"| N | arm | seeds | tokens | final loss | gap % | ± | MB sent | reduction | "
        f"to L*: reduction | tokens to L* | {links} |",
        "|" + "---|" * (11 + len(LINKS_MBIT_S)),
    ]
    for row in rows:
        walls = " | ".join(
            f"{wall_time_s(row, regime.steps, step_s, link):,.0f}" for link in LINKS_MBIT_S
        )
        lines.append(
            f"| {row.workers} | {row.name} | {row.seeds} | {row.tokens:.0%} | {row.loss:.4f} | "
            f"{row.gap:+.2f} | {row.spread:.2f} | {row.bytes_sent / 1e6:,.2f} | "
            f"{_times(row.reduction)} | {_times(row.to_target)} | "
            f"{_share(row.tokens_to_target)} | {walls} |"
        )
    return "\n".join(lines) + "\n"


def _times(value: float | None) -> str:
    return "not reached" if value is None else f"{value:,.1f}x"


def _share(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.0%}"


def page(rows: Sequence[Row], step_s: float, digest: str) -> str:
    """The published document."""
    return f"""# Bytes until data parallel's loss

How many fewer bytes DiLoCo's workers send than data parallel with bfloat16 gradients in a ring, and
what that costs in loss. Written by `python -m tests.bench.bytes_to_loss --full`; `make bench
NAME=bytes_to_loss` runs the arms of the goals. What it says is told in [diloco.md](diloco.md).

- A byte-level GPT of a million parameters, {REGIME.base_steps:,} steps old when the workers begin
  (a base model, as fine-tuning has one), on English prose (SHA-256 {digest[:12]}…).
- Every arm sees the same batches: {REGIME.steps:,} steps of each of N workers, {REGIME.batch_size}
  windows of {REGIME.length} bytes each; AdamW, cosine to zero. Data parallel has its best inner
  rate for each N; DiLoCo its better outer rate of {OUTER_RATES[0]} and {OUTER_RATES[1]} for each H.
- Loss is that of the outer parameters on held-out text. `gap` is to data parallel on the same seed,
  `±` the standard deviation over seeds. L* is data parallel's mean final loss.
- Bytes are those that one worker sends; it receives as many. Seconds are computed: a step of
  {step_s * 1e3:.0f} ms on one core, and then the bytes over the link, nothing overlapped.
- `alone` is one worker with its share of the batches and nobody to talk to.

![Reduction and gap of every arm](bytes_to_loss.png)

{markdown(rows, REGIME, step_s)}"""


def plot(rows: Sequence[Row], target: Path) -> None:
    """Reduction against gap, one point an arm; those that no other arm beats have their names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(WORKERS), figsize=(13, 5.5), layout="constrained")
    for axes, workers in zip(panels, WORKERS, strict=True):
        mine = [row for row in rows if row.workers == workers and row.tokens == 1]
        for name in dict.fromkeys(_family(row) for row in mine):
            found = {r: r.reduction for r in mine if r.reduction and _family(r) == name}
            axes.errorbar(
                list(found.values()),
                [row.gap for row in found],
                [row.spread for row in found],
                fmt="o",
                label=name,
                capsize=2,
            )
        for row in unbeaten(mine):
            place = (row.reduction or 0, row.gap)
            axes.annotate(row.name, place, (4, 4), textcoords="offset points", fontsize=7)
        axes.set(
            title=f"{workers} workers",
            xscale="log",
            xlabel="fewer bytes than data parallel in bfloat16, times",
            ylabel="gap of the loss at equal tokens, %",
        )
        for bound, reduction in ((1.0, 500), (0.3, 100)):
            axes.plot([reduction, axes.get_xlim()[1]], [bound, bound], "k:", linewidth=0.8)
            axes.plot([reduction, reduction], [axes.get_ylim()[0], bound], "k:", linewidth=0.8)
        axes.legend(fontsize=7)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def unbeaten(rows: Sequence[Row]) -> list[Row]:
    """The arms than which none sends less at a smaller gap."""
    sending = [row for row in rows if row.bytes_sent]
    return [
        row
        for row in sending
        if not any(o.bytes_sent < row.bytes_sent and o.gap <= row.gap for o in sending)
    ]


def _family(row: Row) -> str:
    words = row.name.split()
    return " ".join(words[:2]) if words[0] == "DiLoCo" else words[0]


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

    curves = run(frontier(best_rates(run(frontier({}))))) if arguments.full else run(quick())
    rows = table(list(curves.values()))
    print(markdown(rows, REGIME, step_s), file=sys.stderr)
    found: dict[str, object] = {"corpus_sha256": digest, "step_s": step_s} | metrics(rows)
    if arguments.full:
        (DOCS / "bytes_to_loss.md").write_text(page(rows, step_s, digest))
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
