"""What the workflows that are submitted by hand make of their command lines."""

import pytest

from foundry.errors import Conflict, InvalidRequest
from foundry.sdk import (
    DilocoConfig,
    FleetConfig,
    Full,
    InnerConfig,
    Lora,
    OuterConfig,
    SftConfig,
    TopK,
)
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
    with pytest.raises(InvalidRequest) as raised:
        diloco.config_of(options)
    assert raised.value.message == says


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "3", "--config", '{"fleet": {"workers": 2}}'], "fleet.workers"),
        (["--inner-steps", "3", "--config", '{"outer": {"inner_steps": 2}}'], "outer.inner_steps"),
        (["--inner-steps", "3", "--config", '{"outer": 3}'], "outer"),
    ],
)
def test_an_option_is_not_said_twice(arguments: list[str], says: str) -> None:
    options = diloco.arguments().parse_args([*REQUIRED, *arguments])
    with pytest.raises(Conflict, match=f"^--config says {says}, and an option says it too"):
        diloco.config_of(options)


def test_a_rank_is_of_an_adapter() -> None:
    full = [*REQUIRED, "--config", '{"method": {"kind": "full"}}']
    assert train.config_of(train.arguments().parse_args(full)) == SftConfig(method=Full())
    with pytest.raises(Conflict, match=r"^--config says method\.kind"):
        train.config_of(train.arguments().parse_args([*full, "--lora-rank", "8"]))
    with pytest.raises(InvalidRequest, match="rank must be at least 1"):
        train.config_of(train.arguments().parse_args([*REQUIRED, "--lora-rank", "0"]))


def test_a_small_batch_needs_no_micro_batch() -> None:
    config = '{"inner": {"batch_size": 4}}'
    options = diloco.arguments().parse_args([*REQUIRED, "--config", config])
    assert diloco.config_of(options).inner.micro_batch_size == 4


def test_outside_of_a_ray_job_it_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr("sys.argv", ["diloco", *REQUIRED])
    with pytest.raises(SystemExit) as ended:
        submission.run(diloco.arguments(), diloco.submit, instead="foundry train diloco")
    assert ended.value.code == 2
    assert "ray job submit -- python -m workflows.diloco " in capsys.readouterr().err
