"""What is counted of a request; Ray's metrics are recorded, not exported."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from foundry.infra.wire.frames import Usage
from foundry.monitoring import metrics
from foundry.monitoring.metrics import RayMeter, RaySearchMeter
from foundry.serving.endpoints.domain import Target
from tests.gateway.conftest import target


@dataclass
class Recorder:
    """Takes the place of Ray's classes: (metric, value, labels) of every call."""

    calls: list[tuple[str, float, dict[str, str]]] = field(default_factory=list)

    def metric(self, name: str, *_: Any) -> "Recording":
        return Recording(name, self)


@dataclass
class Recording:
    name: str
    recorder: Recorder

    def inc(self, value: float, labels: dict[str, str] | None = None) -> None:
        self.recorder.calls.append((self.name, value, labels or {}))

    observe = inc


@dataclass(frozen=True)
class Request:
    target: Target | None
    operation: str = "chat"
    end: str = "finished"
    usage: Usage | None = None
    ttft_s: float | None = None


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(metrics, "Counter", found.metric)
    monkeypatch.setattr(metrics, "Histogram", found.metric)
    return found


def test_a_request_counts_its_end_its_tokens_and_its_first_token(recorder: Recorder) -> None:
    RayMeter().settle(Request(target("smollm2"), usage=Usage(7, 5), ttft_s=0.1))
    labels = {"model": "smollm2", "operation": "chat"}
    assert recorder.calls == [
        ("foundry_requests_total", 1, labels | {"outcome": "finished"}),
        ("foundry_ttft_seconds", 0.1, labels),
        ("foundry_tokens_total", 7, labels | {"kind": "prompt"}),
        ("foundry_tokens_total", 5, labels | {"kind": "completion"}),
    ]


def test_a_name_that_nobody_resolved_is_no_label(recorder: Recorder) -> None:
    request = replace(Request(None), end="refused", usage=Usage(3, 0))
    RayMeter().settle(request)
    assert [(name, labels["model"]) for name, _, labels in recorder.calls] == [
        ("foundry_requests_total", ""),
        ("foundry_tokens_total", ""),
    ]


def test_searches_are_timed_by_how_they_ended(recorder: Recorder) -> None:
    meter = RaySearchMeter()
    meter.count_search(0.5, "done")
    meter.count_predictions(12)
    assert recorder.calls == [
        ("foundry_budsim_search_seconds", 0.5, {"outcome": "done"}),
        ("foundry_budsim_predictions_total", 12, {}),
    ]
