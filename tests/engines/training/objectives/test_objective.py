from math import isnan

import pytest
import torch

from foundry.engines.training.objectives.objective import combine_metrics, sum_by_segment
from tests.engines.training.objectives.conftest import MakeBatch


def test_metrics_combine_as_their_names_say() -> None:
    first = {
        "loss:sum": torch.tensor(1.0),
        "ratio:mean": torch.tensor(2.0),
        "ratio:max": torch.tensor(5.0),
        "ratio:min": torch.tensor(0.5),
    }
    second = {
        "loss:sum": torch.tensor(10.0),
        "ratio:mean": torch.tensor(6.0),
        "ratio:max": torch.tensor(4.0),
        "kl:mean": torch.tensor(3.0),
    }
    assert combine_metrics([first, second], [1, 3]) == pytest.approx(
        {"loss:sum": 11.0, "ratio:mean": 5.0, "ratio:max": 5.0, "ratio:min": 0.5, "kl:mean": 3.0}
    )
    assert combine_metrics([], []) == {}
    infinite = [{"loss:sum": torch.tensor(sign * torch.inf)} for sign in (1, -1)]
    assert isnan(combine_metrics(infinite, [1, 1])["loss:sum"])


def test_sums_go_to_the_segment_of_the_target(make_batch: MakeBatch) -> None:
    batch = make_batch(2, 1, 3)
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert sum_by_segment(values, batch).tolist() == [3.0, 4.0, 56.0]
    assert batch.targets_per_segment == (2, 1, 3)
