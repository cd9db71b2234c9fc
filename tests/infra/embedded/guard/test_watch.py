"""When a stack is repaired: decisions with a clock of ours."""

from itertools import pairwise

from foundry.infra.embedded.guard.watch import FreezeWatch, Silence, SilenceWatch

_GONE = Silence("postgres", "gone", 2.0)
_DEAD, _FINE = (_GONE,), ()


def test_a_silent_part_is_repaired_after_its_patience() -> None:
    watch = SilenceWatch()
    assert watch.choose_repairs(_DEAD, 100.0) == ()
    assert watch.choose_repairs(_DEAD, 101.9) == ()
    assert watch.choose_repairs(_DEAD, 102.0) == (_GONE,)


def test_an_answer_starts_the_patience_anew() -> None:
    watch = SilenceWatch()
    watch.choose_repairs(_DEAD, 0.0)
    watch.choose_repairs(_FINE, 1.5)
    assert watch.choose_repairs(_DEAD, 2.5) == ()
    assert watch.choose_repairs(_DEAD, 4.4) == ()
    assert watch.choose_repairs(_DEAD, 4.5) == (_GONE,)


def test_each_part_has_its_own_patience() -> None:
    watch = SilenceWatch()
    look = (Silence("ray", "gone", 2.0), Silence("supervisor", "gone", 45.0))
    watch.choose_repairs(look, 0.0)
    assert watch.choose_repairs(look, 44.9) == look[:1]
    assert watch.choose_repairs(look, 45.0) == look


def test_a_stopped_process_is_killed_after_six_seconds_and_a_resumed_one_is_not() -> None:
    watch = FreezeWatch()
    raylet, postgres = (7, "raylet"), (8, "postgres")
    assert watch.choose_kills([raylet, postgres], 0.0) == ()
    assert watch.choose_kills([raylet], 5.9) == ()
    assert watch.choose_kills([raylet, postgres], 6.0) == (raylet,)


def test_repairs_that_do_not_help_come_less_and_less_often() -> None:
    watch = SilenceWatch()
    watch.choose_repairs(_DEAD, 0.0)
    pauses, now = [], 2.0
    for _ in range(9):
        assert watch.choose_repairs(_DEAD, now)
        pauses.append(watch.note_repair(_DEAD, now))
        assert watch.choose_repairs(_DEAD, now + pauses[-1] - 0.1) == ()
        now += pauses[-1]
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


def test_a_supervisor_that_gets_stuck_again_after_each_restart_is_not_restarted_in_a_loop() -> None:
    """It works for four minutes each time, which is no calm that forgets the repairs."""
    watch, repairs, healthy_until = SilenceWatch(), list[float](), 0.0
    stuck = Silence("supervisor", "its loop has not turned", 45.0, in_the_way=7)
    for now in map(float, range(3 * 3600)):
        if watch.choose_repairs((stuck,) if now >= healthy_until else (), now):
            repairs.append(now)
            watch.note_repair((stuck,), now)
            healthy_until = now + 240.0
    gaps = [after - before for before, after in pairwise(repairs)]
    # The loop's silence plus the guard's patience, then the pause that has grown to five minutes.
    assert gaps[0] == 285.0
    assert max(gaps) == gaps[-1] == 300.0


def test_ten_minutes_of_health_forget_the_repairs_and_less_do_not() -> None:
    watch = SilenceWatch()
    assert watch.note_repair(_DEAD, 0.0) == 5.0
    watch.choose_repairs(_FINE, 1.0)
    watch.choose_repairs(_FINE, 600.9)
    assert watch.note_repair(_DEAD, 600.9) == 10.0
    watch.choose_repairs(_FINE, 1000.0)
    watch.choose_repairs(_FINE, 1600.0)
    assert watch.note_repair(_DEAD, 1600.0) == 5.0


def test_a_part_that_dies_again_and_again_lets_no_other_wait() -> None:
    watch = SilenceWatch()
    other = Silence("http", "nothing listens", 2.0)
    for now in (2.0, 10.0, 30.0):
        watch.note_repair(_DEAD, now)
    both = (*_DEAD, other)
    watch.choose_repairs(both, 31.0)
    assert watch.choose_repairs(both, 33.0) == (other,)
    assert watch.note_repair((other,), 33.0) == 5.0
    assert watch.choose_repairs(_DEAD, 50.0) == _DEAD
