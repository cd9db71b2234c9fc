"""Error codes as exceptions, for clients that meet a code outside an answer."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from foundry.errors import FoundryError
from foundry.sdk._errors import BY_CODE, from_validation

__all__ = ["by_code", "checked"]

M = TypeVar("M", bound=BaseModel)


def by_code(code: object) -> type[FoundryError]:
    """The class of a stable code, like `disk_full`; an unknown one is a FoundryError."""
    return BY_CODE.get(str(code), FoundryError)


def checked(model: type[M], fields: Mapping[str, object]) -> M:
    """Validate what a caller has given.

    Raises:
        InvalidRequest: it names the field that is wrong.
    """
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise from_validation(error, fields) from error
