"""Fields of a fleet's configuration that would decide nothing."""

import pytest

from foundry.engines.training.diloco.config import (
    DilocoConfig,
    FleetConfig,
    InnerConfig,
    OuterConfig,
    TopK,
)


def ignored(config: DilocoConfig, *, explicit: bool = False) -> list[str]:
    return [".".join(found.path) for found in config.find_ignored(explicit=explicit)]


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (DilocoConfig(), []),
        (DilocoConfig(inner=InnerConfig(epochs=2, max_steps=9)), ["inner.epochs"]),
        (DilocoConfig(inner=InnerConfig(checkpoint_every=9)), ["inner.checkpoint_every"]),
        (DilocoConfig(inner=InnerConfig(log_every=9)), ["inner.log_every"]),
        (DilocoConfig(fleet=FleetConfig(grace_s=9)), ["fleet.grace_s"]),
        (DilocoConfig(fleet=FleetConfig(workers=3, grace_s=9)), []),
        (DilocoConfig(fleet=FleetConfig(workers=3, quorum=3, grace_s=9)), ["fleet.grace_s"]),
        (
            DilocoConfig(
                fleet=FleetConfig(workers=1, link_mbit_s=9), outer=OuterConfig(exchange="scatter")
            ),
            ["outer.exchange", "fleet.link_mbit_s"],
        ),
        (DilocoConfig(outer=OuterConfig(codec=TopK(decay=0.5))), []),
        (
            DilocoConfig(outer=OuterConfig(codec=TopK(decay=0.5, error_feedback=False))),
            ["outer.codec.decay"],
        ),
    ],
)
def test_a_field_without_effect_is_found(config: DilocoConfig, fields: list[str]) -> None:
    assert ignored(config) == fields


def test_a_default_that_is_written_out_counts_only_for_who_typed_it() -> None:
    config = DilocoConfig(fleet=FleetConfig(grace_s=30.0))
    assert (ignored(config), ignored(config, explicit=True)) == ([], ["fleet.grace_s"])
    whole = DilocoConfig.model_validate_json(DilocoConfig().model_dump_json())
    assert ignored(whole) == []
