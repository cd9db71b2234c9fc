"""The arithmetic of the communication benchmark, on curves that were made up."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from foundry.engines.training.diloco.config import E3m0
from tests.bench.bytes_to_loss import REGIME, best_rates, frontier, quick, sweep
from tests.bench.frontier import Arm, Curve, Kind, Point, diloco
from tests.bench.frontier_report import (
    best_reduction,
    markdown,
    page,
    plot,
    table,
    unbeaten,
    wall_time_s,
)


def curve(name: str, seed: int, *points: tuple[int, int, float]) -> Curve:
    kind: Kind = "ddp-bf16" if name == "ddp-bf16" else "diloco"
    return Curve(name, kind, 2, seed, tuple(Point(*point) for point in points))


CURVES = [
    curve("ddp-bf16", 0, (50, 5000, 2.0), (100, 10_000, 1.0)),
    curve("ddp-bf16", 1, (50, 5000, 2.0), (100, 10_000, 1.25)),
    curve("close", 0, (50, 50, 1.125), (100, 100, 1.0)),
    curve("close", 1, (50, 50, 1.2), (100, 100, 1.125)),
    curve("far", 0, (100, 10, 1.5)),
    curve("far", 1, (100, 10, 1.5)),
]


def test_gaps_are_of_pairs_and_reductions_of_whole_runs() -> None:
    ddp, close, far = table(CURVES)
    assert (ddp.name, ddp.gap, ddp.reduction, ddp.bytes_sent) == ("ddp-bf16", 0.0, 1.0, 10_000)
    assert close.gap == pytest.approx((0.0 - 10.0) / 2)
    assert close.reduction == 100
    assert far.gap == pytest.approx((50.0 + 20.0) / 2)
    assert far.reduction == 1000


def test_the_target_is_data_parallels_mean_final_loss() -> None:
    ddp, close, far = table(CURVES)
    # The mean is 1.125: the seeds of `close` are there after 50 and 100 steps, 75 bytes on average.
    assert close.to_target == pytest.approx(10_000 / 75)
    assert close.tokens_to_target == pytest.approx(0.75)
    assert ddp.to_target is None, "one of its own seeds ends above the mean"
    assert far.to_target is None


def test_the_best_reduction_is_within_the_gap() -> None:
    rows = table(CURVES)
    assert best_reduction(rows, 1.0) == 100
    assert best_reduction(rows, 40.0) == 1000
    assert best_reduction(rows, -6.0) == 0.0


def test_an_arm_is_beaten_by_one_that_sends_less_at_no_greater_gap() -> None:
    better = [curve("better", seed, (100, 50, 1.0)) for seed in (0, 1)]
    rows = table([*CURVES, *better])
    assert [row.name for row in unbeaten(rows)] == ["better", "far"]


def test_wall_time_adds_sending_to_training() -> None:
    close = table(CURVES)[1]
    # 100 steps of 0.5 s, and 100 bytes at 8 bits over 1,000 bits a second.
    assert wall_time_s(close, 100, 0.5, 0.001) == pytest.approx(50.8)


def test_what_was_not_reached_says_so() -> None:
    lines = markdown(table(CURVES), REGIME, 0.1).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert "1,000.0x | not reached | not reached" in lines[4]


def test_the_page_holds_the_table_and_the_plot_is_drawn(tmp_path: Path) -> None:
    rows = table(CURVES)
    text = page(rows, REGIME, 0.1, "ab" * 32)
    assert markdown(rows, REGIME, 0.1) in text
    assert "(SHA-256 abababababab…)" in text
    plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_an_arm_is_known_by_what_decides_its_curve() -> None:
    one = diloco("a name", 2, 0, 10, E3m0())
    assert one.key(REGIME) == diloco("another name", 2, 0, 10, E3m0()).key(REGIME)
    assert one.key(REGIME) != diloco("a name", 2, 1, 10, E3m0()).key(REGIME)
    assert one.key(REGIME) != diloco("a name", 2, 0, 25, E3m0()).key(REGIME)


def made_up(arms: Sequence[Arm]) -> dict[Arm, Curve]:
    """With two workers the lesser outer rate is the better one, with four the greater."""

    def loss(arm: Arm) -> float:
        rate = arm.outer.lr if arm.outer else 0.0
        return rate if arm.workers == 2 else -rate

    return {a: Curve(a.name, a.kind, a.workers, a.seed, (Point(1, 1, loss(a)),)) for a in arms}


def test_the_whole_frontier_is_what_the_benchmark_defines() -> None:
    arms = list(frontier(made_up))
    assert len({arm.key(REGIME) for arm in arms}) == len(arms)
    assert arms[: len(quick())] == quick()
    for workers, seed in ((n, s) for n in (2, 4) for s in (0, 1, 2)):
        mine = [arm for arm in arms if (arm.workers, arm.seed) == (workers, seed)]
        assert {arm.kind for arm in mine} == {"ddp-bf16", "ddp-fp32", "alone", "diloco"}
        outers = [arm.outer for arm in mine if arm.outer and arm.outer.momentum]
        for kind in ("fp32", "bf16", "int8", "e3m0"):
            grid = [o for o in outers if o.codec.kind == kind and o.fragments == 1]
            assert {o.inner_steps for o in grid} == {10, 25, 50, 100, 500}
            best = 0.4 if workers == 2 else 0.7
            assert {o.lr for o in grid} == {best} | (
                {0.4, 0.7} if kind == "e3m0" and not seed else set()
            )
        assert sum(o.fragments > 1 for o in outers) == 2


def test_half_a_sweep_decides_nothing() -> None:
    arms = sweep(2)
    assert len(best_rates(made_up(arms))) == 5
    assert set(best_rates(made_up(arms[:-1]))) == {(2, h) for h in (10, 25, 50, 100)}


def test_more_tokens_are_no_reduction_at_equal_tokens() -> None:
    longer = [
        curve("longer", 0, (100, 40, 1.2), (125, 50, 1.0)),
        curve("longer", 1, (100, 40, 1.2), (125, 50, 1.1)),
    ]
    rows = {row.name: row for row in table([*CURVES, *longer])}
    assert rows["longer"].tokens == 1.25
    assert rows["longer"].to_target == pytest.approx(10_000 / 50)
    assert rows["longer"].tokens_to_target == pytest.approx(1.25)
    assert best_reduction(rows.values(), 1.0) == 100
    # 125 steps of 0.5 s, and 50 bytes.
    assert wall_time_s(rows["longer"], 100, 0.5, 0.001) == pytest.approx(62.9)
