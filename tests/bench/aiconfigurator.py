"""aiconfigurator's predictions of the serving rows, made in an environment of its own."""

import hashlib
import json
import subprocess
import sys
import time
import venv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foundry.config import child_environment, load_settings
from foundry.engines.budsim.fitting.rows import Row, serving_measurements, serving_rows
from foundry.engines.budsim.points import Column

PEERS = Path(__file__).parent / "peers"
# Other labels of the same weights' shape.
_SAME = {
    "DeepSeek-R1-NVFP4": "DeepSeek-R1",
    "DeepSeek-V3.1-NVFP4": "DeepSeek-V3",
    "Qwen3-32B-NVFP4": "Qwen3-32B",
}
_SIZES = ("isl", "osl", "batch_size", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")


@dataclass(frozen=True)
class PeerEstimates:
    """Aligned with `serving_rows`.

    Attributes:
        ttft_s, tpot_s: (N,), NaN where the peer has no estimate.
        failures: measurements without an estimate, by reason.
        seconds: what all estimates took, loading included.
    """

    ttft_s: Column
    tpot_s: Column
    failures: Mapping[str, int]
    seconds: float


def peer_python(cache: Path) -> Path:
    """aiconfigurator's environment: made once per set of pins."""
    requirements = PEERS / "aiconfigurator.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    target = cache / f"aiconfigurator-venv-{digest}"
    python = target / "bin" / "python"
    ready = target / "ready"
    if not ready.is_file():
        print(f"creating {target}", file=sys.stderr, flush=True)
        venv.create(target, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "-r", requirements],
            check=True,
            stdout=sys.stderr,
        )
        # The package ships end-to-end measurements of families on which Foundry is judged unseen:
        # they go before anything can read them. Its estimates come from kernel tables, not these.
        for sample in target.rglob("silicon_sample*"):
            sample.unlink()
        ready.touch()
    return python


def estimates(directory: Path) -> PeerEstimates:
    """The peer's estimate of every configuration; of repeated measurements, the median."""
    cache = load_settings().home / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    measured = list(serving_measurements(directory))
    python = peer_python(cache)
    started = time.perf_counter()
    answer = subprocess.run(
        [python, PEERS / "aiconfigurator_predict.py"],
        check=True,
        input=json.dumps([_question(row) for row, _ in measured]),
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(HF_HUB_OFFLINE="1"),
    )
    seconds = time.perf_counter() - started
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    by_label: dict[str, list[tuple[float, float]]] = {label: [] for _, label in measured}
    for (_, label), one in zip(measured, found, strict=True):
        if "reason" not in one:
            by_label[label].append((one["ttft_ms"] / 1e3, one["tpot_ms"] / 1e3))
    labels = serving_rows(directory).configuration
    pairs = [
        np.median(by_label[label], axis=0) if by_label[label] else (np.nan, np.nan)
        for label in labels
    ]
    ttft, tpot = np.asarray(pairs, dtype=np.float64).T
    return PeerEstimates(ttft, tpot, Counter(o["reason"] for o in found if "reason" in o), seconds)


def _question(row: Row) -> dict[str, str | int]:
    model = row["model_path"].rpartition("/")[2]
    # Blank or 0 is 1: a dense model has no experts to divide.
    sizes = {name: max(int(row[name] or 1), 1) for name in _SIZES}
    names = {name: row[name] for name in ("precision", "system", "backend")}
    return {"model": _SAME.get(model, model), **names, **sizes}
