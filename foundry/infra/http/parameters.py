"""A query parameter that a route does not know is refused: ignored, a misspelt filter finds all."""

from difflib import get_close_matches

from fastapi import Request
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.routing import APIRoute

from foundry.errors import InvalidRequest


async def refuse_unknown_parameters(request: Request) -> None:
    """A dependency of every route. Raises InvalidRequest."""
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = _list_parameters(route)
    for name in request.query_params:
        if name not in known:
            raise InvalidRequest(_describe_unknown(name, known), param=name[:128])


def _list_parameters(route: APIRoute) -> frozenset[str]:
    return frozenset(field.alias for field in get_flat_dependant(route.dependant).query_params)


def _describe_unknown(name: str, known: frozenset[str]) -> str:
    if close := get_close_matches(name, known, 1):
        return f"there is no parameter {name[:128]}: did you mean {close[0]}?"
    if known:
        return f"there is no parameter {name[:128]}, only {', '.join(sorted(known))}"
    return f"there is no parameter {name[:128]}: this route takes none"
