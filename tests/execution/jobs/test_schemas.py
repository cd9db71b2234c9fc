"""What a request to train may say."""

import pytest
from pydantic import ValidationError

from foundry.engines.training.config import Full, SftConfig
from foundry.engines.training.diloco.config import DilocoConfig, E3m0
from foundry.execution.jobs.schemas import DilocoSubmit, SftSubmit

REQUIRED = {"name": "bot", "base": "smol", "dataset": "support"}


def test_both_trainings_are_asked_for_alike() -> None:
    asked = DilocoSubmit.model_validate(REQUIRED)
    assert asked.model_dump(exclude={"config"}) == {
        **REQUIRED,
        "force": False,
        "submission_id": None,
        "priority": 0,
    }
    assert asked.config == DilocoConfig()
    assert (asked.config.inner.method, asked.config.outer.codec) == (Full(), E3m0())
    alike = SftSubmit.model_validate(REQUIRED)
    assert alike.model_dump(exclude={"config"}) == asked.model_dump(exclude={"config"})
    assert alike.config == SftConfig()


@pytest.mark.parametrize("kind", [SftSubmit, DilocoSubmit])
@pytest.mark.parametrize(
    "change",
    [
        {"name": "Bad Name"},
        {"submission_id": "a b"},
        {"priority": 101},
        {"epochs": 3},
        {"config": {"learning_rate": 1}},
    ],
)
def test_what_is_not_understood_is_refused(
    kind: type[SftSubmit] | type[DilocoSubmit], change: dict[str, object]
) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(REQUIRED | change)
