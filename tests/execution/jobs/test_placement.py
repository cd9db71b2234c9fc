"""Who begins and who waits; pure numbers."""

from uuid import UUID

import pytest

from foundry.execution.jobs.placement import (
    Bundle,
    Needs,
    NodeResources,
    Room,
    Waiting,
    measure_room,
    place_jobs,
    share_of_node,
)

A, B, C = (UUID(int=number) for number in (1, 2, 3))


def node(cpus: float, free: float | None = None, gpus: float = 0) -> NodeResources:
    return NodeResources(Bundle(cpus, gpus), Bundle(cpus if free is None else free, gpus))


def queue(*needs: Needs) -> list[Waiting]:
    return [Waiting(UUID(int=number), each) for number, each in enumerate(needs, 1)]


def test_as_many_as_fit_in_order() -> None:
    decision = place_jobs(queue(Needs(), Needs(), Needs()), [], [node(2)])
    assert decision.admitted == (A, B)
    assert decision.waiting == {C: "free resources: it needs 1 CPU"}


def test_what_admitted_jobs_have_not_placed_yet_is_taken() -> None:
    decision = place_jobs(queue(Needs(), Needs()), [Needs()], [node(4, free=2)])
    assert decision.admitted == (A,)


def test_a_job_that_does_not_fit_keeps_its_place() -> None:
    decision = place_jobs(queue(Needs(cpus=4), Needs()), [], [node(4, free=2)])
    assert decision.admitted == ()
    assert set(decision.waiting) == {A, B}


def test_a_job_for_other_resources_passes() -> None:
    nodes = [node(8, gpus=1), node(8)]
    taken = [NodeResources(nodes[0].total, Bundle(8, 0)), nodes[1]]
    decision = place_jobs(queue(Needs(accelerator=True), Needs()), [], taken)
    assert decision.admitted == (B,)
    assert decision.waiting == {A: "free resources: it needs 1 CPU and 1 accelerator"}


def test_a_job_that_no_node_could_hold_holds_up_nobody() -> None:
    decision = place_jobs(queue(Needs(cpus=64), Needs()), [], [node(2)])
    assert decision.admitted == (B,)
    assert decision.waiting == {A: "a node: it needs 64 CPU, more than there is"}
    assert decision.oversized == {A}


def test_a_worker_is_on_one_node_and_a_fleet_on_many() -> None:
    nodes = [node(1), node(1)]
    assert place_jobs(queue(Needs(cpus=2)), [], nodes).admitted == ()
    assert place_jobs(queue(Needs(workers=2)), [], nodes).admitted == (A,)
    assert place_jobs(queue(Needs(workers=4, cpus=0.5)), [], nodes).admitted == (A,)
    refused = place_jobs(queue(Needs(workers=5, cpus=0.5)), [], nodes)
    assert refused.waiting == {
        A: "a node: it needs 5 workers with 0.5 CPU each, more than there is"
    }


@pytest.mark.parametrize(("gpus", "cpus_left"), [(1, 2), (0, 2)])
def test_an_accelerator_is_asked_for_where_there_is_one(gpus: float, cpus_left: float) -> None:
    decision = place_jobs(
        queue(Needs(accelerator=True), Needs(accelerator=True)), [], [node(2, gpus=gpus)]
    )
    assert len(decision.admitted) == (1 if gpus else 2)


def test_tenths_add_up_to_one() -> None:
    decision = place_jobs(queue(*[Needs(cpus=0.1)] * 10), [], [node(1)])
    assert len(decision.admitted) == 10


def test_memory_is_counted() -> None:
    has = NodeResources(Bundle(8, 0, 3 * 2**30), Bundle(8, 0, 3 * 2**30))
    decision = place_jobs(queue(Needs(memory=2 * 2**30), Needs(memory=2 * 2**30)), [], [has])
    assert decision.admitted == (A,)
    assert decision.waiting == {B: "free resources: it needs 1 CPU and 2.0 GiB of memory"}


def test_no_node_admits_nobody() -> None:
    assert place_jobs(queue(Needs()), [Needs()], []).admitted == ()


def test_needs_survive_their_row() -> None:
    assert Needs.read(Needs(3, 0.5, accelerator=True).document()) == Needs(3, 0.5, accelerator=True)
    assert Needs.read({}) == Needs()


@pytest.mark.parametrize(
    ("nodes", "cpus", "threads"),
    [
        # A laptop whose services and idle engine reserve 0.71 of two.
        ([node(2, 1.29)], 1, 2),
        ([node(2, 1.8)], 1, 2),
        ([node(2, 2.0)], 2, 2),
        # Another job computes: what is left is not enough, and Ray makes this one wait.
        ([node(2, 0.29)], 1, 1),
        ([node(32, 31.0), node(8, 8.0)], 30, 30),
        ([node(32, 31.29)], 30, 31),
        ([], 1, 1),
    ],
)
def test_a_lone_training_takes_what_is_idle(
    nodes: list[NodeResources], cpus: float, threads: int
) -> None:
    share = share_of_node(Needs(), nodes)
    assert (share.cpus, share.threads) == (cpus, threads)


@pytest.mark.parametrize(
    ("needs", "nodes", "room"),
    [
        (Needs(), [Bundle(2)], Room(1, "1 CPU", "1 node with 2 CPU")),
        (Needs(9, 0.5), [Bundle(2), Bundle(0.75)], Room(5, "0.5 CPU", "2 nodes with 2.75 CPU")),
        (
            Needs(3, 0.5, accelerator=True),
            [Bundle(8, 2), Bundle(8)],
            Room(2, "0.5 CPU and 1 accelerator", "2 nodes with 16 CPU and 2 accelerators"),
        ),
        (Needs(cpus=4), [Bundle(2), Bundle(2)], Room(0, "4 CPU", "2 nodes with 4 CPU")),
    ],
)
def test_the_room_of_an_idle_cluster(needs: Needs, nodes: list[Bundle], room: Room) -> None:
    assert measure_room(needs, nodes) == room
