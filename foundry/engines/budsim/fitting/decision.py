"""LLM-Pilot's decision test (arXiv:2410.02425): the cheapest GPUs for a model never measured.

200 users; the median first token within 100 ms per input token and the median gap between tokens
within 50 ms. A profile takes as many users per pod as its last measured load before the first
violation; pods = ceil(200/users), cost = pods · price. One model is left out at a time.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundry.engines.budsim.fitting.rows import Rows, file_in
from foundry.engines.budsim.points import Column

USERS = 200
TTFT_MS_PER_TOKEN = 100.0
ITL_MS = 50.0
_PRICES = "llm_pilot_prices.csv"
_PROFILES = {
    "nvidia-t4-16gb": "T4",
    "nvidia-v100-16gb": "V100",
    "nvidia-a100-40gb": "A100",
    "nvidia-h100-80gb": "H100",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """One model's choice.

    Attributes:
        chosen, best: profiles like `2 x A100`; None: none was thought to meet the limits.
        success: the chosen pods really carry the users within the limits.
        overspend: of a successful choice, as a share of the true cheapest cost.
    """

    model: str
    chosen: str | None
    best: str
    success: bool
    overspend: float


@dataclass(frozen=True, slots=True)
class Score:
    """Shares over all models; `so` is the harmonic mean of success and 1 - overspend."""

    success: float
    overspend: float
    so: float
    decisions: tuple[Decision, ...]


def decide(rows: Rows, itl_s: Column, ttft_s: Column, data: Path) -> Score:
    """Score predictions of rows whose model was left out.

    Args:
        itl_s, ttft_s: (N,), medians; what the limits are judged on.
    """
    prices = _prices(data)
    truth = _users(rows, rows.targets["itl_ms"] / 1e3, rows.targets["ttft_ms"] / 1e3)
    thought = _users(rows, _growing(rows, itl_s), _growing(rows, ttft_s))
    found = [
        decision
        for model in np.unique(rows.model)
        if (decision := _decision(str(model), truth, thought, prices)) is not None
    ]
    success = float(np.mean([one.success for one in found]))
    spent = [one.overspend for one in found if one.success]
    overspend = float(np.mean(spent)) if spent else 0.0
    thrift = max(1.0 - overspend, 0.0)
    so = 2.0 * success * thrift / (success + thrift) if success + thrift else 0.0
    return Score(success, overspend, so, tuple(found))


def _decision(
    model: str,
    truth: Mapping[tuple[str, str], int],
    thought: Mapping[tuple[str, str], int],
    prices: Mapping[str, float],
) -> Decision | None:
    """None: no profile meets the limits, whatever is chosen."""

    def cheapest(users: Mapping[tuple[str, str], int]) -> tuple[float, str] | None:
        costs = [
            (_pods(count) * prices[profile], profile)
            for (name, profile), count in users.items()
            if name == model and count > 0 and profile in prices
        ]
        return min(costs, default=None)

    best, choice = cheapest(truth), cheapest(thought)
    if best is None:
        return None
    if choice is None:
        return Decision(model, None, best[1], False, 0.0)
    cost, profile = choice
    # The pods that were bought, each with what it really carries.
    success = _pods(thought[model, profile]) * truth[model, profile] >= USERS
    return Decision(model, profile, best[1], success, cost / best[0] - 1.0)


def _pods(users: int) -> int:
    return math.ceil(USERS / users)


def _users(rows: Rows, itl_s: Column, ttft_s: Column) -> dict[tuple[str, str], int]:
    """By model and profile: users of the last load before the first violation, 0 where none."""
    good = (itl_s * 1e3 <= ITL_MS) & (ttft_s * 1e3 <= TTFT_MS_PER_TOKEN * rows.points.input)
    found: dict[tuple[str, str], int] = {}
    for key, members in _groups(rows).items():
        users = 0
        for row in members:
            if not good[row]:
                break
            users = int(rows.points.batch[row])
        found[key] = users
    return found


def _growing(rows: Rows, seconds: Column) -> Column:
    """More users never make it faster: the running maximum over each profile's loads."""
    found = seconds.copy()
    for members in _groups(rows).values():
        found[members] = np.maximum.accumulate(seconds[members])
    return found


def _groups(rows: Rows) -> dict[tuple[str, str], Sequence[int]]:
    """Rows of each model and profile, by number of users."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in np.argsort(rows.points.batch, kind="stable"):
        profile = f"{int(rows.points.tp[row])} x {_PROFILES[str(rows.gpu[row])]}"
        found.setdefault((str(rows.model[row]), profile), []).append(int(row))
    return dict(found)


def _prices(data: Path) -> dict[str, float]:
    """$ per hour by profile."""
    with file_in(data, _PRICES).open() as file:
        return {row["GPU"]: float(row["price"]) for row in csv.DictReader(file)}
