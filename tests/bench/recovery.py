"""Seconds until new work succeeds without a hand, for each fault of a running stack.

`make bench NAME=recovery`: kill -9 and SIGSTOP of every part at rest, drivers and workers while a
job trains. A fault that restarts the engine is judged against a plain start of it.
"""

import json
import tempfile
from pathlib import Path

from tests.recovery.faults import PARTS
from tests.recovery.matrix import run_matrix, running_site


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_site(Path(folder) / "numbers.jsonl") as (site, engine_start_s),
    ):
        done, failed = run_matrix(site, engine_start_s, ("kill", "stop"))
    restarting = {part.name for part in PARTS if part.restarts_engine}
    seconds = {f"{each.part}_{each.how}_s": round(each.seconds, 1) for each in done}
    plain = [each.seconds for each in done if each.part not in restarting]
    engine = [each.seconds for each in done if each.part in restarting]
    metrics = {
        **seconds,
        "worst_recovery_s": round(max(plain, default=0.0), 1),
        "engine_start_s": round(engine_start_s, 1),
        "engine_recovery_ratio": round(max(engine, default=0.0) / engine_start_s, 2),
        "faults": len(done) + len(failed),
        "not_recovered": len(failed),
        "lost_jobs": sum(each.lost_jobs for each in done),
        "duplicate_effects": sum(each.duplicates for each in done),
        "stuck": sum(each.stuck for each in done) + len(failed),
        "orphans": sum(each.orphans for each in done),
    }
    for line in failed:
        print(f"not recovered: {line}")
    print(json.dumps({"bench": "recovery", "metrics": metrics}))


if __name__ == "__main__":
    main()
