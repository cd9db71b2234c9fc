"""Options that several commands have: each list of them is written once."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., None])


def add_options(*groups: Mapping[str, Any], before: str) -> Callable[[Command], Command]:
    """Give a command the options that its `**` parameter collects; all may be left out.

    Typer reads a command's options off its signature, so they are put there.

    Args:
        groups: name → annotated type.
        before: the parameter that stands after them in the help.
    """
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=option, default=None)
        for group in groups
        for name, option in group.items()
    ]

    def sign(command: Command) -> Command:
        own = [
            # Typer passes everything by name.
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        place = [parameter.name for parameter in own].index(before)
        signature = inspect.Signature([*own[:place], *added, *own[place:]])
        command.__signature__ = signature  # type: ignore[attr-defined]
        return command

    return sign
