"""Error feedback: what a payload leaves out is sent later, and nothing is sent twice."""

import numpy as np
import pytest

from foundry.engines.training.diloco import config as cfg
from tests.engines.training.diloco import toy
from tests.engines.training.diloco.workers import Worker, lossy, outer, scattered, size


@lossy
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("fragments", [1, 2])
def test_error_feedback_sums_to_the_true_gradient(
    codec: cfg.Codec, parts: int, fragments: int
) -> None:
    """Σ payloads + what is still kept back = Σ gradients, but for float32 rounding."""
    worker = Worker(outer(codec, fragments=fragments))
    sent, true, bound = (np.zeros(worker.replica.layout.size) for _ in range(3))
    for round_ in range(12):
        fragment = round_ % fragments
        whole = worker.replica.layout.slice(fragment)
        scale = np.float32(10.0 ** (round_ % 3))
        gradient = worker.train(scale * toy.normal(size(worker, fragment), round_), fragment)
        wanted = gradient.astype(np.float64) + worker.replica.residuals.offered[whole]
        seen = worker.seen(fragment, worker.replica.offer(fragment, parts))
        worker.replica.commit(fragment, seen)
        true[whole] += gradient
        sent[whole] += seen
        # Half a unit in the last place of the sum, and of the difference.
        bound[whole] += (np.abs(wanted) + np.abs(wanted - seen)) * 2.0**-24 * 1.001
    kept = worker.replica.residuals.offered
    assert (np.abs(sent + kept - true) <= bound).all()
    assert np.abs(kept).max() > 0
    assert sent + kept == pytest.approx(true, abs=1e-3)


def test_a_decay_forgets_part_of_the_error() -> None:
    worker = Worker(outer(cfg.TopK(decay=0.75)))
    gradient = worker.train(toy.normal(size(worker), 1))
    seen = worker.seen(0, worker.replica.offer(0))
    worker.replica.commit(0, seen)
    expected = np.float32(0.75) * (gradient - seen)
    assert worker.replica.residuals.offered.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "codec",
    [
        cfg.Fp32(),
        cfg.Bf16(),
        cfg.Int8(error_feedback=False),
        cfg.E3m0(error_feedback=False),
        cfg.TopK(error_feedback=False),
    ],
)
def test_without_error_feedback_nothing_is_kept_back(codec: cfg.Codec) -> None:
    worker = Worker(outer(codec))
    worker.train(toy.normal(size(worker), 1))
    worker.replica.commit(0, worker.seen(0, worker.replica.offer(0)))
    assert not worker.replica.residuals.offered.any()
    assert not worker.replica.residuals.forwarded.any()


@lossy
def test_what_forwarding_leaves_out_is_forwarded_later(codec: cfg.Codec) -> None:
    """Σ assembled + what the reducers still keep back = Σ means."""
    workers = [Worker(outer(codec)) for _ in range(3)]
    total, seen = np.zeros(size(workers[0])), np.zeros(size(workers[0]))
    for round_ in range(10):
        for number, worker in enumerate(workers):
            worker.train(toy.normal(size(worker), 100 * round_ + number))
        mean, delta = scattered(workers, 0)
        for worker in workers:
            worker.replica.commit(0, delta)
        total += mean
        seen += delta
        assert len({worker.replica.state.digest() for worker in workers}) == 1
    kept = np.sum([w.replica.residuals.forwarded for w in workers], axis=0, dtype=np.float64)
    assert seen + kept == pytest.approx(total, abs=2e-5)
    # Each part has one reducer, and only that one keeps anything back.
    for worker, cut in zip(workers, workers[0].replica.cuts(0, 3), strict=True):
        others = np.ones(size(worker), bool)
        others[cut] = False
        assert not worker.replica.residuals.forwarded[others].any()
        assert worker.replica.residuals.forwarded[cut].any()


def test_a_part_that_changes_hands_takes_no_old_error_along() -> None:
    workers = [Worker(outer(cfg.E3m0())) for _ in range(3)]
    cuts = workers[0].replica.cuts(0, 3)
    for round_, order in enumerate((workers, workers[::-1])):
        for number, worker in enumerate(workers):
            worker.train(toy.normal(size(worker), 10 * round_ + number))
        _, delta = scattered(order, 0)
        for worker in workers:
            worker.replica.commit(0, delta)
    for worker, cut in zip(workers[::-1], cuts, strict=True):
        others = np.ones(size(worker), bool)
        others[cut] = False
        assert not worker.replica.residuals.forwarded[others].any()
        assert worker.replica.residuals.forwarded[cut].any()


@pytest.mark.parametrize("mixing", [0.0, 0.5])
def test_late_work_is_merged_with_the_next_round(mixing: float) -> None:
    """A late worker's two rounds of work arrive once, whatever share of itself it keeps."""
    worker = Worker(outer(mixing=mixing, lr=1.0, momentum=0.0))
    first, second, others = (toy.normal(size(worker), seed) for seed in (1, 2, 3))
    worker.train(first)
    worker.replica.offer(0)
    worker.replica.commit(0, others, merged=False)
    theta = worker.replica.state.theta.copy()
    worker.train(second)
    offered = worker.seen(0, worker.replica.offer(0))
    # Mixing leaves it behind the others' update by its share, as it does every worker.
    behind = np.float32(mixing) * -others
    assert offered == pytest.approx(first + second + behind, abs=2e-6)
    worker.replica.commit(0, offered)
    assert worker.replica.state.theta == pytest.approx(theta - offered, abs=1e-6)
    assert not worker.replica.residuals.offered.any()


@lossy
def test_late_work_joins_the_error_kept_so_far(codec: cfg.Codec) -> None:
    worker = Worker(outer(codec))
    true = worker.train(toy.normal(size(worker), 1)).astype(np.float64)
    first = worker.seen(0, worker.replica.offer(0))
    worker.replica.commit(0, first)
    true += worker.train(toy.normal(size(worker), 2))
    worker.replica.offer(0)
    worker.replica.commit(0, toy.normal(size(worker), 3), merged=False)
    assert (worker.live == worker.replica.state.theta).all()
    true += worker.train(toy.normal(size(worker), 4))
    second = worker.seen(0, worker.replica.offer(0))
    worker.replica.commit(0, second)
    sent = first.astype(np.float64) + second
    assert sent + worker.replica.residuals.offered == pytest.approx(true, abs=1e-5)
