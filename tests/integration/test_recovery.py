"""One fault of every part of the stack, in one situation each; the campaign has all of them."""

import pytest

from tests.integration.conftest import Stack
from tests.recovery.faults import PARTS, How, find_part
from tests.recovery.matrix import Case, PlainStarts, add_dataset, run_case
from tests.recovery.probe import Site
from workflows.demo import BASE

# Only how long a test waits depends on them.
_STARTS = PlainStarts(engine=90.0, stack=120.0)
_CASES: dict[str, tuple[How, str]] = {
    "driver": ("kill", "publish"),
    "worker": ("stop", "cancel"),
    "supervisor": ("stop", "training"),
    "gateway": ("kill", "load"),
    "controller": ("stop", "rest"),
    "dashboard_agent": ("stop", "load"),
    "ray_head": ("kill", "rest"),
}
# Each with what its users are told meanwhile.
_IN_TEST_FAULTS = {"engine", "postgres"}


@pytest.fixture(scope="module")
def site(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Site:
    found = Site(stack.home, stack.url, stack.api_key, BASE)
    add_dataset(found, tmp_path_factory.mktemp("data"))
    return found


def test_no_part_is_left_out() -> None:
    assert {part.name for part in PARTS} == set(_CASES) | _IN_TEST_FAULTS


@pytest.mark.engine
@pytest.mark.timeout(1200)
@pytest.mark.long(reason="a fault, what recovers from it, and for some an engine that starts again")
@pytest.mark.parametrize("name", _CASES)
def test_new_work_succeeds_after_a_fault(site: Site, name: str) -> None:
    part = find_part(name)
    how, situation = _CASES[name]
    found = run_case(site, Case(part, how, situation), _STARTS)
    assert found.is_clean, found
    assert part.takes_along != "nothing" or found.seconds <= 60, found
