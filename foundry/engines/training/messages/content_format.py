"""Whether a template reads a message's content as one text or as a list of parts.

It follows vLLM's rule (`_detect_content_format` in its `renderers/hf.py`): a template that loops
over `content`, or over the content of a message, takes parts; every other one takes a text. The
rule looks at names, not at scopes, so it can be wrong about a template; then serving is wrong in
the same way, which is what training has to follow.
"""

from collections import deque
from collections.abc import Iterator

from jinja2 import nodes

from foundry.engines.training.messages.conversation import ContentFormat


def detect_content_format(template: nodes.Template) -> ContentFormat:
    """How `template` reads contents."""
    try:
        reads_parts = any(_find_part_loops(template))
    except TypeError:
        # It unpacks or subscripts what it assigns or loops over; vLLM then takes text as well.
        return "string"
    return "parts" if reads_parts else "string"


def _find_part_loops(template: nodes.Template) -> Iterator[bool]:
    messages = list(_list_message_names(template))
    for loop in template.find_all(nodes.For):
        for name in messages:
            if _reads(loop.iter, name, "content"):
                _name_of(loop.target)
                yield True
                break
        if isinstance(loop.iter, nodes.Name) and loop.iter.name == "content":
            _name_of(loop.target)
            yield True


def _list_message_names(template: nodes.Template) -> Iterator[str]:
    """Names of loop variables that run over `messages`, or over what was assigned from it."""
    sources = list(_list_assigned_names(template, "messages"))
    for loop in template.find_all(nodes.For):
        if any(_reads(loop.iter, source) for source in sources):
            yield _name_of(loop.target)


def _list_assigned_names(template: nodes.Template, name: str) -> Iterator[str]:
    related = deque([name])
    seen = {name}
    while related:
        current = related.popleft()
        yield current
        for assignment in template.find_all(nodes.Assign):
            if (
                _reads(assignment.node, current)
                and (target := _name_of(assignment.target)) not in seen
            ):
                seen.add(target)
                related.append(target)


def _name_of(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise TypeError("not a plain name")
    return target.name


def _reads(node: nodes.Node, name: str, key: str | None = None) -> bool:
    """Whether `node` is the variable, or its `key`: filtered, tested or sliced as it may be."""
    while True:
        if isinstance(node, nodes.Filter | nodes.Test):
            if node.node is None:
                return False
            node = node.node
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            node = node.node
        else:
            break
    return _is_variable(node, name) if key is None else _is_item(node, name, key)


def _is_variable(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _is_item(node: nodes.Node, name: str, key: str) -> bool:
    if isinstance(node, nodes.Getitem):
        constant = isinstance(node.arg, nodes.Const) and node.arg.value == key
        return constant and _is_variable(node.node, name)
    return isinstance(node, nodes.Getattr) and node.attr == key and _is_variable(node.node, name)
