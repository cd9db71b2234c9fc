"""The peer's side of the training benchmarks: TRL's SFTTrainer with PEFT, in its own environment.

Usage: python trl_sft.py SPEC.json RESULT.json PRECISION. Starts from the adapter and the batches
that it is given; without an adapter it trains every weight. In bfloat16 it does what its users do:
autocast, over a base in bfloat16 with float32 adapters, or over float32 weights where all are
trained.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class InOrder(SFTTrainer):  # type: ignore[misc]
    """Takes the rows in the order given, which is Foundry's."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.finished: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.finished.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def read_peak_memory() -> int:
    """As `tests.bench.machine` does, which this environment lacks."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main(spec_path: str, result_path: str, precision: str) -> None:
    spec = json.loads(Path(spec_path).read_text())
    torch.set_num_threads(spec["threads"])
    narrow = precision == "bfloat16"
    adapter = spec["adapter_dir"]
    dtype = torch.bfloat16 if narrow and adapter else torch.float32
    model = AutoModelForCausalLM.from_pretrained(spec["model_dir"], dtype=dtype)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    watch = Stopwatch()
    trainer = InOrder(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(spec["model_dir"]),
        train_dataset=Dataset.from_list(spec["rows"]),
        callbacks=[watch],
        args=SFTConfig(
            output_dir=spec["work_dir"],
            max_steps=spec["steps"],
            per_device_train_batch_size=spec["micro_batch_size"],
            gradient_accumulation_steps=spec["batch_size"] // spec["micro_batch_size"],
            max_length=spec["max_seq_len"],
            learning_rate=spec["lr"],
            lr_scheduler_type="cosine",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            packing=False,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            bf16=narrow,
            use_cpu=True,
            logging_steps=1,
            logging_first_step=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    result = {
        "losses": watch.losses[: spec["steps"]],
        "finished": watch.finished,
        "peak_bytes": read_peak_memory(),
    }
    Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
