"""The transition table of endpoints; no database."""

import hashlib
from itertools import pairwise

from foundry.serving.endpoints.domain import (
    RESTING,
    SERVING,
    STARTING,
    TRANSITIONS,
    EndpointState,
    RevisionDiff,
    app_name,
    config_digest,
    deploy_command,
    states_before,
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
    assert states_before(S.RUNNING) == {S.VERIFYING, S.DEGRADED, S.UPDATING}
    # A recreate takes the old engine's place before the new one runs.
    assert TRANSITIONS[S.UPDATING] >= STARTING


def test_names_of_engines() -> None:
    assert app_name("0123456789abcdef" * 4, 3) == "engine-0123456789abcdef01234567-r3"


def test_the_digest_of_a_configuration_is_canonical() -> None:
    base = "ab" * 32
    one = config_digest(base, {"a": 1, "resources": {"x": 1, "y": 2}})
    assert one == config_digest(base, {"resources": {"y": 2, "x": 1}, "a": 1})
    expected = '{"base":"' + base + '","config":{"a":1,"resources":{"x":1,"y":2}}}'
    assert one == hashlib.sha256(expected.encode()).hexdigest()
    assert one != config_digest("cd" * 32, {"a": 1, "resources": {"x": 1, "y": 2}})


def test_a_diff_names_what_changed_was_set_and_was_unset() -> None:
    found = RevisionDiff.of(1, 2, {"a": 1, "b": 2, "same": 0}, {"a": 3, "c": 4, "same": 0})
    assert [(each.field, each.before, each.after) for each in found.changes] == [
        ("a", 1, 3),
        ("b", 2, None),
        ("c", None, 4),
    ]


def test_the_command_to_deploy_names_an_endpoint_that_is_called_otherwise() -> None:
    assert deploy_command("smol", "smol@0.1.0") == "foundry deploy smol@0.1.0"
    assert deploy_command("smol-2", "smol@0.1.0") == "foundry deploy smol@0.1.0 --name smol-2"
    # A name that only begins alike is another one.
    assert deploy_command("smo", "smol@0.1.0") == "foundry deploy smol@0.1.0 --name smo"
