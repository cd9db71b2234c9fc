"""What options offer, and what they say is the default, is what the wire schemas have.

The CLI writes them again because help must not wait for the schemas to load.
"""

import re
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from foundry.cli.endpoints import Dtype
from foundry.cli.main import run
from foundry.cli.train import options
from foundry.execution.jobs.schemas import (
    FleetConfig,
    Lora,
    OuterConfig,
    SftConfig,
)
from foundry.governance.identity.domain import Role
from foundry.serving.endpoints.schemas import EngineConfig
from tests.cli.test_help import COMMANDS


def _choices(annotation: Any) -> set[str]:
    """The texts of every literal in an annotation."""
    if isinstance(annotation, str):
        return {annotation}
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    return {choice for part in get_args(annotation) for choice in _choices(part)}


def _kinds(annotation: Any) -> set[str]:
    """The kinds of a union of schemas."""
    return {
        part.model_fields["kind"].default
        for part in get_args(annotation)
        if isinstance(part, type) and issubclass(part, BaseModel)
    }


@pytest.mark.parametrize(
    ("option", "values"),
    [
        (Dtype, _choices(EngineConfig.model_fields["dtype"].annotation)),
        (options.Schedule, _choices(SftConfig.model_fields["schedule"].annotation)),
        (options.Precision, _choices(SftConfig.model_fields["precision"].annotation)),
        (options.TooLong, _choices(SftConfig.model_fields["too_long"].annotation)),
        (options.Method, _kinds(SftConfig.model_fields["method"].annotation)),
        (options.CodecKind, _kinds(OuterConfig.model_fields["codec"].annotation)),
        (options.Optimiser, _choices(SftConfig.model_fields["optimiser"].annotation)),
        (options.Exchange, _choices(OuterConfig.model_fields["exchange"].annotation)),
    ],
)
def test_an_option_offers_what_the_schema_takes(option: Any, values: set[str]) -> None:
    assert _choices(option) == values


def test_roles_are_those_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "create", "x", "--role", "none"]) == 2
    told = capsys.readouterr().err
    assert set(re.findall(r"'(\w+)'", told.splitlines()[-1])) >= {role.value for role in Role}


# Options that are not called as their field is, or whose field is in several schemas.
_FIELDS: dict[str, tuple[type[BaseModel], str]] = {
    "lora_rank": (Lora, "rank"),
    "lora_alpha": (Lora, "alpha"),
    "lora_dropout": (Lora, "dropout"),
    "lora_targets": (Lora, "targets"),
    "outer_lr": (OuterConfig, "lr"),
    "outer_momentum": (OuterConfig, "momentum"),
    "checkpoint_every": (FleetConfig, "checkpoint_every"),
}
# What they say is more than a number.
_IN_WORDS = frozenset({"epochs", "weight_decay", "density"})


def _field_of(option: str) -> tuple[type[BaseModel], str]:
    if option in _FIELDS:
        return _FIELDS[option]
    schemas = (SftConfig, OuterConfig, FleetConfig)
    return next((schema, option) for schema in schemas if option in schema.model_fields)


def test_the_defaults_that_are_told_are_those_of_the_schemas() -> None:
    told = 0
    for param in COMMANDS["train", "diloco"].params:
        default = re.search(r"default:? (\d[\d.e-]*)", getattr(param, "help", None) or "")
        if default is None or param.name is None or param.name in _IN_WORDS:
            continue
        schema, name = _field_of(param.name)
        assert float(default[1]) == schema.model_fields[name].default, param.name
        told += 1
    assert told >= 12


@pytest.mark.parametrize("command", ["sft", "diloco"])
def test_every_field_of_a_training_has_an_option(command: str) -> None:
    offered = {param.name for param in COMMANDS["train", command].params}
    # How often a worker reports and checkpoints, its fleet decides.
    fleets = {"checkpoint_every", "log_every"} if command == "diloco" else set()
    assert set(SftConfig.model_fields) - fleets <= offered
    assert {f"lora_{name}" for name in Lora.model_fields if name != "kind"} <= offered
