"""Objectives by the names that requests give them."""

from collections.abc import Mapping
from dataclasses import fields

from foundry.engines.training.objectives.objective import Objective
from foundry.engines.training.objectives.policy import (
    Cispo,
    Dro,
    Gspo,
    ImportanceSampling,
    Ppo,
    Reinforce,
)
from foundry.engines.training.objectives.preference import Dpo
from foundry.engines.training.objectives.supervised import CrossEntropy
from foundry.errors import InvalidRequest

OBJECTIVES: Mapping[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "reinforce": Reinforce,
    "importance_sampling": ImportanceSampling,
    "ppo": Ppo,
    "cispo": Cispo,
    "gspo": Gspo,
    "dro": Dro,
    "dpo": Dpo,
}


def open_objective(name: str, config: Mapping[str, object] | None = None) -> Objective:
    """An objective with its configuration.

    Raises:
        InvalidRequest: there is none of this name, or it has no such field.
    """
    if name not in OBJECTIVES:
        raise InvalidRequest(f"there is no objective {name!r}: use {', '.join(OBJECTIVES)}")
    kind = OBJECTIVES[name]
    config = dict(config or {})
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in config:
        if key not in known:
            raise InvalidRequest(
                f"{name} has no field {key!r}: it has {', '.join(known) or 'no fields'}"
            )
    return kind(**config)
