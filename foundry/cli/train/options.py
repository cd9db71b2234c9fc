"""Options of `foundry train`, and the configurations that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from foundry.cli.suggestions import suggest_datasets, suggest_models
from foundry.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from foundry.sdk import DilocoConfig, SftConfig

Given = Mapping[str, Any]
Location = tuple[str, ...]
Model = TypeVar("Model", bound="BaseModel")
Config = TypeVar("Config", "SftConfig", "DilocoConfig")

Base = Annotated[
    str,
    typer.Option(
        help="the model to start from: name, name@alias, name@1.2.3", autocompletion=suggest_models
    ),
]
Dataset = Annotated[str, typer.Option(help="name or name@number", autocompletion=suggest_datasets)]
Name = Annotated[
    str, typer.Option(help="the model that gets a new version", autocompletion=suggest_models)
]
Method = Annotated[Literal["lora", "full"], typer.Option(help="an adapter, or every weight")]
Rank = Annotated[
    int | None,
    typer.Option(help="of the adapter; default 16; at most what the base's endpoint serves"),
]
Alpha = Annotated[int | None, typer.Option(help="the update is scaled by alpha/rank; default 32")]
Dropout = Annotated[float | None, typer.Option(help="default 0")]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="GROUPS",
        help="where the adapter sits, with commas: attn, mlp, unembed; default attn,mlp",
    ),
]
Epochs = Annotated[int | None, typer.Option(help="default 3")]
MaxSteps = Annotated[int | None, typer.Option(help="instead of --epochs")]
Batch = Annotated[int | None, typer.Option(help="sequences per optimiser step; default 8")]
Micro = Annotated[int | None, typer.Option(help="sequences held in memory at once")]
Rate = Annotated[float | None, typer.Option(help="learning rate; default 2e-4")]
Length = Annotated[int | None, typer.Option(help="tokens; default 1024")]
TooLong = Annotated[
    Literal["error", "drop", "truncate"] | None, typer.Option(help="what to do with longer rows")
]
Packing = Annotated[
    bool | None, typer.Option("--packing/--no-packing", help="fill sequences; default: no")
]
Schedule = Annotated[
    Literal["cosine", "linear", "constant"] | None,
    typer.Option(help="of the learning rate after the warm-up; default cosine"),
]
Warmup = Annotated[float | None, typer.Option(help="share of the steps; default 0.03")]
Decay = Annotated[float | None, typer.Option(help="default 0; of diloco 0.1")]
Clip = Annotated[float | None, typer.Option(help="maximum gradient norm; 0: off; default 1")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(help="of activations and frozen weights; default auto, the device's best"),
]
Recompute = Annotated[
    bool | None,
    typer.Option(
        "--activation-checkpointing/--no-activation-checkpointing",
        help="less memory, a third more time",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(help="bytes of activations, beyond which layers recompute theirs; or auto"),
]
Optimiser = Annotated[
    Literal["adamw", "adamw-8bit"] | None,
    typer.Option(help="8bit: moments of 2 bytes a trained value, not 8; default adamw"),
]
Offload = Annotated[
    bool | None,
    typer.Option(
        "--offload/--no-offload",
        help="float32 weights, gradients and moments in the host's memory: slower steps",
    ),
]
Seed = Annotated[int | None, typer.Option(help="default 0")]
Every = Annotated[int | None, typer.Option(help="optimiser steps")]
Force = Annotated[bool, typer.Option("--force", help="train again what was trained already")]
Priority = Annotated[int, typer.Option(help="a job with a higher one is admitted first")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="submit and return")]

Workers = Annotated[
    int | None, typer.Option(help="kept running: a lost one is replaced; default 2")
]
InnerSteps = Annotated[
    int | None, typer.Option(help="optimiser steps between two synchronisations; default 100")
]
OuterRate = Annotated[float | None, typer.Option(help="default 0.7")]
OuterMomentum = Annotated[float | None, typer.Option(help="Nesterov; default 0.9")]
CodecKind = Annotated[
    Literal["e3m0", "fp32", "bf16", "int8", "topk"] | None,
    typer.Option(help="how a synchronisation is written down; default e3m0: 4 bits a value"),
]
Density = Annotated[
    float | None, typer.Option(help="share of the values that topk sends; default 1/64")
]
Exchange = Annotated[
    Literal["auto", "gather", "scatter"] | None,
    typer.Option(help="all to everyone, or in parts; default auto: whichever is fewer bytes"),
]
Fragments = Annotated[
    int | None, typer.Option(help="parts of the model, synchronised in turn; default 1")
]
Overlap = Annotated[
    int | None, typer.Option(help="steps trained while a part is on its way; default 0")
]
Mixing = Annotated[
    float | None, typer.Option(help="share of its own weights that a worker keeps; default 0")
]
Quorum = Annotated[
    int | None, typer.Option(help="workers that a round needs; default: more than half")
]
Grace = Annotated[
    float | None,
    typer.Option(help="seconds that a round with a quorum waits for the rest; default 30"),
]
Silence = Annotated[
    float | None,
    typer.Option(help="seconds after which a worker that is silent is lost; default 3"),
]
Stall = Annotated[
    float | None,
    typer.Option(help="seconds after which a worker that makes no step is lost; default 120"),
]
Link = Annotated[
    float | None, typer.Option(help="Mbit/s, the most that a worker receives; default: no limit")
]
CheckpointRounds = Annotated[int | None, typer.Option(help="rounds; default 1")]

# Fields that both optimisers have; every other option is named as its field.
_OUTER = {"outer_lr": "lr", "outer_momentum": "momentum"}


def build_sft_config(given: Given) -> SftConfig:
    """The configuration with what was given; the rest keeps its own defaults.

    Raises:
        InvalidRequest: names the option that is out of range.
        Conflict: names the option that would be ignored.
    """
    from foundry.sdk import SftConfig

    return _refuse_ignored(
        _validate_config(SftConfig, _build_inner(given), _name_inner_option), _name_inner_option
    )


def build_diloco_config(given: Given) -> DilocoConfig:
    """Build the configuration of a fleet: what was given; the rest keeps its own defaults."""
    from foundry.sdk import DilocoConfig, FleetConfig

    if given["density"] is not None and given["codec"] != "topk":
        raise Conflict("--density: only --codec topk has one", param="density")
    inner = _build_inner(
        {name: value for name, value in given.items() if name != "checkpoint_every"}
    )
    fleet = {name: given[name] for name in FleetConfig.model_fields if given.get(name) is not None}
    document = {"inner": inner, "outer": _build_outer(given), "fleet": fleet}
    return _refuse_ignored(
        _validate_config(DilocoConfig, document, _name_diloco_option), _name_diloco_option
    )


def _build_inner(given: Given) -> dict[str, Any]:
    from foundry.sdk import SftConfig

    said = {name: value for name, value in given.items() if value is not None}
    stray = [name for name in said if name.startswith("lora_") and said["method"] != "lora"]
    if stray:
        option = stray[0].replace("_", "-")
        raise Conflict(f"--{option}: only --method lora has one", param=stray[0])
    method = {"kind": said["method"]} | {
        name.removeprefix("lora_"): value
        for name, value in said.items()
        if name.startswith("lora_")
    }
    if "targets" in method:
        method["targets"] = [group.strip() for group in method["targets"].split(",")]
    fields = {name: value for name, value in said.items() if name in SftConfig.model_fields}
    return fields | {"method": method}


def _build_outer(given: Given) -> dict[str, Any]:
    from foundry.sdk import OuterConfig

    names = {name: name for name in OuterConfig.model_fields if name not in _OUTER.values()}
    fields = {
        field: given[option]
        for option, field in (names | _OUTER).items()
        if given.get(option) is not None
    }
    if "codec" in fields:
        density = {} if given["density"] is None else {"density": given["density"]}
        fields["codec"] = {"kind": fields["codec"], **density}
    return fields


def _name_inner_option(where: Location) -> str:
    # Only the method `lora` has fields, and its options carry its name; a list is one option.
    parts = (part for part in where if not part.isdigit())
    return "-".join("lora" if part == "method" else part for part in parts)


def _name_diloco_option(where: Location) -> str:
    section, *rest = where or ("",)
    if section == "inner":
        return _name_inner_option(tuple(rest))
    options = {field: option for option, field in _OUTER.items()} if section == "outer" else {}
    return options.get(rest[-1], rest[-1]) if rest else ""


def _refuse_ignored(config: Config, option_of: Callable[[Location], str]) -> Config:
    """The configuration. Raises Conflict: an option was given that would be ignored."""
    for ignored in config.find_ignored(explicit=True):
        option = option_of(ignored.path).replace("_", "-")
        raise Conflict(f"--{option} would be ignored: {ignored.reason}", param=option)
    return config


def _validate_config(
    model: type[Model], document: Mapping[str, Any], option_of: Callable[[Location], str]
) -> Model:
    """The model of `document`.

    Args:
        option_of: the option of a field's place in the configuration; empty: several.
    """
    from pydantic import ValidationError

    from foundry.validation import find_problem

    try:
        return model.model_validate(document)
    except ValidationError as error:
        problem = find_problem(error.errors(), document)
        option = option_of(tuple(map(str, problem.path))).replace("_", "-")
        raise InvalidRequest(problem.tell(f"--{option}" if option else "options")) from error
