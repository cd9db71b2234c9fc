"""One sentence about an adapter whose rank is too high, whoever asks."""

from types import SimpleNamespace
from typing import cast

import pytest

from foundry.catalog.registry.service import ModelVersion
from foundry.errors import InvalidRequest
from foundry.serving.endpoints.serving_rank import ServingRank
from foundry.serving.endpoints.tables import Endpoint

BASE = cast(ModelVersion, SimpleNamespace(reference="smol@0.1.0"))
MAKES = "make one with `foundry endpoints create smol@0.1.0"


@pytest.mark.parametrize("rank", [None, 1, 64])
def test_a_rank_that_is_served_or_unknown_is_accepted(rank: int | None) -> None:
    ServingRank(64).check_adapter("the rank", rank, BASE, "source")


@pytest.mark.parametrize(
    ("served", "rank", "told"),
    [
        (
            ServingRank(64),
            96,
            "a new endpoint of smol@0.1.0 would serve adapters up to rank 64: train with rank 64 "
            f"or less, or first {MAKES} --max-lora-rank 128`",
        ),
        (
            ServingRank(8, name="second"),
            9,
            "a new endpoint of smol@0.1.0 would serve adapters up to rank 8: train with rank 8 or "
            f"less, or first {MAKES} --name second --max-lora-rank 16`",
        ),
        (
            ServingRank(64, Endpoint(name="second", model_reference="smol@0.1.0", config={})),
            65,
            "the endpoint second serves adapters up to rank 64: train with rank 64 or less, or "
            "first change that with `echo '{\"max_lora_rank\": 128}' | foundry endpoints configure "
            "second -` and `foundry deploy smol@0.1.0 --name second`",
        ),
        (
            ServingRank(64),
            513,
            "a new endpoint of smol@0.1.0 would serve adapters up to rank 64, and no engine more "
            "than 512: train with rank 64 or less",
        ),
    ],
)
def test_a_rank_that_is_not_served_names_what_would_be(
    served: ServingRank, rank: int, told: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        served.check_adapter("the rank of bot@1.0.0", rank, BASE, "model")
    assert raised.value.message == f"the rank of bot@1.0.0 is {rank}, but {told}"
    assert raised.value.details == {"param": "model"}
