"""The targets, their competing members and the blends that were thought of."""

from pathlib import Path

import numpy as np

from foundry.engines.budsim.calibration import Kind
from foundry.engines.budsim.ensemble import FeatureSet, Member
from foundry.engines.budsim.fitting.rows import Rows, pilot_rows, serving_rows, static_rows
from foundry.engines.budsim.fitting.study import FEW_ROWS, MANY_ROWS, Blend, Study, Trees


def _regressors(base: Kind, *, robust: bool = False, room: bool = False) -> dict[str, Member]:
    """The four regressors on one calibration, by form and features."""
    kinds: dict[str, FeatureSet] = {"full": "full", "lean": "lean"}
    if room:
        kinds = {"full": "full with room", "lean": "lean with room"}
    return {
        f"{form} {name}": Member(base, kind, residual=form == "residual", robust=robust)
        for form in ("raw", "residual")
        for name, kind in kinds.items()
    }


def _mean(*members: Member) -> Blend:
    """Equal weights; a member named twice counts twice."""
    weights: dict[str, float] = {}
    for member in members:
        weights[member.name] = weights.get(member.name, 0.0) + 1.0 / len(members)
    return weights


def _plain(
    name: str, rows: Rows, target: str, base: Kind, trees: Trees = MANY_ROWS, *, room: bool = False
) -> Study:
    prior, found = Member(base), _regressors(base, room=room)
    raw, lean = found["raw full"], found["raw lean"]
    residual, ratio = found["residual full"], found["residual lean"]
    return Study(
        name,
        rows,
        np.log(rows.targets[target] / 1e3),
        (prior, *found.values()),
        {
            "prior": _mean(prior),
            "raw": _mean(raw),
            "residual": _mean(residual),
            "lean residual": _mean(ratio),
            "raw + lean raw": _mean(raw, lean),
            "raw + lean residual": _mean(raw, ratio),
            "residuals": _mean(residual, ratio),
            "lean + prior": _mean(lean, ratio, prior, prior),
            "all": _mean(raw, lean, residual, ratio),
        },
        trees,
    )


def tpot_study(rows: Rows) -> Study:
    return _plain("tpot", rows, "tpot_ms", "step")


def ttft_study(rows: Rows) -> Study:
    """Dated calibrations know the engines' progress; undated ones do not take it for hardware."""
    dated, undated = _regressors("dated_first_token"), _regressors("first_token", robust=True)
    prior = Member("first_token")
    late = (dated["raw full"], dated["residual lean"], dated["raw lean"])
    return Study(
        "ttft",
        rows,
        np.log(rows.targets["ttft_ms"] / 1e3),
        (prior, *late, *undated.values()),
        {
            "prior": _mean(prior),
            "dated raw": _mean(late[0]),
            "dated": _mean(*late),
            "dated raw + lean residual": _mean(late[0], late[1]),
            "undated": _mean(*undated.values()),
            "undated residual": _mean(undated["residual full"]),
            "undated + prior": _mean(*undated.values(), prior, prior),
            "both": _mean(late[0], late[1], undated["raw full"], undated["residual lean"]),
        },
    )


def serving_studies(directory: Path) -> tuple[Study, Study]:
    rows = serving_rows(directory)
    return tpot_study(rows), ttft_study(rows)


def pilot_studies(directory: Path, *, room: bool = False) -> tuple[Study, Study]:
    """LLM-Pilot's inter-token latency and first token, medians.

    Args:
        room: also look at what memory is left, which decides how many users a pod takes.
    """
    rows = pilot_rows(directory)
    return (
        _plain("pilot itl", rows, "itl_ms", "step", FEW_ROWS, room=room),
        _plain("pilot ttft", rows, "ttft_ms", "first_token", FEW_ROWS, room=room),
    )


def static_study(directory: Path) -> Study:
    return _plain("static latency", static_rows(directory), "latency_ms", "static")
