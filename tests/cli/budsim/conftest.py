"""A directory with a model, as users have one."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import server as server
from tests.serving.recommendations.questions import LLAMA


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the files that examples read; no server."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    files = {
        "config.json": json.dumps(LLAMA),
        "cluster.yaml": "groups:\n- {gpu: nvidia-l40s-48gb, gpus_per_node: 4}\n",
        "configurations.yaml": "- {gpu: nvidia-l40s-48gb}\n- {gpu: nvidia-l4-24gb, replicas: 2}\n",
        "deployment.yaml": "deployment:\n  config: {max_num_seqs: 64}\n"
        "  resources: {gpu_type: nvidia-l40s-48gb}\n",
        "trace.csv": "arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,20\n0.5,200,30\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output goes to a terminal of 80 columns, without colours."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
