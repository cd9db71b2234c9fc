"""No batch is lost and none is trained twice, whoever comes and goes."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.engines.training.diloco.ledger import Ledger, Shard, Shards, merged


def batches(shards: Shards) -> list[int]:
    return [number for shard in shards for number in range(shard.start, shard.stop)]


def held(ledger: Ledger) -> Counter[int]:
    return Counter(n for shards in ledger.held.values() for n in batches(shards))


def check(ledger: Ledger, committed: Counter[int]) -> None:
    """Every batch is in exactly one place."""
    waiting = Counter(batches(ledger.returned)) + Counter(range(ledger.next, ledger.total))
    everywhere = waiting + held(ledger) + committed
    assert everywhere == Counter(range(ledger.total))
    assert ledger.left == waiting.total()
    assert ledger.outstanding == held(ledger).total()
    assert ledger.committed == committed.total()
    for shards in (ledger.returned, *ledger.held.values()):
        assert shards == merged(shards)
        assert all(len(shard) > 0 for shard in shards)


def test_members_are_served_by_name_from_the_front() -> None:
    ledger, given_out = Ledger(100).assign({"b": 10, "a": 20})
    assert given_out == {"a": (Shard(0, 20),), "b": (Shard(20, 30),)}
    assert (ledger.left, ledger.outstanding, ledger.committed) == (70, 30, 0)
    ledger = ledger.commit(["a"])
    assert (ledger.left, ledger.outstanding, ledger.committed) == (70, 10, 20)
    assert ledger.held == {"b": (Shard(20, 30),)}


def test_what_comes_back_is_given_out_first() -> None:
    ledger, _ = Ledger(100).assign({"a": 10, "b": 10, "c": 10})
    ledger = ledger.give_back("b").commit(["a", "c"])
    assert ledger.returned == (Shard(10, 20),)
    ledger, given_out = ledger.assign({"a": 4, "c": 10})
    assert given_out == {"a": (Shard(10, 14),), "c": (Shard(14, 20), Shard(30, 34))}
    assert ledger.returned == ()


def test_a_late_member_holds_the_old_and_the_new() -> None:
    ledger, _ = Ledger(100).assign({"a": 10, "b": 10})
    ledger, given_out = ledger.commit(["b"]).assign({"a": 5, "b": 5})
    assert given_out["a"] == (Shard(20, 25),)
    assert ledger.held["a"] == (Shard(0, 10), Shard(20, 25))
    assert ledger.give_back("a").returned == (Shard(0, 10), Shard(20, 25))


@pytest.mark.parametrize(
    ("left", "counts", "expected"),
    [
        (9, {"a": 10, "b": 10, "c": 10}, {"a": 3, "b": 3, "c": 3}),
        (8, {"a": 10, "b": 10, "c": 10}, {"a": 3, "b": 3, "c": 2}),
        (2, {"a": 10, "b": 10, "c": 10}, {"a": 1, "b": 1, "c": 0}),
        (12, {"a": 12, "b": 4}, {"a": 9, "b": 3}),
        (10, {"a": 10, "b": 0, "c": 2}, {"a": 9, "b": 0, "c": 1}),
        (3, {"a": 0, "b": 2, "c": 2}, {"a": 0, "b": 2, "c": 1}),
        (0, {"a": 10, "b": 10}, {"a": 0, "b": 0}),
    ],
)
def test_the_last_batches_are_shared_out(
    left: int, counts: dict[str, int], expected: dict[str, int]
) -> None:
    ledger, given_out = Ledger(left).assign(counts)
    assert {m: len(batches(shards)) for m, shards in given_out.items()} == expected
    assert ledger.left == 0
    assert sorted(ledger.held) == [member for member in sorted(counts) if expected[member]]


@settings(deadline=None)
@given(st.integers(0, 200), st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 60)))
def test_a_share_is_never_above_the_count_and_nothing_is_left_over(
    total: int, counts: dict[str, int]
) -> None:
    ledger, given_out = Ledger(total).assign(counts)
    sizes = {member: len(batches(shards)) for member, shards in given_out.items()}
    assert all(sizes[member] <= counts[member] for member in counts)
    assert sum(sizes.values()) == min(total, sum(counts.values()))
    if sum(counts.values()) > total:
        for member, count in counts.items():
            fair = total * count / sum(counts.values())
            assert abs(sizes[member] - fair) <= 1
    check(ledger, Counter())


def test_neighbours_are_joined() -> None:
    assert merged([Shard(5, 7), Shard(0, 2), Shard(2, 5), Shard(9, 10)]) == (
        Shard(0, 7),
        Shard(9, 10),
    )
    assert merged([]) == ()


MEMBERS = st.sampled_from(["ann", "bob", "cy", "dee", "eve"])
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("assign"), st.dictionaries(MEMBERS, st.integers(0, 9), min_size=1, max_size=5)
        ),
        st.tuples(st.just("commit"), st.sets(MEMBERS)),
        st.tuples(st.just("give_back"), MEMBERS),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(st.integers(0, 80), EVENTS)
def test_every_batch_is_committed_once_through_any_churn(
    total: int, events: list[tuple[str, object]]
) -> None:
    ledger, committed = Ledger(total), Counter[int]()
    for kind, what in events:
        if isinstance(what, dict):
            ledger, given_out = ledger.assign(what)
            for member, shards in given_out.items():
                assert Counter(batches(shards)) <= Counter(batches(ledger.held.get(member, ())))
        elif kind == "commit":
            assert isinstance(what, set)
            for member in what:
                committed.update(batches(ledger.held.get(member, ())))
            ledger = ledger.commit(what)
        else:
            ledger = ledger.give_back(str(what))
        check(ledger, committed)
    # Whoever is left finishes the run.
    for member in sorted(ledger.held):
        ledger = ledger.give_back(member)
    while ledger.left:
        ledger, given_out = ledger.assign({"ann": 7, "zoe": 3})
        committed.update(n for shards in given_out.values() for n in batches(shards))
        ledger = ledger.commit(given_out)
    check(ledger, committed)
    assert ledger.committed == total
    assert committed == Counter(range(total))


@settings(deadline=None)
@given(
    st.integers(0, 80),
    st.dictionaries(MEMBERS, st.integers(0, 9), min_size=1),
    st.permutations(["ann", "bob", "cy", "dee", "eve"]),
)
def test_the_order_of_the_members_does_not_matter(
    total: int, counts: dict[str, int], order: list[str]
) -> None:
    start, _ = Ledger(total).assign(dict.fromkeys(order, 3))
    start = start.give_back("cy").commit(["ann"])
    one = start.assign(counts)
    other = start.assign({member: counts[member] for member in order if member in counts})
    assert one == other


def test_a_change_leaves_the_old_account_alone() -> None:
    old, _ = Ledger(50).assign({"a": 5, "b": 5})
    before = (old.left, dict(old.held), old.returned)
    old.commit(["a"])
    old.give_back("b").assign({"c": 3})
    assert (old.left, dict(old.held), old.returned) == before


def test_strangers_change_nothing() -> None:
    ledger, _ = Ledger(50).assign({"a": 5})
    assert ledger.commit(["stranger"]) == ledger
    assert ledger.give_back("stranger") == ledger
