"""The beginning of an id as a range of ids."""

from uuid import UUID

import pytest

from foundry.infra.references import parse_id_beginning

ID = "0198f3c2-a1b2-7000-8000-000000000001"


@pytest.mark.parametrize("text", [ID[:8], ID[:9], ID.replace("-", "")[:15], ID.upper(), ID])
def test_an_id_lies_between_the_ends_of_its_beginnings(text: str) -> None:
    span = parse_id_beginning(text)
    assert span is not None
    low, high = span
    assert low <= UUID(ID) <= high
    digits = text.replace("-", "").lower()
    assert str(low).replace("-", "") == digits.ljust(32, "0")
    assert str(high).replace("-", "") == digits.ljust(32, "f")


@pytest.mark.parametrize("text", ["", "0198f3c", "support-bot", "0198f3c2-x", "0" * 40, "-" * 12])
def test_what_is_no_beginning_of_an_id(text: str) -> None:
    assert parse_id_beginning(text) is None
