"""docs/hardware.md from builds.toml: what each accelerator gets, and what is known of it."""

from collections.abc import Iterator

from foundry.engines.training.precision import RULES
from foundry.install.builds import ROOT, Build, read_builds

PAGE = ROOT / "docs" / "hardware.md"

_INTRODUCTION = """\
# Hardware

Written by `make lock` from `foundry/install/builds.toml`; do not edit. `foundry doctor` shows the
row of the machine that it runs on.

* **locked**: every version and hash is committed, and the installer takes them.
* **run**: training or serving ran on such a device, and its output is committed.
* **planned**: the installer knows the build, and nobody has run it.
"""
_PRECISION = """\
## Number formats

What `precision: auto`, the default, takes for training. Trained weights, sums of gradients and the
optimiser stay float32 everywhere; float16's losses are scaled. A format that no device of the
cluster has is refused when the job is submitted. Quantised serving uses 8-bit floats where there
are matrix units for them.

"""
_TESTING = """\
## Tests on an accelerator

`make test` runs them where it finds one. They also run from a checkout with nothing but torch 2.11
or newer, numpy, safetensors, tokenizers, jinja2, pydantic and pytest (no Ray, vLLM or network):

    python -m pytest -c /dev/null --rootdir . --confcutdir tests/gpu -p no:cacheprovider tests/gpu

`FOUNDRY_TEST_DEVICE=cpu` rehearses them on a processor; what only a device has is skipped there.
"""


def render_table() -> str:
    """The rows that this page and the README share."""
    rows = ["| Accelerator | Install | State | Tried |", "|---|---|---|---|"]
    for build in read_builds().values():
        cells = (build.title, describe_install(build), describe_states(build), build.tried)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def describe_install(build: Build) -> str:
    """Where the packages come from."""
    if build.lock is not None:
        versions = [".".join(map(str, version)) for version in build.python]
        return f"`locks/{build.lock.name}`, Python {', '.join(versions)}"
    return "the vendor's image" if build.refused else "build table, no lock"


def describe_states(build: Build) -> str:
    """Its states, with links to the evidence."""
    files = [f"[{path.rpartition('/')[2]}](/{path})" for path in build.evidence]
    words = [", ".join(("run:", *files)) if state == "run" else state for state in build.states]
    return ", ".join(words).replace("run:,", "run:")


def render_page() -> str:
    """The whole page."""
    precision = f"{_PRECISION}{_render_precision()}\n"
    return "\n".join((_INTRODUCTION, render_table(), "", *_sections(), precision, _TESTING))


def _render_precision() -> str:
    rows = ["| Vendor | Generation | `auto` | Others at full rate | 8-bit floats |"]
    rows.append("|---|---|---|---|---|")
    for rule in RULES:
        best, *others = rule.formats
        cells = (rule.vendor, rule.generation, best, ", ".join(others), "yes" if rule.fp8 else "no")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _sections() -> Iterator[str]:
    for build in read_builds().values():
        if not (build.missing or build.commands or build.driver):
            continue
        yield f"## {build.title}\n"
        if build.driver:
            yield (
                f"The build needs driver {build.driver} or newer, and has no kernels for V100 and "
                "P100 (they need a torch for CUDA 12.6, which is not locked).\n"
            )
        if build.missing:
            yield f"What is missing: {build.missing}.\n"
        if build.commands:
            yield "By hand, from a checkout:\n"
            yield "\n".join(f"    {command}" for command in build.commands) + "\n"
