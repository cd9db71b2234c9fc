"""`make bench NAME=budsim`: accuracy on data left out, decisions, search, loop and simulator.

Reads the benchmark files that FOUNDRY_BUDSIM_DATA names. Grouped scores come from fresh fits with
the group left out; the random split is printed as `flattering_*`. `aiconfigurator` predicts the
same rows in an environment of its own. Errors in %, ratios and shares as fractions.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from foundry.config import load_settings
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configurations
from foundry.engines.budsim.fitting.coverage import coverage
from foundry.engines.budsim.fitting.decision import decide
from foundry.engines.budsim.fitting.fit import IMITATES, SEEDS
from foundry.engines.budsim.fitting.studies import pilot_studies, serving_studies, static_study
from foundry.engines.budsim.fitting.study import Outcome, Study, judge, mdape, out_of_fold
from foundry.engines.budsim.predictor import Predictor
from foundry.engines.budsim.request import ClusterSpec, NodeGroup, Policy, Request, Targets
from foundry.engines.budsim.search.archive import feasible_front
from foundry.engines.budsim.search.evaluation import Evaluator, concatenate
from foundry.engines.budsim.search.evolution import evolve
from foundry.engines.budsim.search.exhaustive import exhaust
from foundry.engines.budsim.search.front import hypervolume_ratio
from foundry.engines.budsim.search.genome import Space, islands, space
from foundry.engines.budsim.search.recommend import recommend
from foundry.errors import SetupError
from tests.bench import aiconfigurator
from tests.engines.budsim.loop_simulation import closed_loop
from tests.engines.budsim.queueing_reference import queueing_error
from tests.fakes.models import LLAMA_8B, LLAMA_70B
from tests.fakes.questions import CHAT, random_model, random_request

SPLITS = ("random", "family and tp", *IMITATES.values())
# Kinds of questions whose intervals must hold; two engines cannot calibrate a third one's TTFT.
# Kinds of question: what was left out of the training.
KINDS = ("GPU", "GPU and engine pair", "family", "model")
# The median of fewer rows is an accident.
FEWEST_ROWS = 10
COVERED = ("family", "GPU and engine pair", "GPU", "model")
QUESTIONS = 30
ROUNDS = 5

# An 8-node mixed cluster.
CLUSTER = ClusterSpec(
    (
        NodeGroup("nvidia-h100-80gb", gpus_per_node=8, nodes=2),
        NodeGroup("nvidia-a100-80gb", gpus_per_node=8, nodes=2),
        NodeGroup("nvidia-l40s-48gb", gpus_per_node=8, nodes=2),
        NodeGroup("nvidia-l4-24gb", gpus_per_node=4, nodes=2),
    )
)
WIDE = Policy(quantizations=("none", "fp8", "int8", "int4"), kv_dtypes=("auto", "fp8"))
TARGETS = Targets(max_ttft_ms=20_000.0, max_tpot_ms=150.0)
HOPPER = ("nvidia-h100-80gb", "nvidia-h200-141gb")
GPUS = tuple(group.gpu for group in CLUSTER.groups)

Metrics = dict[str, float]


def accuracy(data: Path) -> tuple[Metrics, dict[str, dict[str, Outcome]]]:
    """Every gate of the design page, and the issue's own names for some of them."""
    judged: dict[str, dict[str, Outcome]] = {}
    for study in serving_studies(data):
        judged[study.name] = _judged(study, SPLITS)
    for study in pilot_studies(data):
        judged[study.name] = _judged(study, ("GPU", "model"))
    static = static_study(data)
    judged[static.name] = _judged(static, ("family", "GPU and engine pair", "model"))
    metrics = {
        f"{_key(name)}_{_key(split)}": outcome.scores[outcome.best]
        for name, splits in judged.items()
        for split, outcome in splits.items()
    }
    for name in ("tpot", "ttft"):
        metrics[f"flattering_{name}_mdape_random"] = metrics.pop(f"{name}_random")
        metrics[f"{name}_mdape_heldout"] = metrics.pop(f"{name}_family")
        metrics[f"{name}_mdape_unseen_gpu"] = metrics.pop(f"{name}_gpu")
        metrics[f"{name}_mdape_unseen_model"] = metrics.pop(f"{name}_model")
    for name in ("tpot", "ttft"):
        for split in KINDS:
            outcome = judged[name][split]
            metrics[f"{name}_worst_{_key(split)}"] = find_worst_group(outcome)[1]
            metrics[f"{name}_inside_{_key(split)}"] = coverage(outcome)["mean"]
    shares = {
        (name, split): coverage(judged[name][split])["mean"]
        for name in ("tpot", "ttft")
        for split in COVERED
    }
    metrics["interval_coverage"] = statistics.mean(shares.values())
    metrics["interval_coverage_lowest_split"] = min(shares.values())
    return metrics, judged


def find_worst_group(outcome: Outcome) -> tuple[str, float]:
    """The group that was left out and predicted worst, and its MdAPE in %."""
    errors = {
        str(name): mdape(outcome.residuals[own])
        for name in np.unique(outcome.groups)
        if (own := outcome.groups == name).sum() >= FEWEST_ROWS
    }
    worst = max(errors, key=lambda name: errors[name])
    return worst, errors[worst]


def _judged(study: Study, splits: tuple[str, ...]) -> dict[str, Outcome]:
    found = {}
    for split in splits:
        found[split] = judge(study, split, SEEDS if split == "family" else SEEDS[:1])
        best = found[split].best
        group, error = find_worst_group(found[split])
        _tell(
            f"{study.name}, {split}: {found[split].scores[best]:.1f} % ({best}); "
            f"worst {group}: {error:.1f} %"
        )
    return found


def throughput(data: Path) -> Metrics:
    """LLM-Pilot's throughput by Little's law from the two latencies; MdAPE, %."""
    itl, ttft = pilot_studies(data)
    rows = itl.rows
    found = {}
    for split in ("GPU", "model"):
        gap, first = (_best(study, split) for study in (itl, ttft))
        points = rows.points
        rate = points.batch / (np.exp(first) + points.output * np.exp(gap))
        error = np.log(rate * points.output) - np.log(rows.targets["throughput_tps"])
        found[f"pilot_throughput_{_key(split)}"] = mdape(error)
    return found


def _best(study: Study, split: str) -> np.ndarray:
    """Out-of-sample logs of the blend that wins the split."""
    found = out_of_fold(study, split)
    return found[min(found, key=lambda name: mdape(found[name] - study.log_target))]


def decision(data: Path) -> Metrics:
    """LLM-Pilot's test, one model left out at a time; judged on point predictions as it does."""
    itl, ttft = pilot_studies(data, room=True)
    gap, first = np.exp(_best(itl, "model")), np.exp(_best(ttft, "model"))
    score = decide(itl.rows, gap, first, data)
    for one in score.decisions:
        _tell(
            f"{one.model}: {one.chosen} (best {one.best}), {'meets' if one.success else 'misses'}"
        )
    return {
        "llm_pilot_success": score.success,
        "llm_pilot_overspend": score.overspend,
        "llm_pilot_so": score.so,
        "llm_pilot_models": float(len(score.decisions)),
    }


def search() -> Metrics:
    """One core: the boosters have one thread, and numpy has little to share out."""
    catalogue = Catalogue.shipped()
    seconds = {}
    for name, spec, policy in (("", LLAMA_8B, Policy()), ("_wide", LLAMA_70B, WIDE)):
        request = Request(CHAT, CLUSTER, TARGETS, policy)
        seconds[f"recommend_s{name}"] = statistics.median(
            _timed(lambda: recommend(spec, request, catalogue=catalogue, predictor=_fresh()))  # noqa: B023
            for _ in range(ROUNDS)
        )
    evaluator = Evaluator(LLAMA_8B, Request(CHAT, CLUSTER, TARGETS, WIDE), catalogue, _fresh())
    every = _everything(evaluator)
    rate = statistics.median(len(every) / _timed(lambda: _predict(every)) for _ in range(ROUNDS))
    return {**seconds, "configs_per_s": rate, "configs": float(len(every)), **quality(catalogue)}


def quality(catalogue: Catalogue) -> Metrics:
    """The evolution against every configuration, on random questions that can be met."""
    rng, predictor = np.random.default_rng(23), Predictor.shipped()
    volumes: list[float] = []
    costs: list[float] = []
    while len(volumes) < QUESTIONS:
        evaluator = Evaluator(random_model(rng), random_request(rng, GPUS), catalogue, predictor)
        spaces = _spaces(evaluator)
        if all(one.empty for one in spaces):
            continue
        true = feasible_front(exhaust(evaluator, spaces))
        if not len(true):
            continue
        found = feasible_front(evolve(evaluator, spaces, seed=str(len(volumes))))
        volumes.append(hypervolume_ratio(found, true) if len(found) else 0.0)
        costs.append(float(found[:, 0].min() / true[:, 0].min()) if len(found) else np.inf)
    return {
        "hypervolume_ratio": statistics.median(volumes),
        "hypervolume_ratio_worst": min(volumes),
        "cost_ratio_worst": max(costs),
    }


def against_peer(data: Path, judged: Mapping[str, Mapping[str, Outcome]]) -> Metrics:
    """Error ratios on rows that both can predict, our families held out; the peer has seen them."""
    peer = aiconfigurator.estimates(data)
    found: Metrics = {}
    for study, theirs in zip(serving_studies(data), (peer.tpot_s, peer.ttft_s), strict=True):
        ours = judged[study.name]["family"].residuals
        error = np.log(theirs) - study.log_target
        known = np.isfinite(theirs)
        hopper = known & np.isin(study.rows.gpu, HOPPER)
        for suffix, rows in (("", known), ("_hopper", hopper)):
            found[f"aiconfigurator_{study.name}_mdape{suffix}"] = mdape(error[rows])
            found[f"vs_aiconfigurator_{study.name}{suffix}"] = mdape(-ours[rows]) / mdape(
                error[rows]
            )
            found[f"aiconfigurator_rows{suffix}"] = float(rows.sum())
    return found


def _fresh() -> Predictor:
    """The shipped version without the curves that earlier questions left."""
    return Predictor(Predictor.shipped().artifact)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _everything(evaluator: Evaluator) -> Configurations:
    return concatenate([one.decode(one.everything()) for one in _spaces(evaluator)])


def _spaces(evaluator: Evaluator) -> list[Space]:
    request = evaluator.request
    return [space(evaluator.ground(), request, one, 4096) for one in islands(request)]


def _predict(rows: Configurations) -> object:
    return _fresh().predict(LLAMA_8B, rows, CHAT, catalogue=Catalogue.shipped())


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _key(text: str) -> str:
    return text.lower().replace(" ", "_")


def main() -> None:
    data = load_settings().budsim_data
    if data is None:
        raise SetupError("set FOUNDRY_BUDSIM_DATA to the folder of the benchmark files")
    metrics, judged = accuracy(data)
    metrics |= throughput(data) | decision(data) | search()
    metrics |= {f"loop_{name}": value for name, value in closed_loop().items()}
    metrics |= {f"simulator_{name}": 100 * value for name, value in queueing_error().items()}
    metrics |= against_peer(data, judged)
    shown = {name: round(value, 4) for name, value in sorted(metrics.items())}
    print(json.dumps({"bench": "budsim", "metrics": shown}))


if __name__ == "__main__":
    main()
