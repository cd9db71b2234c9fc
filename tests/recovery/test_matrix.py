"""Which faults the campaign and the bench try."""

from collections import Counter

from tests.recovery.matrix import list_cases
from tests.recovery.situations import SITUATIONS


def test_the_bench_tries_each_part_once_by_each_signal() -> None:
    tried = Counter(case.part.name for case in list_cases(("rest", "training")))
    assert len(tried) == 9
    assert set(tried.values()) == {2}


def test_the_campaign_tries_parts_wherever_they_are_there() -> None:
    cases = list_cases(SITUATIONS)
    assert len({case.name for case in cases}) == len(cases) == 7 * 5 * 2 + 2 * 3 * 2
    situations = {case.situation for case in cases if case.part.name == "worker"}
    assert situations == {"training", "publish", "cancel"}
