"""Without the extra `budsim` the control plane, the SDK and the CLI work, and say what is missing.

A child process in which the extra's modules cannot be found stands for such an installation.
"""

import subprocess
import sys

from foundry.config import child_environment

_BLOCK = """
import importlib.util, sys
MISSING = {"scipy", "xgboost", "deap", "matplotlib", "plotext", "ray", "torch", "vllm"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(name)
        return None
sys.meta_path.insert(0, Absent())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in MISSING else found(name, *rest)
"""


def _child(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _BLOCK + script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_everything_imports_and_a_question_is_refused_with_the_remedy() -> None:
    said = _child(
        "import foundry.control.app, foundry.sdk, foundry.cli.budsim, foundry.cli.main\n"
        "from foundry.errors import UnsupportedFeature\n"
        "from foundry.serving.recommendations import numerics\n"
        "try:\n"
        "    numerics.require_libraries()\n"
        "except UnsupportedFeature as error:\n"
        "    print(error.message)\n"
    )
    assert said == (
        "budsim needs scipy, xgboost, deap, which this server lacks: install foundry[budsim]"
    )


def test_the_catalogue_needs_no_extra() -> None:
    said = _child(
        "from foundry.serving.recommendations import numerics\n"
        "rows = numerics.list_catalogue({'L4': 0.5})['data']\n"
        "print([row['price_per_hour'] for row in rows if row['id'] == 'nvidia-l4-24gb'])\n"
    )
    assert said == "[0.5]"


def test_the_capability_is_named() -> None:
    said = _child(
        "from foundry.control import capabilities\n"
        "capabilities.find_spec = importlib.util.find_spec\n"
        "print(capabilities.find_capabilities()['budsim'].reason)\n"
    )
    assert said == "xgboost is not installed here: pip install 'foundry[budsim]'"
