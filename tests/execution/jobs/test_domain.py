"""The state machine of jobs; no database."""

from uuid import UUID

from foundry.execution.jobs.domain import (
    ACTIVE,
    ENDED,
    LEASED,
    WAITING,
    JobState,
    Phase,
    allowed_silence_s,
    retry_delay_s,
    submission_id,
)


def test_every_state_is_placed_once() -> None:
    assert set(JobState) == ACTIVE | ENDED
    assert LEASED | WAITING | {JobState.STALLED} == ACTIVE
    assert not LEASED & WAITING


def test_how_long_a_phase_may_show_nothing_new() -> None:
    assert allowed_silence_s(Phase.PLACE) is None
    assert allowed_silence_s(Phase.LOAD) == 900
    assert allowed_silence_s(Phase.COMPILE) == 1800
    assert allowed_silence_s(Phase.CHECKPOINT) == 600
    assert allowed_silence_s(Phase.TRAIN) == 120
    assert allowed_silence_s(Phase.TRAIN, 19.0) == 120
    assert allowed_silence_s(Phase.TRAIN, 50.0) == 300
    assert allowed_silence_s(Phase.LOAD, 500.0) == 900


def test_the_delay_between_attempts_grows_to_its_cap() -> None:
    assert [retry_delay_s(failures, 0) for failures in (1, 2, 3, 4, 99)] == [5, 20, 80, 300, 300]
    assert (retry_delay_s(2, -1), retry_delay_s(2, 1)) == (15, 25)


def test_an_attempt_has_one_name() -> None:
    job = UUID(int=7)
    assert submission_id(job, 2) == "fj-00000000-0000-0000-0000-000000000007-2"
