"""What the arms of `bytes_to_loss` come to: a table, a page and a plot."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.frontier import Curve, Regime

LINKS_MBIT_S = (10, 100, 1000)


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
            f"{row.gap:+.2f} | {_spread(row)} | {row.bytes_sent / 1e6:,.2f} | "
            f"{'none sent' if row.reduction is None else _times(row.reduction)} | "
            f"{_times(row.to_target)} | "
            f"{_share(row.tokens_to_target)} | {walls} |"
        )
    return "\n".join(lines) + "\n"


def _spread(row: Row) -> str:
    return f"{row.spread:.2f}" if row.seeds > 1 else "one seed"


def _times(value: float | None) -> str:
    return "not reached" if value is None else f"{value:,.1f}x"


def _share(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.0%}"


def page(rows: Sequence[Row], regime: Regime, step_s: float, digest: str) -> str:
    """The published document.

    Args:
        step_s: of one worker on one core.
        digest: SHA-256 of the text.
    """
    return f"""# Bytes until data parallel's loss

How many fewer bytes DiLoCo's workers send than data parallel with bfloat16 gradients in a ring, and
what that costs in loss. Written by `python -m tests.bench.bytes_to_loss --full`; `make bench
NAME=bytes_to_loss` runs the arms of the goals. What it says is told in [diloco.md](diloco.md).

- A byte-level GPT of a million parameters, {regime.base_steps:,} steps old when the workers begin
  (a base model, as fine-tuning has one), on English prose (SHA-256 {digest[:12]}…).
- Every arm sees the same batches: {regime.steps:,} steps of each of N workers, {regime.batch_size}
  windows of {regime.length} bytes each; AdamW, cosine to zero. Data parallel has its best inner
  rate for each N; DiLoCo the better one of two outer rates
  for each H.
- Loss is that of the outer parameters on held-out text. `gap` is to data parallel on the same seed,
  `±` the standard deviation over seeds. L* is data parallel's mean final loss.
- Bytes are those that one worker sends; it receives as many. Seconds are computed: a step of
  {step_s * 1e3:.0f} ms on one core, and then the bytes over the link, nothing overlapped.
- `alone` is one worker with its share of the batches and nobody to talk to; `longer` has a quarter
  more tokens than data parallel, so its gap is not one at equal tokens.
- An arm with one seed has run once; the command goes on where it was stopped.

![Reduction and gap of every arm](bytes_to_loss.png)

{markdown(rows, regime, step_s)}"""


def plot(rows: Sequence[Row], target: Path) -> None:
    """Reduction against gap, one point an arm; those that no other arm beats have their names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted({row.workers for row in rows})
    figure, panels = pyplot.subplots(
        1, len(sizes), figsize=(6.5 * len(sizes), 5.5), layout="constrained", squeeze=False
    )
    for axes, workers in zip(panels[0], sizes, strict=True):
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
        if not any(
            o.bytes_sent <= row.bytes_sent and o.gap <= row.gap and o is not row for o in sending
        )
    ]


def _family(row: Row) -> str:
    words = row.name.split()
    return " ".join(words[:2]) if words[0] == "DiLoCo" else words[0]
