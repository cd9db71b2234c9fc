"""What the wire models of every slice have in common."""

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

Item = TypeVar("Item")


class Out(BaseModel):
    """A document that is made of a row's attributes."""

    model_config = ConfigDict(from_attributes=True)


class PageOut(Out, Generic[Item]):
    """A page of a list; each list is a class of its own, so that its schema has a name."""

    data: list[Item]
    next_cursor: str | None
