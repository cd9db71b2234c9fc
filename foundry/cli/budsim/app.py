"""The commands of `foundry budsim`, with an example each that runs as it is.

Examples read `config.json` (of any model), `cluster.yaml`, `configurations.yaml`,
`deployment.yaml` and `trace.csv` of the current directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from foundry.cli.budsim import hardware, predicting, predictors, recalibrating, recommending
from foundry.cli.help import examples
from foundry.cli.output.exit_codes import UNMET_HELP

app = typer.Typer(add_completion=False, no_args_is_help=True)

# Command → examples.
EXAMPLES: Mapping[Callable[..., None], tuple[str, ...]] = {
    recommending.recommend: (
        "foundry budsim recommend smollm2-135m --users 32 --slo ttft=500,tpot=50",
        "foundry budsim recommend --config config.json --gpu nvidia-h100-80gb:8 --users 64 "
        "--slo ttft=3000,cost=20 --plot",
    ),
    recommending.explain: ("foundry budsim explain last",),
    predicting.predict: (
        "foundry budsim predict smollm2-135m --gpu nvidia-l4-24gb --users 8",
        "foundry budsim predict --config config.json --file configurations.yaml",
    ),
    predicting.validate: (
        "foundry budsim validate deployment.yaml --model smollm2-135m --users 8",
        "foundry budsim validate deployment.yaml --config config.json --gpu nvidia-l40s-48gb:2 "
        "--slo ttft=20000",
    ),
    predicting.simulate: (
        "foundry budsim simulate smollm2-135m --gpu nvidia-l4-24gb --rate 4",
        "foundry budsim simulate --config config.json --gpu nvidia-l40s-48gb --trace trace.csv",
    ),
    recommending.list_recommendations: ("foundry budsim list",),
    hardware.catalogue: ("foundry budsim catalogue", "foundry budsim catalogue --offline"),
    hardware.prices: ("foundry budsim prices nvidia-l4-24gb=0.71 nvidia-t4-16gb=",),
    hardware.probe: ("foundry budsim probe",),
    recalibrating.recalibrate: (
        "foundry budsim recalibrate smollm2-135m --concurrency 1,4,8 --requests 32",
    ),
    recalibrating.outcomes: ("foundry budsim outcomes --endpoint smollm2-135m",),
    recalibrating.advice: ("foundry budsim advice",),
    predictors.models: ("foundry budsim models",),
    predictors.fit: ("foundry budsim fit ./fitted --data ./serving-benchmarks --outcomes",),
    predictors.compare: ("foundry budsim compare 0 ./fitted",),
    predictors.submit: ("foundry budsim register ./fitted",),
    predictors.promote: ("foundry budsim promote 0",),
}
_NAMES: Mapping[Callable[..., None], str] = {
    recommending.list_recommendations: "list",
    predictors.submit: "register",
}
_UNMET = (recommending.recommend, recommending.explain, predicting.predict, predicting.validate)


def _write_epilog(command: Callable[..., None]) -> str:
    text = examples(*EXAMPLES[command])
    return f"{UNMET_HELP}.\n\n{text}" if command in _UNMET else text


for _command in EXAMPLES:
    app.command(_NAMES.get(_command), epilog=_write_epilog(_command))(_command)
