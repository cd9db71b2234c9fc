"""What the workflows that are submitted by hand make of their command lines."""

import pytest

from foundry.errors import SetupError
from foundry.sdk import DilocoConfig, FleetConfig, InnerConfig, Lora, OuterConfig, SftConfig, TopK
from workflows import diloco, submission, train

REQUIRED = ["--base", "smol", "--dataset", "support", "--name", "bot"]


def test_an_adapter_by_default() -> None:
    options = train.arguments().parse_args([*REQUIRED, "--lora-rank", "8", "--config", '{"lr": 1}'])
    assert train.config_of(options) == SftConfig(method=Lora(rank=8, alpha=16), lr=1)


def test_a_section_of_the_configuration_keeps_its_other_defaults() -> None:
    config = (
        '{"inner": {"max_steps": 9}, "outer": {"codec": {"kind": "topk"}}, "fleet": {"quorum": 1}}'
    )
    options = diloco.arguments().parse_args(
        [*REQUIRED, "--workers", "3", "--inner-steps", "20", "--config", config]
    )
    assert diloco.config_of(options) == DilocoConfig(
        inner=InnerConfig(max_steps=9),
        outer=OuterConfig(inner_steps=20, codec=TopK()),
        fleet=FleetConfig(workers=3, quorum=1),
    )


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('{"outer": {"lr": 9}}', "--config: outer.lr must be at most 4"),
        ('{"outer": 3}', "--config: outer must be an object"),
        ('{"lr": 1}', "--config: lr is not a known field"),
    ],
)
def test_a_wrong_field_is_named(config: str, says: str) -> None:
    options = diloco.arguments().parse_args([*REQUIRED, "--config", config])
    with pytest.raises(SetupError) as raised:
        diloco.config_of(options)
    assert raised.value.message == says


def test_outside_of_a_ray_job_it_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr("sys.argv", ["diloco", *REQUIRED])
    with pytest.raises(SystemExit, match=r"ray job submit -- python -m workflows\.diloco "):
        submission.run(diloco.arguments(), diloco.submit, instead="foundry train diloco")
