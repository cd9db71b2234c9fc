import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foundry.engines.training import workload
from foundry.engines.training.config import Full, Lora, SftConfig
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.messages.rows import prepare_chat
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.engines.training.progress import TrainEvent
from foundry.engines.training.sft import run_sft
from foundry.errors import Conflict, InvalidDataset

Rows = list[dict[str, object]]
CONFIG = SftConfig(
    method=Lora(rank=4), max_steps=30, batch_size=4, micro_batch_size=4, max_seq_len=160, lr=1e-2
)


def _losses(
    config: SftConfig, model: Path, rows: Rows, work_dir: Path, eval_rows: Rows | None = None
) -> list[TrainEvent]:
    events: list[TrainEvent] = []
    run_sft(
        config,
        model_dir=model,
        train_rows=rows,
        eval_rows=eval_rows or [],
        work_dir=work_dir,
        on_event=events.append,
    )
    return events


def test_the_model_learns_the_replies(tiny_model: Path, chat_rows: Rows, tmp_path: Path) -> None:
    rows = chat_rows[:3]
    config = CONFIG.model_copy(update={"max_steps": 150, "method": Lora(rank=16)})
    result = run_sft(
        config, model_dir=tiny_model, train_rows=rows, eval_rows=rows, work_dir=tmp_path
    )
    # A random frozen output projection of width 32 cannot be very sure; it starts above 5 nats.
    assert result.metrics["eval_loss"] < 0.7
    assert result.steps == result.total_steps == 150
    assert result.adapter_dir is not None
    model = load_model(tiny_model)
    lora.import_adapter(model, result.adapter_dir)
    tokenizer = ChatTokenizer.load(tiny_model)
    tokens = tokenizer.encode(
        tokenizer.render(
            [{"role": "user", "content": "say cat please "}], add_generation_prompt=True
        )
    )
    for _ in range(4):
        with torch.no_grad():
            hidden = model(torch.tensor(tokens), torch.arange(len(tokens)), (len(tokens),))
            tokens.append(int(model.lm_head(hidden[-1]).argmax()))
    assert tokens[-4:] == tokenizer.encode("CAT<|im_end|>")


def test_micro_batches_do_not_change_the_loss(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    runs = []
    for size in (4, 1):
        config = CONFIG.model_copy(update={"micro_batch_size": size, "max_steps": 5})
        runs.append(_losses(config, tiny_model, chat_rows, tmp_path / str(size)))
    for one, other in zip(*runs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)
        assert one.tokens_total == other.tokens_total


def test_losses_equal_a_plain_loop_over_transformers(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    """The oracle: transformers' model and loss, torch's optimiser, one sequence at a time."""
    from transformers import AutoModelForCausalLM

    config = CONFIG.model_copy(
        update={"method": Full(), "max_steps": 3, "batch_size": 12, "micro_batch_size": 12}
    )
    events = _losses(config, tiny_model, chat_rows, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    # As ours does, train the padding token's embedding too: here it also ends a turn.
    reference.get_input_embeddings().padding_idx = None
    tokenizer = ChatTokenizer.load(tiny_model)
    examples = [e for row in chat_rows for e in prepare_chat(tokenizer, row["messages"])]  # type: ignore[arg-type]
    trained = sum(sum(e.trained) for e in examples)
    optimiser = torch.optim.AdamW(reference.parameters(), lr=config.lr, weight_decay=0.0)
    for event in events:
        total = 0.0
        for example in examples:
            ids = torch.tensor([example.tokens])
            flags = torch.tensor(example.trained)[1:]
            log_p = reference(ids).logits[0, :-1].log_softmax(-1)
            nll = -log_p.gather(-1, ids[0, 1:, None])[flags].sum() / trained
            torch.autograd.backward(nll)
            total += nll.item()
        assert event.loss == pytest.approx(total, abs=1e-4)
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        assert event.grad_norm == pytest.approx(norm.item(), rel=1e-3)
        for group in optimiser.param_groups:
            group["lr"] = event.lr
        optimiser.step()
        optimiser.zero_grad()


def test_full_fine_tuning_exports_a_model_that_loads(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"method": Full(), "max_steps": 2})
    result = run_sft(config, model_dir=tiny_model, train_rows=chat_rows, work_dir=tmp_path)
    assert result.model_dir is not None and result.adapter_dir is None
    assert {p.name for p in result.model_dir.iterdir()} == {p.name for p in tiny_model.iterdir()}
    before, after = load_model(tiny_model), load_model(result.model_dir)
    assert all(
        not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )


def test_bfloat16_follows_float32(tiny_model: Path, chat_rows: Rows, tmp_path: Path) -> None:
    runs = []
    for precision in ("float32", "bfloat16"):
        config = CONFIG.model_copy(
            update={"precision": precision, "activation_checkpointing": True, "max_steps": 10}
        )
        runs.append(_losses(config, tiny_model, chat_rows, tmp_path / precision))
    for wide, narrow in zip(*runs, strict=True):
        assert narrow.loss == pytest.approx(wide.loss, rel=0.03)


def test_options_of_memory_change_nothing_or_next_to_it(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    plain = CONFIG.model_copy(update={"max_steps": 3, "method": Full(), "lr": 1e-3})
    runs = []
    for name, changes in (
        ("plain", {}),
        ("budget", {"activation_budget": 0}),
        ("8bit", {"optimiser": "adamw-8bit"}),
    ):
        config = plain.model_copy(update=changes)
        runs.append(_losses(config, tiny_model, chat_rows, tmp_path / name))
    losses = [[event.loss for event in run] for run in runs]
    assert losses[1] == losses[0]
    assert losses[2] == pytest.approx(losses[0], abs=1e-3) and losses[2] != losses[0]


def test_what_is_on_the_host_already_is_not_moved_there(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"offload": True})
    with pytest.raises(Conflict, match="offload would be ignored"):
        run_sft(config, model_dir=tiny_model, train_rows=chat_rows, work_dir=tmp_path, device="cpu")


@pytest.mark.parametrize("method", [Full(), Lora(rank=4)])
@pytest.mark.parametrize(("precision", "gap"), [("float32", 0.0), ("bfloat16", 1e-3)])
def test_masters_on_the_host_train_the_same(
    tiny_model: Path,
    chat_rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: Full | Lora,
    precision: str,
    gap: float,
) -> None:
    """As if this processor were an accelerator: its working copies are others than the masters."""
    monkeypatch.setattr(workload, "is_host", lambda device: False)
    config = CONFIG.model_copy(update={"max_steps": 3, "method": method, "precision": precision})
    runs = []
    for offload in (False, True):
        options = {"offload": offload}
        work_dir = tmp_path / str(offload)
        run = _losses(config.model_copy(update=options), tiny_model, chat_rows, work_dir)
        runs.append([event.loss for event in run])
    assert runs[1] == pytest.approx(runs[0], rel=0, abs=gap)
    exported = [next((tmp_path / str(o)).rglob("*.safetensors")) for o in (False, True)]
    for one, other in zip(*(load_file(path).items() for path in exported), strict=True):
        assert one[0] == other[0] and one[1].dtype == other[1].dtype
        torch.testing.assert_close(one[1], other[1], rtol=gap, atol=2 * gap)


def test_nothing_to_train_on_is_said(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "anyone?"}]}]
    with pytest.raises(InvalidDataset, match="no row is left"):
        run_sft(CONFIG, model_dir=tiny_model, train_rows=rows, work_dir=tmp_path)


def test_without_held_out_rows_there_is_no_eval_loss(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"max_steps": 2, "eval_every": 1})
    events = _losses(config, tiny_model, chat_rows[:1], tmp_path)
    assert [event.eval_loss for event in events] == [None, None]
    result = run_sft(config, model_dir=tiny_model, train_rows=chat_rows[:1], work_dir=tmp_path)
    assert "eval_loss" not in result.metrics
    assert all(map(math.isfinite, result.metrics.values()))


def test_events_carry_evaluation_and_checkpoints(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(
        update={"max_steps": 6, "log_every": 4, "eval_every": 3, "checkpoint_every": 5}
    )
    events = _losses(config, tiny_model, chat_rows, tmp_path, eval_rows=chat_rows[:3])
    assert [event.step for event in events] == [3, 4, 5, 6]
    assert [event.eval_loss is not None for event in events] == [True, False, False, True]
    assert [event.checkpoint_seconds is not None for event in events] == [
        False,
        False,
        True,
        False,
    ]
    assert events[-1].lr < events[0].lr
