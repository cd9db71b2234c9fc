"""The first items of a list in a sentence."""

from foundry.enumeration import name_first


def test_all_are_named_where_they_are_few() -> None:
    assert name_first([], 2) == ""
    assert name_first(["a", "b"], 2) == "a, b"


def test_the_others_are_counted() -> None:
    assert name_first(iter("abcde"), 2) == "a, b and 3 more"
    assert name_first(["row 1: x", "row 2: y"], 1, between="; ") == "row 1: x; and 1 more"


def test_a_total_counts_what_was_not_kept() -> None:
    assert name_first(["a", "b"], 2, total=4999) == "a, b and 4997 more"
