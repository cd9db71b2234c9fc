"""The state machine of jobs; no database."""

from uuid import UUID

import pytest

from foundry.errors import InvalidRequest
from foundry.execution.jobs.domain import (
    ACTIVE,
    ENDED,
    LEASED,
    TRANSITIONS,
    WAITING,
    JobState,
    Phase,
    allowed_silence_s,
    check_source,
    sources,
    submission_id,
)


def test_every_state_is_placed_once() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert set(JobState) == ACTIVE | ENDED
    assert LEASED | WAITING | {JobState.STALLED} == ACTIVE
    assert not LEASED & WAITING


def test_every_active_state_can_end_every_way_that_it_must() -> None:
    for state in ACTIVE:
        assert JobState.CANCELLED in TRANSITIONS[state], state
    reached, frontier = {JobState.QUEUED}, {JobState.QUEUED}
    while frontier := {t for s in frontier for t in TRANSITIONS[s]} - reached:
        reached |= frontier
    assert reached == set(JobState)


def test_how_long_a_phase_may_show_nothing_new() -> None:
    assert allowed_silence_s(Phase.PLACE) is None
    assert allowed_silence_s(Phase.LOAD) == 900
    assert allowed_silence_s(Phase.COMPILE) == 1800
    assert allowed_silence_s(Phase.CHECKPOINT) == 600
    assert allowed_silence_s(Phase.TRAIN) == 120
    assert allowed_silence_s(Phase.TRAIN, 19.0) == 120
    assert allowed_silence_s(Phase.TRAIN, 50.0) == 300
    assert allowed_silence_s(Phase.LOAD, 500.0) == 900


def test_success_is_final_and_failure_resumes() -> None:
    assert TRANSITIONS[JobState.SUCCEEDED] == set()
    assert sources(JobState.QUEUED) == {
        JobState.ADMITTED,
        JobState.STALLED,
        JobState.FAILED,
        JobState.CANCELLED,
    }
    assert sources(JobState.SUCCEEDED) == LEASED


def test_an_attempt_has_one_name() -> None:
    job = UUID(int=7)
    assert submission_id(job, 2) == "fj-00000000-0000-0000-0000-000000000007-2"


def test_sources() -> None:
    check_source("bundled:smollm2-135m")
    check_source("file:///models/llama")
    for bad in ("", "file://host/x", "file:///a/..", "file:///../x", "s3://x", "file:relative"):
        with pytest.raises(InvalidRequest):
            check_source(bad)
