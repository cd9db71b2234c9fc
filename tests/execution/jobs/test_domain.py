"""The state machine of jobs; no database."""

from uuid import UUID

import pytest

from foundry.errors import InvalidRequest
from foundry.execution.jobs.domain import (
    ACTIVE,
    ENDED,
    LEASED,
    STARTABLE,
    TRANSITIONS,
    JobState,
    check_source,
    sources,
    submission_id,
)


def test_every_state_is_placed_once() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert set(JobState) == ACTIVE | ENDED
    assert LEASED | STARTABLE == ACTIVE
    assert not LEASED & STARTABLE


def test_success_is_final_and_failure_resumes() -> None:
    assert TRANSITIONS[JobState.SUCCEEDED] == set()
    assert sources(JobState.QUEUED) == {JobState.ADMITTED, JobState.FAILED, JobState.CANCELLED}
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
