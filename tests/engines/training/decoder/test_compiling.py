"""What compiled layers need, and that a run which asks for them gets them.

Their numbers are compared in tests/gpu: to compile one layer takes a minute on a processor.
"""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from foundry.engines.training import workload
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.decoder.compiling import require_compiler
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.workload import SftWorkload
from foundry.errors import UnsupportedFeature

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CONFIG = SftConfig(method=Lora(rank=2), max_steps=1, max_seq_len=160)


def test_a_node_without_a_compiler_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/cc" if name == "cc" else None)
    require_compiler(CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_compiler(CPU)
    with pytest.raises(UnsupportedFeature, match="came without triton: leave compile out"):
        require_compiler(GPU)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnsupportedFeature, match=r"no C\+\+ compiler: install g\+\+"):
        require_compiler(CPU)


def test_a_run_compiles_if_it_is_asked_to(
    tiny_model: Path, chat_rows: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Decoder] = []
    monkeypatch.setattr(workload, "compile_layers", compiled.append)
    for asked in (False, True):
        config = CONFIG.model_copy(update={"compile": asked})
        SftWorkload.prepare(config, tiny_model, chat_rows, [])
        assert len(compiled) == asked
    assert CONFIG.digest() != config.digest()
