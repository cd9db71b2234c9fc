"""What makes two requests for a job the same."""

from dataclasses import replace

from foundry.execution.jobs.request import JobRequest

REQUEST = JobRequest("sft", "bot", {"base": "smol@0.1.0", "config": {"a": 1, "b": 2}})


def test_the_order_of_fields_makes_no_other_request() -> None:
    turned = JobRequest("sft", "bot", {"config": {"b": 2, "a": 1}, "base": "smol@0.1.0"})
    assert turned.fingerprint == REQUEST.fingerprint


def test_kind_name_and_spec_make_another_request() -> None:
    others = [
        replace(REQUEST, kind="diloco"),
        replace(REQUEST, name="b"),
        replace(REQUEST, spec={}),
    ]
    assert len({REQUEST.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_only_the_identity_counts_where_there_is_one() -> None:
    first = replace(REQUEST, identity={"base": "sha256:ab"})
    second = replace(first, spec={"base": "other@0.1.0"}, priority=3, force=True)
    assert first.fingerprint == second.fingerprint != REQUEST.fingerprint
