"""How well predictions hold, as Ray metrics, which every node's agent exports to Prometheus."""

from ray.util.metrics import Gauge

from foundry.infra.database import Database
from foundry.serving.outcomes.service import Pair, measure_staleness

_LABELS = ("gpu", "engine", "engine_version")


class Accuracy:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._stale: set[Pair] = set()
        self._ape = Gauge(
            "foundry_budsim_ape_ratio",
            "Median error of the last hour's predictions, the worse of TTFT and TPOT",
            _LABELS,
        )
        self._coverage = Gauge(
            "foundry_budsim_coverage_ratio",
            "Share of the newest windows inside their predicted intervals",
            _LABELS,
        )

    async def publish(self) -> bool:
        """Whether an alarm has gone on since the last time."""
        async with self._database.begin() as db:
            found = await measure_staleness(db)
        for pair, alarm in found.items():
            labels = dict(zip(_LABELS, pair, strict=True))
            if alarm.median_ape is not None:
                self._ape.set(alarm.median_ape, labels)
            if alarm.coverage is not None:
                self._coverage.set(alarm.coverage, labels)
        before, self._stale = self._stale, {pair for pair, alarm in found.items() if alarm.stale}
        return not self._stale <= before
