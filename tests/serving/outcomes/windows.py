"""Windows, forecasts and disturbances that a test decides."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from foundry.infra.database import Database
from foundry.serving.outcomes.domain import Forecast, Load, Statistics, WindowPart
from foundry.serving.outcomes.service import Closing, GatewayWindows

WINDOW_S = 900.0
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
TENANT = UUID("00000000-0000-7000-8000-00000000000a")
ENDPOINT = UUID("00000000-0000-7000-8000-00000000000e")
VERSION = "0.29.0"


def statistics(n: int = 200, tpot_ms: float = 40.0, ttft_ms: float = 200.0) -> Statistics:
    """`n` streamed requests of 100 tokens in and 11 out, two at a time."""
    found = Statistics()
    duration_s = (ttft_ms + 10 * tpot_ms) / 1e3
    for _ in range(n):
        found.answered(100, 11, ttft_ms / 1e3, duration_s)
    found.in_flight_s = n * duration_s
    found.busy_s = found.in_flight_s / 2
    return found


def part(
    index: int = 0,
    found: Statistics | None = None,
    *,
    endpoint: UUID = ENDPOINT,
    revision: int = 1,
    replica: UUID | None = None,
    version: str = VERSION,
) -> WindowPart:
    return WindowPart(
        tenant_id=TENANT,
        endpoint_id=endpoint,
        revision=revision,
        started_at=START + timedelta(seconds=index * WINDOW_S),
        window_s=WINDOW_S,
        replica=replica or uuid4(),
        engine_version=version,
        statistics=found or statistics(),
    )


@dataclass
class FakeForecasts:
    """Predicts TPOT and TTFT, whatever the load.

    Attributes:
        fault: raised for endpoint `broken`; asked: loads it was asked about.
    """

    tpot_ms: float = 40.0
    ttft_ms: float = 200.0
    width: float = 1.2
    gpu: str = "cpu"
    unknown: bool = False
    fault: Exception | None = None
    broken: UUID | None = None
    asked: list[Load] = field(default_factory=list)

    async def forecast(self, endpoint_id: UUID, revision: int, load: Load) -> Forecast | None:
        self.asked.append(load)
        if self.fault is not None and endpoint_id == (self.broken or endpoint_id):
            raise self.fault
        if self.unknown:
            return None
        predicted = {
            name: (point / self.width, point, point * self.width)
            for name, point in (("tpot_ms", self.tpot_ms), ("ttft_p50_ms", self.ttft_ms))
        }
        predicted["latency_p95_ms"] = (1.0, 2.0, float("inf"))
        return Forecast(
            gpu=self.gpu,
            engine="vllm",
            engine_version=VERSION,
            configuration={"max_num_seqs": 16},
            predictor_version="1",
            predicted=predicted,
            applied={"tpot_ms": (1.0, 1.0)},
        )


@dataclass
class FakeDisturbances:
    at: list[datetime] = field(default_factory=list)

    async def was_disturbed(
        self, tenant_id: UUID, endpoint_id: UUID, since: datetime, until: datetime
    ) -> bool:
        return any(since <= moment <= until for moment in self.at)


class Clerk:
    """A gateway that writes windows and a supervisor that closes them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.forecasts, self.disturbances = FakeForecasts(), FakeDisturbances()
        self.gateway = GatewayWindows(database)
        self.closing = Closing(database, self.forecasts, self.disturbances, min_requests=200)

    async def write(self, *parts: WindowPart) -> None:
        await self.gateway.write(parts)

    async def close(self, after_windows: float = 20) -> int:
        return await self.closing.close_windows(START + timedelta(seconds=after_windows * WINDOW_S))
