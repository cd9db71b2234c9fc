"""One worker's rounds: what is undone, what is taken over, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from foundry.engines.training.diloco import config as cfg
from foundry.engines.training.diloco.replica import GlobalState, Residuals
from foundry.errors import InvalidArtifact
from tests.engines.training.diloco import toy
from tests.engines.training.diloco.workers import Worker, every_codec, lossy, outer, scattered, size


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
def test_cuts_cover_a_fragment_in_aligned_parts(parts: int) -> None:
    worker = Worker(outer(fragments=3))
    for fragment in range(3):
        cuts = worker.replica.cuts(fragment, parts)
        assert len(cuts) == parts
        assert cuts[0].start == 0 and cuts[-1].stop == size(worker, fragment)
        for cut, after in pairwise(cuts):
            assert cut.stop == after.start
            assert cut.stop % 4096 == 0 or cut.stop == size(worker, fragment)


@every_codec
@pytest.mark.parametrize("parts", [2, 3, 40])
def test_parts_say_what_the_whole_says(codec: cfg.Codec, parts: int) -> None:
    """Blocks and chunks do not cross a cut, so how many share the work changes no value."""
    worker = Worker(outer(codec))
    worker.train(toy.normal(size(worker), 1))
    whole = worker.seen(0, worker.replica.offer(0))
    payloads = worker.replica.offer(0, parts)
    assert [len(payload) for payload in payloads] == worker.replica.payload_bytes(0, parts)
    assert worker.seen(0, payloads).tobytes() == whole.tobytes()


@lossy
def test_a_withdrawn_round_leaves_no_trace(codec: cfg.Codec) -> None:
    workers = [Worker(outer(codec)) for _ in range(3)]
    for worker in workers:
        worker.train(toy.normal(size(worker), 1))
    _, delta = scattered(workers, 0)
    for worker in workers:
        worker.replica.commit(0, delta)
    for number, worker in enumerate(workers):
        worker.train(toy.normal(size(worker), 10 + number))
    before = [
        (w.live.tobytes(), w.replica.state.digest(), w.replica.residuals.offered.tobytes())
        for w in workers
    ]
    first = [worker.replica.offer(0, 3) for worker in workers]
    once, forwarded = scattered(workers, 0)
    for worker in workers:
        worker.replica.withdraw(0)
    assert before == [
        (w.live.tobytes(), w.replica.state.digest(), w.replica.residuals.offered.tobytes())
        for w in workers
    ]
    assert [worker.replica.offer(0, 3) for worker in workers] == first
    again, forwarded_again = scattered(workers, 0)
    assert again.tobytes() == once.tobytes()
    assert forwarded_again.tobytes() == forwarded.tobytes()


def test_nothing_but_a_commit_changes_the_global_state() -> None:
    workers = [Worker(outer(cfg.E3m0())) for _ in range(3)]
    start = workers[0].replica.state.digest()
    workers[0].train(toy.normal(size(workers[0]), 1))
    _, delta = scattered(workers, 0)
    assert {worker.replica.state.digest() for worker in workers} == {start}
    workers[0].replica.commit(0, delta)
    assert workers[0].replica.state.digest() != start


def test_a_commit_takes_the_outer_step_and_the_live_weights_follow() -> None:
    worker = Worker(outer(lr=0.7, momentum=0.9))
    theta = worker.replica.state.theta.copy()
    velocity = np.zeros_like(theta)
    mu, eta = np.float32(0.9), np.float32(0.7)
    for seed in range(3):
        delta = worker.train(toy.normal(size(worker), seed))
        worker.replica.offer(0)
        worker.replica.commit(0, delta)
        velocity = velocity * mu + delta
        theta -= eta * (delta + mu * velocity)
        assert worker.replica.state.theta.tobytes() == theta.tobytes()
        assert worker.replica.state.velocity.tobytes() == velocity.tobytes()
        assert worker.live.tobytes() == theta.tobytes()


def test_mixing_keeps_a_share_of_the_live_weights() -> None:
    worker = Worker(outer(mixing=0.25, lr=1.0, momentum=0.0))
    worker.train(toy.normal(size(worker), 1))
    worker.replica.offer(0)
    before = worker.live
    worker.replica.commit(0, toy.normal(size(worker), 2))
    expected = np.float32(0.25) * before + np.float32(0.75) * worker.replica.state.theta
    assert worker.live.tobytes() == expected.tobytes()


def test_fragments_are_committed_apart() -> None:
    worker = Worker(outer(fragments=3))
    start = worker.replica.state.copy()
    for fragment in range(3):
        worker.train(toy.normal(size(worker, fragment), fragment), fragment)
    before = worker.live
    delta = worker.seen(1, worker.replica.offer(1))
    worker.replica.commit(1, delta)
    whole = worker.replica.layout.slice(1)
    outside = np.ones(start.theta.size, bool)
    outside[whole] = False
    assert (worker.live[outside] == before[outside]).all()
    assert (worker.replica.state.theta[outside] == start.theta[outside]).all()
    assert not worker.replica.state.velocity[outside].any()
    assert (worker.replica.state.velocity[whole] == delta).all()


def test_healing_takes_the_donors_state_and_drops_everything_else() -> None:
    donor, joiner = (Worker(outer(cfg.TopK(), fragments=2)) for _ in range(2))
    for round_ in range(4):
        fragment = round_ % 2
        for number, worker in enumerate((donor, joiner)):
            worker.train(toy.normal(size(worker, fragment), 10 * round_ + number), fragment)
            worker.replica.commit(fragment, worker.seen(fragment, worker.replica.offer(fragment)))
    joiner.train(toy.normal(size(joiner, 1), 99), 1)
    joiner.replica.offer(1)
    assert joiner.replica.state.digest() != donor.replica.state.digest()
    joiner.replica.heal(donor.replica.state)
    digest = donor.replica.state.digest()
    assert joiner.replica.state.digest() == digest
    assert (joiner.live == donor.replica.state.theta).all()
    assert not joiner.replica.residuals.offered.any()
    assert not joiner.replica.residuals.forwarded.any()
    # The states are two: what one commits does not reach the other.
    donor.train(toy.normal(size(donor), 5))
    donor.replica.commit(0, donor.seen(0, donor.replica.offer(0)))
    assert joiner.replica.state.digest() == digest


def test_a_joiner_that_offers_nothing_new_offers_zeros() -> None:
    worker = Worker(outer(cfg.E3m0()))
    worker.replica.heal(GlobalState(toy.normal(size(worker), 1), toy.normal(size(worker), 2)))
    assert not worker.seen(0, worker.replica.offer(0)).any()


@lossy
def test_a_restored_replica_goes_on_bit_for_bit(codec: cfg.Codec) -> None:
    def rounds(workers: list[Worker], numbers: range) -> None:
        for round_ in numbers:
            for number, worker in enumerate(workers):
                worker.train(toy.normal(size(worker), 100 * round_ + number))
            _, delta = scattered(workers, 0)
            for worker in workers:
                worker.replica.commit(0, delta)

    whole = [Worker(outer(codec, mixing=0.5)) for _ in range(3)]
    rounds(whole, range(3))
    saved = [
        (
            worker.live,
            worker.replica.state.copy(),
            Residuals(
                worker.replica.residuals.offered.copy(), worker.replica.residuals.forwarded.copy()
            ),
        )
        for worker in whole
    ]
    rounds(whole, range(3, 6))
    resumed = [Worker(outer(codec, mixing=0.5)) for _ in range(3)]
    for worker, (values, state, residuals) in zip(resumed, saved, strict=True):
        worker.replica.layout.write(values, worker.parameters, 0)
        worker.replica.restore(state, residuals)
    rounds(resumed, range(3, 6))
    for one, other in zip(whole, resumed, strict=True):
        assert one.live.tobytes() == other.live.tobytes()
        assert one.replica.state.digest() == other.replica.state.digest()
        for name in ("offered", "forwarded"):
            first, second = (getattr(w.replica.residuals, name) for w in (one, other))
            assert first.tobytes() == second.tobytes()


@every_codec
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_diverged_worker_offers_nothing(codec: cfg.Codec, poison: float) -> None:
    worker = Worker(outer(codec))
    with torch.no_grad():
        worker.parameters["model.layers.1.weight"][7] = poison
    with pytest.raises(InvalidArtifact, match="diverged"):
        worker.replica.offer(0)
    worker.replica.withdraw(0)
    assert np.isfinite(worker.replica.residuals.offered).all()


def test_a_poisoned_offer_of_another_worker_is_refused() -> None:
    worker = Worker(outer())
    payloads = worker.replica.offer(0)
    poisoned = np.array([np.nan], "<f4").tobytes() + payloads[0][4:]
    with pytest.raises(InvalidArtifact, match="not finite"):
        worker.replica.reduce(0, worker.replica.cuts(0, 1)[0], [payloads[0], poisoned], [1, 1])
    with pytest.raises(InvalidArtifact, match="not finite"):
        worker.replica.assemble(0, [poisoned])


def test_the_digest_sees_every_bit() -> None:
    state = GlobalState(toy.normal(64, 1), toy.normal(64, 2))
    seen = {state.digest()}
    for vector in (state.theta, state.velocity):
        bits = vector.view(np.uint32)
        for place in (0, 31, 63):
            for bit in range(32):
                bits[place] ^= np.uint32(1 << bit)
                seen.add(state.digest())
                bits[place] ^= np.uint32(1 << bit)
    assert len(seen) == 1 + 2 * 3 * 32
    assert GlobalState(state.velocity, state.theta).digest() not in seen
    assert state.copy().digest() == state.digest()
