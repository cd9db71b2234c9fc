"""From wire models to budsim's numbers and back. Blocking and pure: no database, no HTTP.

xgboost, deap and scipy come with the extra `budsim` and are loaded when something is computed.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypedDict

import orjson

from foundry.errors import InvalidConfiguration, InvalidRequest, UnsupportedFeature
from foundry.serving.recommendations.domain import Question, Versions

if TYPE_CHECKING:
    from foundry.engines.budsim.architecture import ModelSpec
    from foundry.engines.budsim.catalogue import Catalogue
    from foundry.engines.budsim.configuration import Configuration, Configurations
    from foundry.engines.budsim.explanation import Explains
    from foundry.engines.budsim.prediction import Predictions
    from foundry.engines.budsim.request import Request
    from foundry.engines.budsim.search.recommendation import Recommendation
    from foundry.serving.recommendations.learning import Learnt
    from foundry.serving.recommendations.schemas import (
        ConfigurationIn,
        Demand,
        PredictIn,
        ValidateIn,
    )


class Facts(TypedDict):
    catalogue: "Catalogue"
    predictor: "Explains"


_NEEDED = ("scipy", "xgboost", "deap")
_METRICS = ("ttft_p50_ms", "ttft_p95_ms", "tpot_ms", "latency_p95_ms", "throughput_tps")
_INTERVALS = (*_METRICS, "cost_per_mtok")
_CONFIDENCES = ("low", "medium", "high")
# Tokens of one request where none are named: more are rarely asked for, and cost memory.
_MAX_MODEL_LEN = 8192


def require_libraries() -> None:
    """Refuse to go on without budsim's libraries. Raises UnsupportedFeature."""
    if missing := [module for module in _NEEDED if find_spec(module) is None]:
        raise UnsupportedFeature(
            f"budsim needs {', '.join(missing)}, which this server lacks: install foundry[budsim]"
        )


def build_catalogue(prices: Mapping[str, float], learnt: "Learnt | None" = None) -> "Catalogue":
    """With what was probed here in the place of datasheets."""
    from foundry.engines.budsim.catalogue import Catalogue

    found = Catalogue.shipped()
    for name, measured in (learnt.probed if learnt is not None else {}).items():
        gpu = replace(found.gpu(name), **measured, source="measured here", verified=True)  # type: ignore[arg-type]
        found = found.with_gpu(gpu)
    return found.with_prices(dict(prices))


def choose_predictor(learnt: "Learnt | None" = None) -> "Explains":
    """The active model, under what deployments taught. A registered one must be loaded before;
    see `trained.ensure_model`."""
    model = choose_uncorrected_predictor(learnt)
    if learnt is None or not learnt.corrects:
        return model
    from foundry.serving.recommendations.correcting import CorrectedPredictor

    return CorrectedPredictor(model, learnt)


def choose_uncorrected_predictor(learnt: "Learnt | None" = None) -> "Explains":
    """The active model as it is."""
    from foundry.engines.budsim.predictor import Predictor

    if learnt is None or learnt.model is None:
        return Predictor.shipped()
    from foundry.serving.recommendations import trained

    return trained.load_model(learnt.model)


def read_versions(prices: Mapping[str, float], learnt: "Learnt | None" = None) -> Versions:
    """Catalogue and model that an answer comes from; corrections have a digest of their own."""
    named = learnt.model.name if learnt is not None and learnt.model is not None else None
    return Versions(
        build_catalogue(prices, learnt).digest(), named or choose_uncorrected_predictor().version
    )


def check_prices(changes: Mapping[str, float | None]) -> dict[str, float | None]:
    """By catalogue id, whatever the caller called the GPU.

    Raises:
        InvalidRequest: an unknown GPU, or a price that is not a positive number.
    """
    known = build_catalogue({})
    known.with_prices({gpu: price for gpu, price in changes.items() if price is not None})
    return {known.gpu(gpu).id: price for gpu, price in changes.items()}


def list_catalogue(
    prices: Mapping[str, float], learnt: "Learnt | None" = None
) -> dict[str, object]:
    found = build_catalogue(prices, learnt)
    return {"data": [to_plain(found.gpu(name)) for name in found.ids], "digest": found.digest()}


def recommend(question: Question) -> dict[str, object]:
    """The recommendation as plain JSON values."""
    require_libraries()
    from foundry.engines.budsim.search.recommend import recommend as search

    spec, facts = spec_of(question), facts_of(question)
    return explain_recommendation(question, spec, search(spec, question.request, **facts), facts)


def check_request(
    request: "Request", prices: Mapping[str, float], learnt: "Learnt | None" = None
) -> None:
    """What every search would refuse, whatever the model.

    Raises:
        InvalidRequest: names the field and what to do.
    """
    require_libraries()
    from foundry.engines.budsim.search.pricing import with_prices
    from foundry.engines.budsim.search.validation import validate_request

    catalogue = build_catalogue(prices, learnt)
    validate_request(with_prices(request, catalogue), catalogue)


def recommend_offline(
    config: Mapping[str, object], checkpoint_bytes: int | None, demand: "Demand"
) -> dict[str, object]:
    """The same without a server: nothing was learnt and no price was set."""
    return recommend(Question(config, checkpoint_bytes, demand.request(), {}))


def explain_recommendation(
    question: Question, spec: "ModelSpec", found: "Recommendation", facts: "Facts"
) -> dict[str, object]:
    """The answer and the numbers behind it, as plain JSON values; `explanation` is None where
    nothing fits."""
    from foundry.engines.budsim.explanation import explain
    from foundry.engines.budsim.search.pricing import with_prices

    reasons = None
    if found.choice is not None:
        chosen = found.choice.configuration
        request = with_prices(question.request, facts["catalogue"])
        reasons = to_plain(explain(spec, request, chosen, **facts).to_dict())
    shown: set[tuple[str, str]] = {
        (group.gpu, runtime)
        for group in question.request.cluster.groups
        for runtime in question.request.policy.runtimes
    }
    notes = [*found.notes, *_alarms(question.learnt, shown)]
    return {**found.to_dict(), "explanation": reasons, "notes": notes}


def _alarms(learnt: "Learnt | None", shown: set[tuple[str, str]]) -> list[str]:
    """Of these pairs of an accelerator and an engine."""
    if learnt is None:
        return []
    known = build_catalogue({})
    return list(learnt.notes({(known.gpu(gpu).id, engine) for gpu, engine in shown}))


def spec_of(question: Question) -> "ModelSpec":
    from foundry.engines.budsim.model_config import model_spec

    return model_spec(question.config, checkpoint_bytes=question.checkpoint_bytes)


def facts_of(question: Question) -> "Facts":
    """What every part of a search reads beside the question itself."""
    return {
        "catalogue": build_catalogue(question.prices, question.learnt),
        "predictor": choose_predictor(question.learnt),
    }


def predict_json(
    config: Mapping[str, object],
    checkpoint_bytes: int | None,
    prices: Mapping[str, float],
    asked: "PredictIn",
    learnt: "Learnt | None" = None,
) -> bytes:
    """JSON of a `PredictionList`, in the order of the configurations."""
    require_libraries()
    from foundry.engines.budsim.configuration import Configurations
    from foundry.engines.budsim.model_config import model_spec
    from foundry.engines.budsim.search.validation import model_length

    hardware = build_catalogue(prices, learnt)
    # Corrections and alarms go by id, whatever the caller called the GPU.
    ids = {row.gpu: hardware.gpu(row.gpu).id for row in asked.configurations}
    spec = model_spec(config, checkpoint_bytes=checkpoint_bytes)
    rows = [replace(configuration_of(row, spec), gpu=ids[row.gpu]) for row in asked.configurations]
    configurations = Configurations.of(rows)
    check_configurations(spec, configurations, lambda row: f"configurations.{row}")
    # Requests that the model does not hold have no latency.
    model_length(spec, asked.workload.workload(), None)
    found = choose_predictor(learnt).predict(
        spec,
        configurations,
        asked.workload.workload(),
        catalogue=hardware,
        groups=asked.cluster.cluster() if asked.cluster else None,
        confidence=asked.confidence,
        method=asked.method,
    )
    notes = _alarms(learnt, {(row.gpu, row.runtime) for row in rows})
    return orjson.dumps({"data": list(rows_of(found)), "notes": notes})


def validate_deployment(
    config: Mapping[str, object],
    checkpoint_bytes: int | None,
    prices: Mapping[str, float],
    asked: "ValidateIn",
    learnt: "Learnt | None" = None,
) -> dict[str, Any]:
    """A `ValidationOut` as plain JSON values.

    Raises:
        InvalidRequest: no cluster is given.
        InvalidConfiguration: `violations` of its details lists every JSON path and reason.
    """
    require_libraries()
    from foundry.engines.budsim import manual
    from foundry.engines.budsim.model_config import model_spec

    if asked.cluster is None:
        raise InvalidRequest("cluster: on which GPUs? Name the node groups", param="cluster")
    spec, model = model_spec(config, checkpoint_bytes=checkpoint_bytes), choose_predictor(learnt)
    found = manual.check(
        asked.deployment,
        spec,
        catalogue=build_catalogue(prices, learnt),
        cluster=asked.cluster.cluster(),
        workload=asked.workload.workload(),
        predictor=model,
        method=asked.method,
        confidence=asked.policy.confidence,
        targets=asked.targets.targets(),
    )
    if found.violations or found.configuration is None:
        broken = [asdict(one) for one in found.violations]
        raise InvalidConfiguration(
            "; ".join(f"{one['path']}: {one['reason']}" for one in broken), violations=broken
        )
    from foundry.engines.budsim.search.recommendation import endpoint_config, resources

    given = resources(spec, found.configuration, asked.cluster.cluster())
    return {
        "configuration": endpoint_config(found.configuration, given),
        "prediction": to_plain(found.prediction),
        "targets": to_plain(found.targets),
        "overloaded": found.overloaded,
        "warnings": [
            *(f"{one.path}: {one.reason}" for one in found.warnings),
            *_alarms(learnt, {(found.configuration.gpu, found.configuration.runtime)}),
        ],
        "predictor_version": model.version,
    }


def configuration_of(row: "ConfigurationIn", spec: "ModelSpec") -> "Configuration":
    from foundry.engines.budsim.configuration import Configuration

    longest = row.max_model_len or min(_MAX_MODEL_LEN, spec.max_length)
    return Configuration(**row.model_dump() | {"max_model_len": longest})


def check_configurations(
    spec: "ModelSpec", configurations: "Configurations", place: Callable[[int], str]
) -> None:
    """Refuse what no accelerator makes possible.

    Args:
        place: of a row in the question.
    Raises InvalidRequest: the model cannot be divided so, or its context is shorter.
    """
    from foundry.engines.budsim.search.rules import find_model_faults

    for row, field, reason in find_model_faults(spec, configurations):
        where = f"{place(row)}.{field}"
        raise InvalidRequest(f"{where}: {reason}", param=where)


def rows_of(found: "Predictions") -> Iterator[dict[str, object]]:
    """Predictions as plain dicts; by columns, which is 20 times faster than row by row."""
    from foundry.engines.budsim.prediction import NOVELTIES

    intervals = {
        name: [[_finite(value) for value in ends.tolist()] for ends in _ends(found, name)]
        for name in _INTERVALS
    }
    plain_columns = zip(
        found.cost_per_hour.tolist(),
        found.fits.tolist(),
        found.slots.tolist(),
        found.utilization.tolist(),
        found.novelty.tolist(),
        found.confidence.tolist(),
        strict=True,
    )
    for index, (cost, fits, slots, utilization, novelty, confidence) in enumerate(plain_columns):
        yield {
            **{
                name: {"low": low[index], "point": point[index], "high": high[index]}
                for name, (low, point, high) in intervals.items()
            },
            "cost_per_hour": _finite(cost),
            "fits": fits,
            "slots": slots,
            "utilization": _finite(utilization),
            "novelty": NOVELTIES[novelty],
            "confidence": _CONFIDENCES[confidence],
        }


def to_plain(value: object) -> Any:
    """JSON types only; what is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return _finite(value) if isinstance(value, float) else value


def _ends(found: "Predictions", name: str) -> tuple[Any, Any, Any]:
    estimates = getattr(found, name)
    return estimates.low, estimates.point, estimates.high


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
