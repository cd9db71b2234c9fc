"""One spelling of a version: `name@version`, wherever a version is meant.

A version may also be given beside the name, as REST's paths have it; both at once are refused.
"""

from foundry.errors import Conflict, InvalidRequest


def split_reference(text: str, version: str | int | None = None) -> tuple[str, str | None]:
    """The name and the version that are meant; None: no version is.

    Raises:
        Conflict: `text` and `version` both say which.
        InvalidRequest: `text` is no reference.
    """
    name, separator, inside = text.partition("@")
    if not name or (separator and not inside):
        raise InvalidRequest(
            f"{text!r} is not a reference: use name, name@version or name@alias", param="name"
        )
    if version is None:
        return name, inside or None
    if inside:
        raise Conflict(f"{text} names a version already: leave {version!r} out")
    return name, str(version)


def require_version(
    text: str, version: str | int | None, example: str = "1.2.3"
) -> tuple[str, str]:
    """As `split_reference`, where no version is the default.

    Raises:
        InvalidRequest: none is given.
    """
    name, chosen = split_reference(text, version)
    if chosen is None:
        raise InvalidRequest(f"say which version of {name}: {name}@{example}", param="version")
    return name, chosen


def version_of(name: str, text: str) -> str:
    """The version in `text`, which may repeat the name of its model.

    Raises:
        InvalidRequest: it names another model.
    """
    if "@" not in text:
        return text
    other, version = require_version(text, None)
    if other != name:
        raise InvalidRequest(f"{text} is no version of {name}", param="version")
    return version
