"""Which supervisor runs after an `up`, with a Ray that raises what Ray raises."""

from dataclasses import dataclass, field

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError

from foundry.errors import Unavailable
from foundry.supervisor.actors import ensure_version


@dataclass
class _Actors:
    """The actor under the name; what `ask_version` does, first to last.

    Attributes:
        living: version of the actor that lives; None: there is none.
        faults: raised by the next questions.
    """

    living: str | None = None
    faults: list[Exception] = field(default_factory=list)
    did: list[str] = field(default_factory=list)
    now: float = 0.0

    def start_or_find(self, version: str) -> object:
        if self.living is None:
            self.did.append(f"start {version}")
            self.living = version
        return self.living

    def ask_version(self, actor: object, timeout_s: float) -> str:
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, GetTimeoutError):
                self.now += timeout_s
            if isinstance(fault, ActorDiedError):
                self.living = None
            raise fault
        return str(actor)

    def end(self, actor: object) -> None:
        self.did.append(f"end {actor}")
        self.living = None

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def ensure(self, version: str) -> None:
        ensure_version(self, version, clock=lambda: self.now, sleep=self.sleep)


def test_one_of_the_same_version_is_left_alone() -> None:
    actors = _Actors(living="a")
    actors.ensure("a")
    assert actors.did == []


def test_a_missing_one_is_started() -> None:
    actors = _Actors()
    actors.ensure("a")
    assert actors.did == ["start a"]


def test_one_of_another_version_is_replaced() -> None:
    actors = _Actors(living="old")
    actors.ensure("new")
    assert actors.did == ["end old", "start new"]
    assert actors.living == "new"


def test_one_of_a_release_without_versions_is_replaced() -> None:
    actors = _Actors(living="old", faults=[AttributeError("version")])
    actors.ensure("new")
    assert actors.did == ["end old", "start new"]


def test_one_that_dies_before_it_answers_is_started_again() -> None:
    actors = _Actors(living="a", faults=[ActorDiedError()])
    actors.ensure("a")
    assert actors.did == ["start a"]


def test_one_that_does_not_answer_is_told_and_not_ended() -> None:
    """It may be starting on a slow machine."""
    actors = _Actors(living="a", faults=[GetTimeoutError("get timed out")])
    with pytest.raises(Unavailable, match="did not answer within 120 s"):
        actors.ensure("a")
    assert actors.did == []
    assert actors.now == 120.0


def test_the_last_one_that_is_started_has_a_second_to_answer() -> None:
    dying: list[Exception] = [ActorDiedError() for _ in range(239)]
    actors = _Actors(living="a", faults=[*dying, GetTimeoutError("get timed out")])
    with pytest.raises(Unavailable):
        actors.ensure("a")
    # 239 half seconds between starts, and the one second that is more than what was left.
    assert actors.now == 120.5
    assert actors.did == ["start a"] * 239
