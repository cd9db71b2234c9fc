"""What a call that changes a row says of what it found."""

from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel

T = TypeVar("T")
Schema = TypeVar("Schema", bound=BaseModel)


class Answer(NamedTuple, Generic[T]):
    """A row after a call.

    Attributes:
        note: what was so already, in words, so that the call changed nothing; None: it did.
    """

    row: T
    note: str | None = None

    @property
    def changed(self) -> bool:
        """Whether the call made the row or changed it."""
        return self.note is None

    def describe(self, schema: type[Schema]) -> Schema:
        """The row as a document whose field `note` is the answer's."""
        return schema.model_validate(self.row).model_copy(update={"note": self.note})
