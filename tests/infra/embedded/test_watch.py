"""When a stack is repaired: decisions with a clock of ours."""

from foundry.infra.embedded.watch import Decision, Look, Silence, Watch

_DEAD = Look((Silence("postgres", "gone", 2.0),))
_FINE = Look()
_NOTHING = Decision()


def test_a_silent_part_is_repaired_after_its_patience() -> None:
    watch = Watch()
    assert watch.decide(_DEAD, 100.0) == _NOTHING
    assert watch.decide(_DEAD, 101.9) == _NOTHING
    assert watch.decide(_DEAD, 102.0) == Decision(repair=("postgres: gone",))


def test_an_answer_starts_the_patience_anew() -> None:
    watch = Watch()
    watch.decide(_DEAD, 0.0)
    watch.decide(_FINE, 1.5)
    assert watch.decide(_DEAD, 2.5) == _NOTHING
    assert watch.decide(_DEAD, 4.4) == _NOTHING
    assert watch.decide(_DEAD, 4.5).repair == ("postgres: gone",)


def test_each_part_has_its_own_patience() -> None:
    watch = Watch()
    look = Look((Silence("ray", "gone", 2.0), Silence("supervisor", "gone", 45.0)))
    watch.decide(look, 0.0)
    assert watch.decide(look, 44.9).repair == ("ray: gone",)
    assert watch.decide(look, 45.0).repair == ("ray: gone", "supervisor: gone")


def test_a_stopped_process_is_killed_after_six_seconds_and_a_resumed_one_is_not() -> None:
    watch = Watch()
    both = Look(frozen=((7, "raylet"), (8, "postgres")))
    assert watch.decide(both, 0.0) == _NOTHING
    assert watch.decide(Look(frozen=((7, "raylet"),)), 5.9) == _NOTHING
    assert watch.decide(both, 6.0) == Decision(kill=((7, "raylet"),))


def test_repairs_that_do_not_help_come_less_and_less_often() -> None:
    watch = Watch()
    watch.decide(_DEAD, 0.0)
    pauses, now = [], 2.0
    for _ in range(9):
        assert watch.decide(_DEAD, now).repair
        pauses.append(watch.repaired(now))
        assert watch.decide(_DEAD, now + pauses[-1] - 0.1) == _NOTHING
        now += pauses[-1]
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


def test_stopped_processes_are_killed_during_a_pause_too() -> None:
    watch = Watch()
    watch.repaired(0.0)
    look = Look(_DEAD.silences, ((7, "raylet"),))
    watch.decide(look, -4.0)
    assert watch.decide(look, 2.0) == Decision(kill=((7, "raylet"),))


def test_ten_minutes_of_health_forget_the_repairs_and_less_do_not() -> None:
    watch = Watch()
    assert watch.repaired(0.0) == 5.0
    watch.decide(_FINE, 1.0)
    watch.decide(_FINE, 600.9)
    assert watch.repaired(600.9) == 10.0
    watch.decide(_FINE, 1000.0)
    watch.decide(_FINE, 1600.0)
    assert watch.repaired(1600.0) == 5.0
