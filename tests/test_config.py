"""Settings that are wrong are named by their variable, in our words."""

import pytest

from foundry.config import load_settings
from foundry.errors import SetupError


@pytest.mark.parametrize(
    ("variable", "value", "demand"),
    [
        ("FOUNDRY_HTTP__PORT", "many", "must be a whole number"),
        ("FOUNDRY_HTTP__PORT", "70000", "must be at most 65535"),
        ("FOUNDRY_HTTP__PORT", "1.5", "must be a whole number"),
        ("FOUNDRY_HTTP__REQUEST_TIMEOUT_S", "0", "must be greater than 0"),
        ("FOUNDRY_HTTP__REQUEST_TIMEOUT_S", "soon", "must be a number"),
        (
            "FOUNDRY_SERVING__DTYPE",
            "int4",
            "must be one of 'auto', 'float32', 'bfloat16' or 'float16'",
        ),
    ],
)
def test_a_wrong_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, demand: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SetupError) as raised:
        load_settings()
    assert raised.value.message == f"{variable} {demand}"


def test_a_misspelled_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_HTTP__PROT", "1")
    with pytest.raises(SetupError) as raised:
        load_settings()
    assert raised.value.message == (
        "unknown setting FOUNDRY_HTTP__PROT: check the spelling; "
        "`foundry config show` lists every setting"
    )
