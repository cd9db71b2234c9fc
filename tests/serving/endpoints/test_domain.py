"""The transition table of endpoints; no database."""

from itertools import pairwise

from foundry.serving.endpoints.domain import (
    RESTING,
    SERVING,
    STARTING,
    TRANSITIONS,
    EndpointState,
    app_name,
    sources,
)

S = EndpointState


def test_the_road_to_running() -> None:
    road = [
        S.CREATED, S.PENDING, S.VALIDATING, S.TRANSFERRING, S.DEPLOYING, S.VERIFYING, S.RUNNING,
    ]  # fmt: skip
    for here, there in pairwise(road):
        assert there in TRANSITIONS[here]


def test_whatever_runs_may_fail_stop_and_be_deleted() -> None:
    for state in STARTING | SERVING:
        assert {S.FAILED, S.STOPPING, S.DELETING} <= TRANSITIONS[state]
    assert S.STOPPING in TRANSITIONS[S.FAILED]
    for state in RESTING:
        assert S.STOPPING not in TRANSITIONS[state]
        assert S.FAILED not in TRANSITIONS[state]


def test_deleted_is_final() -> None:
    assert TRANSITIONS[S.DELETED] == set()
    assert TRANSITIONS[S.DELETING] == {S.DELETED}
    assert sources(S.RUNNING) == {S.VERIFYING, S.DEGRADED, S.UPDATING}


def test_names_of_engines() -> None:
    assert app_name("0123456789abcdef" * 4, 3) == "engine-01234567-r3"
