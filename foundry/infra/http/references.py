"""The parameter by which lists are asked for rows as people refer to them."""

from typing import Annotated

from fastapi import Query

ReferenceQuery = Annotated[
    str | None,
    Query(
        alias="ref",
        min_length=1,
        max_length=320,
        description="only rows of this name, or whose id begins so (at least 8 characters)",
    ),
]
