"""Mutants are what they say, and the same ones every time."""

from pathlib import Path

from tests.bench.mutants import draw, mutants_of

_MODULE = '''"""A module."""

LIMIT = 3


def admit(count: int, urgent: bool) -> bool:
    """Whether there is room."""
    log.info("asked for %d", count)
    if urgent and not count > LIMIT:
        note(count)
        return count + 1 < LIMIT
    raise ValueError("full")
'''


def test_every_kind_of_change_is_made_once_and_alone(tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text(_MODULE)
    found = {mutant.change: mutant.source for mutant in mutants_of(tmp_path, Path("room.py"))}
    assert set(found) == {
        "3 becomes 4",
        "the condition is always true",
        "the condition is always false",
        "And becomes Or",
        "not is dropped",
        "Gt becomes GtE",
        "the call is dropped",
        "None is returned",
        "Lt becomes LtE",
        "Add becomes Sub",
        "1 becomes 2",
        "nothing is raised",
    }
    assert "LIMIT = 4" in found["3 becomes 4"]
    assert "if urgent and count > LIMIT" in found["not is dropped"]
    assert "note(count)" not in found["the call is dropped"]
    assert "log.info" in found["the call is dropped"]
    assert "count - 1 < LIMIT" in found["Add becomes Sub"]


def test_a_seed_draws_the_same_mutants(tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text(_MODULE)
    first = draw(tmp_path, [Path("room.py")], 5, seed=1)
    assert len(first) == 5
    assert first == draw(tmp_path, [Path("room.py")], 5, seed=1)
    assert first != draw(tmp_path, [Path("room.py")], 5, seed=2)
