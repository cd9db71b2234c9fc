"""Of 120 small faults planted in the parts that must not fail, how many do the tests notice?

`make bench NAME=mutation`: each mutant in a copy of the checkout, judged by the tests of its part
alone, two at a time. It ends with the survivors and one JSON line.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.mutants import Mutant, draw

ROOT = Path(__file__).parents[2]
COUNT, SEED = 120, 20261127
_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Suspect:
    """Modules and the tests that are to notice their faults."""

    modules: Sequence[str]
    tests: Sequence[str]
    postgres: bool = False

    def paths(self) -> list[Path]:
        found = [path for each in self.modules for path in sorted(ROOT.glob(each))]
        assert found, self.modules
        return [path.relative_to(ROOT) for path in found if path.name != "__init__.py"]


# The Ray shells (`ray_jobs`, `serve_engines`) have fakes that raise what Ray raises.
SUSPECTS = (
    Suspect(("foundry/supervisor/*.py",), ("tests/supervisor",), postgres=True),
    Suspect(
        ("foundry/execution/workers/attempt.py", "foundry/execution/jobs/leases.py"),
        ("tests/execution/workers", "tests/execution/jobs", "tests/supervisor"),
        postgres=True,
    ),
    Suspect(("foundry/gateway/relay.py",), ("tests/gateway",)),
    Suspect(("foundry/serving/engine/adapters.py",), ("tests/serving/engine",)),
)


def main() -> None:
    where = {path: suspect for suspect in SUSPECTS for path in suspect.paths()}
    drawn = draw(ROOT, list(where), COUNT, SEED)
    with tempfile.TemporaryDirectory(prefix="fdry-mutants-") as folder:
        copies = [_copy(Path(folder) / str(number)) for number in range(os.cpu_count() or 1)]
        shares = [drawn[number :: len(copies)] for number in range(len(copies))]
        with ThreadPoolExecutor(len(copies)) as pool:
            judged = pool.map(partial(_judge, where=where), copies, shares)
            survivors = [mutant for share in judged for mutant in share]
    for mutant in survivors:
        print(f"survived: {mutant.path}:{mutant.line} {mutant.change}")
    killed = len(drawn) - len(survivors)
    metrics = {"mutants": len(drawn), "killed": killed, "killed_share": killed / len(drawn)}
    print(json.dumps({"bench": "mutation", "metrics": metrics}))


def _copy(target: Path) -> Path:
    ignored = shutil.ignore_patterns(".git", ".venv", "*_cache", "__pycache__")
    shutil.copytree(ROOT, target, ignore=ignored)
    return target


def _judge(copy: Path, mutants: Sequence[Mutant], where: dict[Path, Suspect]) -> list[Mutant]:
    """The mutants that no test noticed."""
    survivors = []
    for mutant in mutants:
        module = copy / mutant.path
        original = module.read_text()
        module.write_text(mutant.source)
        try:
            if _passes(copy, mutant.path, where[mutant.path]):
                survivors.append(mutant)
                sys.stderr.write(f"survived: {mutant.path}:{mutant.line} {mutant.change}\n")
        finally:
            module.write_text(original)
    return survivors


def _nearest(module: Path, suspect: Suspect) -> list[str]:
    """The tests that are named after the module: run first, they end most runs early."""
    name = f"test_{module.stem}.py"
    return [
        str(path.relative_to(ROOT)) for each in suspect.tests for path in (ROOT / each).rglob(name)
    ]


def _passes(copy: Path, module: Path, suspect: Suspect) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=60", "-p", "no:cacheprovider"]
    marks = "not ray and not engine and not gpu and not bench"
    if not suspect.postgres:
        marks += " and not postgres"
    try:
        done = subprocess.run(
            [*command, "-m", marks, *_nearest(module, suspect), *suspect.tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    assert done.returncode in {0, 1, 2}, done.stdout.decode()[-2000:]
    return done.returncode == 0


if __name__ == "__main__":
    main()
