"""Seconds until new work succeeds without a hand, for each fault of a running stack.

`make bench NAME=recovery`: kill -9 and SIGSTOP of every part at rest, of drivers and workers while
a job trains; `make campaign NAME=recovery` has the other situations. A fault that takes the engine
along is judged against a plain start of it, one that takes Ray along against a plain `foundry up`
until the model answers.
"""

import json
import tempfile
from pathlib import Path

from tests.recovery.faults import find_part
from tests.recovery.matrix import PlainStarts, list_cases, run_matrix, running_site
from tests.recovery.probe import Recovery


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_site(Path(folder)) as (site, starts),
    ):
        done, failed = run_matrix(site, starts, list_cases(("rest", "training")))
    for line in failed:
        print(f"not recovered: {line}")
    print(json.dumps({"bench": "recovery", "metrics": summarise(done, failed, starts)}))


def summarise(
    done: list[Recovery], failed: list[str], starts: PlainStarts
) -> dict[str, float | int]:
    """The worst of each number. A fault that was not recovered from counts as stuck."""
    plain = [each.seconds for each in done if starts.of(find_part(each.part)) is None]
    ratios = [
        each.seconds / start
        for each in done
        if (start := starts.of(find_part(each.part))) is not None
    ]
    return {
        **{f"{each.name}_s": round(each.seconds, 1) for each in done},
        "worst_recovery_s": round(max(plain, default=0.0), 1),
        "engine_start_s": round(starts.engine, 1),
        "stack_start_s": round(starts.stack, 1),
        "engine_recovery_ratio": round(max(ratios, default=0.0), 2),
        "faults": len(done) + len(failed),
        "not_recovered": len(failed),
        "lost_jobs": sum(each.lost_jobs for each in done),
        "duplicate_effects": sum(each.duplicates for each in done),
        "lost_engines": sum(each.lost_engines for each in done),
        "stuck": sum(each.stuck for each in done) + len(failed),
        "orphans": sum(each.orphans for each in done),
    }


if __name__ == "__main__":
    main()
