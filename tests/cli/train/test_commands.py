"""`foundry train` as a user types it, against a server that gives fixed answers."""

import json
from typing import Any

import pytest

from foundry.cli.main import run
from foundry.sdk import DilocoConfig, Full, InnerConfig, Lora, SftConfig, TopK
from tests.cli.conftest import Server
from tests.sdk.answers import AT, JOB_ID, job

SFT = "train sft --base smol --dataset support@1 --name bot"
DILOCO = "train diloco --base smol --dataset support@1 --name bot"


def submitted(server: type[Server], kind: str, command: str) -> dict[str, Any]:
    server.answers[f"/jobs/{kind}"] = (201, job("QUEUED", kind=kind))
    assert run([*command.split(), "--detach", "--output", "json"]) == 0
    ((path, body),) = server.asked
    assert path == f"/jobs/{kind}"
    server.asked.clear()
    return dict(body)


def test_what_was_not_given_keeps_its_default(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    body = submitted(server, "diloco", DILOCO)
    assert DilocoConfig.model_validate(body.pop("config")) == DilocoConfig()
    assert body == {
        "name": "bot",
        "base": "smol",
        "dataset": "support@1",
        "force": False,
        "submission_id": None,
        "priority": 0,
    }
    assert json.loads(capsys.readouterr().out)["id"] == JOB_ID
    assert SftConfig.model_validate(submitted(server, "sft", SFT)["config"]) == SftConfig()


def test_every_option_of_a_fleet_reaches_its_place(server: type[Server]) -> None:
    options = (
        "--workers 4 --inner-steps 60 --codec topk --density 0.02 --outer-lr 0.4 "
        "--outer-momentum 0.8 --exchange gather --fragments 3 --overlap 2 --mixing 0.5 --quorum 3 "
        "--grace-s 5 --silence-s 2 --stall-s 60 --link-mbit-s 100 --checkpoint-every 4 --lr 0.0004 "
        "--max-steps 200 --batch-size 4 --schedule constant --weight-decay 0 --seed 7 --force "
        "--priority 7"
    )
    body = submitted(server, "diloco", f"{DILOCO} {options}")
    assert body["priority"] == 7
    config = DilocoConfig.model_validate(body["config"])
    assert config.outer.model_dump() == {
        "inner_steps": 60,
        "lr": 0.4,
        "momentum": 0.8,
        "codec": TopK(density=0.02).model_dump(),
        "exchange": "gather",
        "fragments": 3,
        "overlap": 2,
        "mixing": 0.5,
    }
    assert config.fleet.model_dump() == {
        "workers": 4,
        "quorum": 3,
        "grace_s": 5.0,
        "silence_s": 2.0,
        "stall_s": 60.0,
        "link_mbit_s": 100.0,
        "checkpoint_every": 4,
    }
    assert config.inner == InnerConfig(
        method=Full(),
        max_steps=200,
        batch_size=4,
        micro_batch_size=4,
        lr=4e-4,
        schedule="constant",
        weight_decay=0.0,
        seed=7,
    )
    assert body["force"] is True


def test_where_an_adapter_sits_and_what_memory_may_take_reach_their_places(
    server: type[Server],
) -> None:
    options = "--lora-targets attn,unembed --activation-budget 1000000 --optimiser adamw-8bit"
    config = SftConfig.model_validate(submitted(server, "sft", f"{SFT} {options}")["config"])
    assert config.method == Lora(targets=("attn", "unembed"))
    assert (config.activation_budget, config.optimiser) == (1_000_000, "adamw-8bit")
    config = SftConfig.model_validate(
        submitted(server, "sft", f"{SFT} --activation-budget auto")["config"]
    )
    assert config.activation_budget == "auto"


def test_a_fleet_may_train_an_adapter(server: type[Server]) -> None:
    body = submitted(server, "diloco", f"{DILOCO} --method lora --lora-rank 4")
    assert DilocoConfig.model_validate(body["config"]).inner.method == Lora(rank=4)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{DILOCO} --codec topk --density 0.9", "--density must be at most 0.25"),
        (f"{DILOCO} --outer-lr 9", "--outer-lr must be at most 4"),
        (f"{DILOCO} --outer-momentum 1", "--outer-momentum must be less than 1"),
        (
            f"{SFT} --lora-targets attn,head",
            "--lora-targets must be one of 'attn', 'mlp' or 'unembed'",
        ),
        (f"{SFT} --lora-targets ,", "--lora-targets must be one of 'attn', 'mlp' or 'unembed'"),
        (f"{SFT} --activation-budget much", "--activation-budget must be a whole number"),
        (f"{DILOCO} --lr 9", "--lr must be at most 1"),
        (f"{DILOCO} --inner-steps 0", "--inner-steps must be at least 1"),
        (f"{DILOCO} --workers 0", "--workers must be at least 1"),
        (f"{DILOCO} --link-mbit-s 0", "--link-mbit-s must be greater than 0"),
        (f"{DILOCO} --checkpoint-every 0", "--checkpoint-every must be at least 1"),
        (f"{DILOCO} --quorum 3", "options: quorum must not exceed workers"),
        (f"{DILOCO} --fragments 3", "options: inner_steps must be a multiple of fragments"),
        (
            f"{DILOCO} --overlap 100",
            "options: overlap must be shorter than inner_steps / fragments",
        ),
        (f"{DILOCO} --method lora --lora-rank 0", "--lora-rank must be at least 1"),
        (f"{SFT} --lr 9", "--lr must be at most 1"),
        (f"{SFT} --lora-rank 0", "--lora-rank must be at least 1"),
        (
            f"{SFT} --batch-size 4 --micro-batch-size 8",
            "options: micro_batch_size must not exceed batch_size",
        ),
    ],
)
def test_a_wrong_option_is_named(
    capsys: pytest.CaptureFixture[str], command: str, says: str
) -> None:
    assert run(command.split()) == 2
    # The whole first line: whatever a library has to say about it comes nowhere.
    assert capsys.readouterr().err.splitlines()[0] == f"error: {says}"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{DILOCO} --density 0.1", "--density: only --codec topk has one"),
        (f"{DILOCO} --codec int8 --density 0.1", "--density: only --codec topk has one"),
        (f"{DILOCO} --lora-rank 4", "--lora-rank: only --method lora has one"),
        (f"{SFT} --method full --lora-alpha 8", "--lora-alpha: only --method lora has one"),
        # Also of the value that they have anyway.
        (
            f"{SFT} --epochs 3 --max-steps 2",
            "--epochs would be ignored: max_steps says how long the run is, so leave one of the "
            "two out",
        ),
        (f"{DILOCO} --epochs 1 --max-steps 2", "--epochs would be ignored: max_steps says"),
        (f"{DILOCO} --grace-s 30", "--grace-s would be ignored: a round needs all 2 workers"),
        (f"{DILOCO} --workers 1 --exchange auto", "--exchange would be ignored: one worker"),
        (f"{DILOCO} --workers 1 --link-mbit-s 9", "--link-mbit-s would be ignored: one worker"),
    ],
)
def test_an_option_that_would_be_ignored_is_a_conflict(
    capsys: pytest.CaptureFixture[str], command: str, says: str
) -> None:
    assert run(command.split()) == 6
    assert capsys.readouterr().err.splitlines()[0].startswith(f"error: {says}")


def _round(number: int) -> dict[str, object]:
    share: dict[str, object] = {
        "member": "w0",
        "node": "node-a",
        "merged": True,
        "batches": 8,
        "tokens": 4096,
        "loss": 2.25,
        "train_seconds": 1.5,
        "bytes_sent": 1_500_000,
        "bytes_received": 3_000_000,
    }
    late = share | {"member": "w1", "merged": False, "loss": None, "bytes_sent": 500_000}
    return {
        "round": number,
        "fragment": 0,
        "digest": "ab" * 32,
        "members": [share, late],
        "aborts": 1,
        "seconds": 12.5,
        "loss": 2.25,
        "eval_loss": None,
        "checkpointed": True,
        "created_at": AT,
    }


def test_rounds_are_listed_page_by_page(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [(200, {"data": [_round(1), _round(2)]}), (200, {"data": [_round(3)]})]
    server.answers[f"/jobs/{JOB_ID}"] = (200, job("RUNNING", kind="diloco"))
    server.answers[f"/jobs/{JOB_ID}/rounds"] = [*pages, (200, {"data": []})]
    assert run(["jobs", "rounds", JOB_ID]) == 0
    heading, *rows = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines())
    assert heading == (
        "round fragment merged batches tokens loss eval loss aborts seconds sent checkpointed"
    )
    assert rows == [f"{number} 0 1/2 8 4096 2.25 - 1 12.5 2.0 MB yes" for number in (1, 2, 3)]
    assert server.queries == ["", "after=0&limit=200", "after=2&limit=200", "after=3&limit=200"]


def test_rounds_as_json_have_every_field(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[f"/jobs/{JOB_ID}"] = (200, job("RUNNING", kind="diloco"))
    server.answers[f"/jobs/{JOB_ID}/rounds"] = [(200, {"data": [_round(1)]}), (200, {"data": []})]
    assert run(["jobs", "rounds", JOB_ID, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [_round(1)]


def test_what_happened_to_the_members(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    event = {
        "seq": 1,
        "round": 3,
        "member": "w1",
        "kind": "silent",
        "detail": "no answer for 3 s",
        "at": AT,
    }
    server.answers[f"/jobs/{JOB_ID}"] = (200, job("RUNNING", kind="diloco"))
    server.answers[f"/jobs/{JOB_ID}/members"] = [(200, {"data": [event]}), (200, {"data": []})]
    assert run(["jobs", "members", JOB_ID]) == 0
    heading, row = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines())
    assert heading == "seq at round member kind detail"
    assert row == f"1 {AT} 3 w1 silent no answer for 3 s"
