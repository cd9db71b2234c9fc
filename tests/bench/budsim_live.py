"""`make bench NAME=budsim_live`: SmolLM2 on this machine, before and after a short load test.

Errors are in %, coverage is a share of the levels.
"""

import json
import statistics
import subprocess
import sys
from typing import Any

from foundry.config import Settings, child_environment
from tests.bench.stack import fresh_home

MODEL = "smollm2-135m"
METRICS = ("ttft_p50_ms", "tpot_ms")
LOAD = ("--concurrency", "1,4,8", "--requests", "16", "--output-tokens", "48")
# The first two teach; FULL_REQUESTS of each level make a window count in full.
ROUNDS = 3


def main() -> None:
    with fresh_home() as settings:
        for command in (
            ("up",),
            ("models", "import", MODEL, f"bundled:{MODEL}"),
            ("deploy", MODEL),
        ):
            _foundry(settings, *command)
        rounds = [
            json.loads(_foundry(settings, "budsim", "recalibrate", MODEL, *LOAD, "--json"))
            for _ in range(ROUNDS)
        ]
    first, last = rounds[0]["levels"], rounds[-1]["levels"]
    metrics: dict[str, float] = {"levels": len(last)}
    for name in METRICS:
        metrics[f"{name}_mdape_before"] = _mdape(first, name)
        metrics[f"{name}_mdape_after"] = _mdape(last, name)
        metrics[f"{name}_covered_after"] = statistics.mean(_inside(one, name) for one in last)
    shown = {name: round(value, 4) for name, value in metrics.items()}
    print(json.dumps({"bench": "budsim_live", "metrics": shown}))


def _foundry(settings: Settings, *command: str) -> str:
    """The command's standard output; its complaints go to ours."""
    environment = child_environment(
        FOUNDRY_HOME=str(settings.home),
        FOUNDRY_HTTP__PORT=str(settings.http.port),
        FOUNDRY_RAY__PORT=str(settings.ray.port),
        FOUNDRY_RAY__DASHBOARD_PORT=str(settings.ray.dashboard_port),
    )
    return subprocess.run(
        [sys.executable, "-m", "foundry.cli.main", *command],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def _mdape(levels: list[dict[str, Any]], metric: str) -> float:
    errors = [abs(one["predicted"][metric][1] / one["actual"][metric] - 1.0) for one in levels]
    return float(100.0 * statistics.median(errors))


def _inside(level: dict[str, Any], metric: str) -> float:
    low, _, high = level["predicted"][metric]
    return float(low <= level["actual"][metric] <= high)


if __name__ == "__main__":
    main()
