"""What services count, as Ray metrics, which every node's agent exports to Prometheus."""

from typing import Protocol

from ray.util.metrics import Counter, Histogram

from foundry.infra.wire.frames import Usage
from foundry.serving.endpoints.domain import Target

_TTFT_S = [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0]
_SEARCH_S = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]


class Settled(Protocol):
    """What is counted of a request that has ended; the gateway's `Settlement` is one."""

    @property
    def target(self) -> Target | None: ...

    @property
    def operation(self) -> str: ...

    @property
    def end(self) -> str: ...

    @property
    def usage(self) -> Usage | None: ...

    @property
    def ttft_s(self) -> float | None: ...


class RayMeter:
    """Counts requests, tokens and times to the first token."""

    def __init__(self) -> None:
        labels = ("model", "operation")
        self._requests = Counter(
            "foundry_requests_total", "Requests by how they ended", (*labels, "outcome")
        )
        self._tokens = Counter(
            "foundry_tokens_total", "Tokens settled, prompt or completion", (*labels, "kind")
        )
        self._ttft = Histogram(
            "foundry_ttft_seconds", "Arrival to the engine's first token", _TTFT_S, labels
        )

    def settle(self, settlement: Settled) -> None:
        labels = {
            # A name that was not resolved is the caller's text and must not become a label.
            "model": settlement.target.model_name if settlement.target else "",
            "operation": settlement.operation,
        }
        self._requests.inc(1, labels | {"outcome": settlement.end})
        if settlement.ttft_s is not None:
            self._ttft.observe(settlement.ttft_s, labels)
        usage = settlement.usage
        if usage is None:
            return
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
        ):
            if count:
                self._tokens.inc(count, labels | {"kind": kind})


class RaySearchMeter:
    """budsim's searches and predictions."""

    def __init__(self) -> None:
        self._searches = Histogram(
            "foundry_budsim_search_seconds", "Length of searches", _SEARCH_S, ("outcome",)
        )
        self._predictions = Counter(
            "foundry_budsim_predictions_total", "Configurations predicted on request"
        )

    def count_search(self, seconds: float, outcome: str) -> None:
        self._searches.observe(seconds, {"outcome": outcome})

    def count_predictions(self, count: int) -> None:
        self._predictions.inc(count)
