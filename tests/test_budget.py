"""The bound on the length of a test is enforced."""

import pytest

pytest_plugins = ("pytester",)

_CONFTEST = """
import pytest
from tests import conftest
pytest_runtest_makereport = conftest.pytest_runtest_makereport
conftest.LONGEST_TEST_S = 0.0
"""


def test_a_long_test_fails_unless_it_is_explained(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = long: why\n")
    pytester.makeconftest(_CONFTEST)
    pytester.makepyfile(
        """
import pytest

def test_unexplained():
    pass

@pytest.mark.long(reason="it trains")
def test_explained():
    pass
"""
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*it took 0 s of the 0 that a test may take*"])
