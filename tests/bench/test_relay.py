"""The ratios that `relay` reports."""

from tests.bench.relay import LOADS, Round, metrics_of


def rounds(ttft_s: float, speed: float) -> list[Round]:
    """Three, of which the middle one counts."""
    return [
        Round(dict.fromkeys(LOADS, ttft_s * factor), dict.fromkeys(LOADS, speed * factor))
        for factor in (0.5, 1.0, 7.0)
    ]


def test_ratios_are_of_medians_and_to_both_tunings() -> None:
    found = metrics_of(
        {"foundry": rounds(0.11, 48.0), "raw": rounds(0.22, 24.0), "equal": rounds(0.1, 50.0)}
    )
    assert found["ttft_p50_ratio_equal_c1"] == 1.1
    assert found["throughput_ratio_equal_c8"] == 0.96
    assert found["throughput_ratio_c8"] == 2.0
    assert found["ttft_p50_ratio_c1"] == 0.5
    assert found["foundry_ttft_p50_ms_c16"] == 110.0
    assert len(found) == 3 * (3 * 2 + 4)
