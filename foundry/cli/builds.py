"""What `foundry doctor` says of torch's and vLLM's builds: asked for, installed, and tried."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from foundry.install.builds import read_builds

_KNOWN_OF_BUILDS = (
    "torch",
    "engine",
    "index",
    "states",
    "driver",
    "tried",
    "evidence",
    "missing",
    "commands",
    "refused",
)


def describe_build(accelerator: str) -> dict[str, object]:
    """What the installer takes for an accelerator, what is known of it, and what is installed."""
    build = read_builds()[accelerator]
    known = {name: getattr(build, name) for name in _KNOWN_OF_BUILDS if getattr(build, name)}
    return {
        **known,
        "lock": None if build.lock is None else f"locks/{build.lock.name}",
        "installed_torch": _find_installed_version("torch"),
        "installed_ray": _find_installed_version("ray"),
    }


def list_builds() -> list[dict[str, object]]:
    """Every accelerator's build: locked, run, or only planned."""
    return [
        {
            "accelerator": build.accelerator,
            "states": list(build.states),
            "tried": build.tried,
            "evidence": list(build.evidence),
        }
        for build in read_builds().values()
    ]


def describe_state(accelerator: str) -> Iterator[str]:
    """What is known of this machine's build; the steps by hand where it has no lock; the others."""
    builds = read_builds()
    own = builds.pop(accelerator)
    yield f"state        {' and '.join(own.states)}; {own.tried}"
    if own.missing:
        yield f"missing      {own.missing}"
    for command in own.commands:
        yield f"by hand      {command}"
    others = (f"{name} {' and '.join(build.states)}" for name, build in builds.items())
    yield f"others       {', '.join(others)}"


def describe_packages(build: dict[str, object]) -> str:
    """The packages of a build in one line, or why there are none."""
    if refused := build.get("refused"):
        return str(refused)
    engine = build.get("engine", ())
    packages = engine if isinstance(engine, tuple) else (engine,)
    return ", ".join([f"torch {build['torch']}", *map(str, packages)])


def _find_installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
