"""One spelling of a version: `name@version`, wherever a version is meant.

A version may also be given beside the name, as REST's paths have it; both at once are refused.
"""

from foundry.errors import Conflict, InvalidRequest


def join_reference(text: str, version: str | int | None) -> str:
    """The one spelling of `text` and a version beside it.

    Raises Conflict: both say which version.
    """
    if version is None:
        return text
    if "@" in text:
        raise Conflict(f"{text} names a version already: leave {version!r} out")
    return f"{text}@{version}"


def split_reference(text: str, version: str | None = None) -> tuple[str, str | None]:
    """The name and the version that are meant; None: no version is.

    Raises:
        Conflict: `text` and `version` both say which.
        InvalidRequest: `text` is no reference.
    """
    text = join_reference(text, version)
    name, separator, chosen = text.partition("@")
    if not name or (separator and not chosen):
        raise InvalidRequest(
            f"{text!r} is not a reference: use name, name@version or name@alias", param="name"
        )
    return name, chosen or None


def require_version(text: str, version: str | None) -> tuple[str, str]:
    """Split a reference that must name a version; see `split_reference`.

    Raises:
        InvalidRequest: none is given.
    """
    name, chosen = split_reference(text, version)
    if chosen is None:
        raise name_version_error(name, "1.2.3")
    return name, chosen


def name_version_error(name: str, example: str) -> InvalidRequest:
    """What is changed or removed is named exactly: the newest is never meant by chance."""
    return InvalidRequest(f"say which version of {name}: {name}@{example}", param="version")


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
