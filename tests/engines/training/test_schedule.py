import pytest

from foundry.engines.training.schedule import learning_rate


def test_cosine_with_warmup_at_known_points() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, peak=2.0, total_steps=110, warmup_ratio=0.09, kind="cosine")

    assert rate(0) == pytest.approx(0.2)
    assert rate(9) == pytest.approx(2.0)
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.0)
    assert 0 < rate(109) < 0.001


def test_linear_and_constant() -> None:
    def rate(step: int, kind: str) -> float:
        return learning_rate(step, peak=1.0, total_steps=4, warmup_ratio=0, kind=kind)  # type: ignore[arg-type]

    assert [rate(step, "linear") for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [rate(step, "constant") for step in range(4)] == [1, 1, 1, 1]
