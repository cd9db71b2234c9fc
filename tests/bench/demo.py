"""`make bench NAME=demo`: the demo in a fresh home, from a stopped machine to the comparison."""

import json
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console

from foundry.config import load_settings
from foundry.infra.embedded import stack
from foundry.infra.embedded.paths import runtime_dir
from workflows.demo import Demo


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="fdry-bench-"))
    settings = load_settings().model_copy(update={"home": home})
    began = time.monotonic()
    try:
        outcome = Demo(settings, Console(stderr=True)).run()
        seconds = time.monotonic() - began
    finally:
        stack.down(home, lambda text: None)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(runtime_dir(home), ignore_errors=True)
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
