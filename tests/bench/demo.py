"""`make bench NAME=demo`: the demo in a fresh home, from a stopped machine to the comparison."""

import json
import time

from rich.console import Console

from tests.bench.stack import fresh_home
from workflows.demo import Demo


def main() -> None:
    with fresh_home() as settings:
        began = time.monotonic()
        outcome = Demo(settings, Console(stderr=True)).run()
        seconds = time.monotonic() - began
    metrics = {
        "base_exact_match": round(outcome.base.share, 4),
        "adapter_exact_match": round(outcome.adapter.share, 4),
        "gain": round(outcome.adapter.share - outcome.base.share, 4),
        "prompts": outcome.adapter.prompts,
        "demo_s": round(seconds, 1),
        "base_eval_s": round(outcome.base.seconds, 1),
        "adapter_eval_s": round(outcome.adapter.seconds, 1),
    }
    print(json.dumps({"bench": "demo", "metrics": metrics}))


if __name__ == "__main__":
    main()
