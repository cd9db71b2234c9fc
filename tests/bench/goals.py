"""Goals of the benches: bounds on metrics, and which of them a run missed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound, itself allowed; None: there is none on that side."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


def list_missed(metrics: Mapping[str, Any], goals: Mapping[str, Goal]) -> list[str]:
    """Metrics beyond their goals; what was not measured is no miss."""
    return sorted(
        name for name, goal in goals.items() if name in metrics and not goal.holds(metrics[name])
    )
