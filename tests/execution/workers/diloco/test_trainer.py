"""What a member's offer weighs."""

import numpy as np
import pytest

from foundry.engines.training.diloco.config import Fragment
from foundry.execution.workers.diloco.messages import RoundPlan
from foundry.execution.workers.diloco.reducing import Update
from foundry.execution.workers.diloco.trainer import Trainer
from tests.execution.workers.diloco.fleets import config
from tests.fakes.fleet import TOKENS, TinyWorkload

_TRAINED = TOKENS - 1  # of a batch


def trainer(fragments: int) -> Trainer:
    return Trainer(TinyWorkload(12), config(2, 12, {"fragments": fragments, "inner_steps": 8}))


def train(subject: Trainer, steps: int) -> None:
    for number in range(steps):
        subject.step(number, float(number))


def merge(subject: Trainer, round: int, fragment: Fragment, *, merged: bool = True) -> float:
    """One round with nobody else. Returns the weight of the offer."""
    offered = subject.offer(RoundPlan(round, fragment, (), 0.0, 1.0, 1))
    cut = subject.replica.cuts(fragment, 1)[0]
    delta = np.zeros(cut.stop - cut.start, np.float32)
    state = subject.replica.state
    subject.apply(Update(round, fragment, delta, state, state.digest()), merged=merged)
    return offered.weight


def test_an_offer_weighs_the_tokens_that_moved_its_fragment() -> None:
    subject = trainer(fragments=2)
    train(subject, 4)
    assert merge(subject, 1, 0) == 4 * _TRAINED
    train(subject, 4)
    assert merge(subject, 2, 1) == 8 * _TRAINED
    train(subject, 1)
    # The first fragment was moved by five batches, the second by one.
    layout = subject.replica.layout
    sizes = [layout.slice(f).stop - layout.slice(f).start for f in (0, 1)]
    mean = (5 * sizes[0] + 1 * sizes[1]) / layout.size
    assert merge(subject, 3, None) == pytest.approx(mean * _TRAINED)
    assert merge(subject, 4, None) == 1.0, "nothing was learnt since: next to no weight"


def test_work_that_was_late_weighs_with_the_next_offer() -> None:
    subject = trainer(fragments=1)
    train(subject, 2)
    assert merge(subject, 1, 0, merged=False) == 2 * _TRAINED
    train(subject, 3)
    assert merge(subject, 2, 0) == 5 * _TRAINED


def test_a_healed_member_has_learnt_nothing_yet() -> None:
    subject = trainer(fragments=2)
    train(subject, 4)
    subject.heal(subject.replica.state, 1)
    assert merge(subject, 2, 0) == 1.0
