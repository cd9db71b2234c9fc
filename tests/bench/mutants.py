"""Changes of code that the tests must notice: one operator, constant, condition or call each.

Mutation testing after DeMillo, Lipton and Sayward (1978), on a sample: `draw` takes so many of all
places by a seed, so that a run fits an evening.
"""

import ast
import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed module.

    Attributes:
        path: of the module, relative to the checkout.
        change: what was changed, for the report.
        source: the whole changed module.
    """

    path: Path
    line: int
    change: str
    source: str


def draw(root: Path, paths: Sequence[Path], count: int, seed: int) -> list[Mutant]:
    """`count` mutants of the modules, the same for the same seed and code."""
    found = [mutant for path in paths for mutant in mutants_of(root, path)]
    random.Random(seed).shuffle(found)
    return found[:count]


def mutants_of(root: Path, path: Path) -> Iterator[Mutant]:
    """Every mutant of one module. Docstrings, annotations and log calls are left alone."""
    tree = ast.parse((root / path).read_text())
    for index, node in enumerate(_places(tree)):
        for number, change in enumerate(_changes(node)):
            changed = copy.deepcopy(tree)
            target = _places(changed)[index]
            _apply(changed, target, number)
            source = ast.unparse(ast.fix_missing_locations(changed))
            yield Mutant(path, getattr(node, "lineno", 0), change, source)


def _places(tree: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []

    def visit(node: ast.AST) -> None:
        if _is_log_call(node) or _is_docstring(node):
            return
        found.append(node)
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "decorator_list", "type_params"}:
                continue
            children = value if isinstance(value, list) else [value]
            for child in children:
                if isinstance(child, ast.AST):
                    visit(child)

    visit(tree)
    return found


def _changes(node: ast.AST) -> list[str]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARISONS:
            return [f"{type(op).__name__} becomes {_COMPARISONS[type(op)].__name__}"]
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            return [f"{type(op).__name__} becomes {_ARITHMETIC[type(op)].__name__}"]
        case ast.BoolOp(op=op):
            return [f"{type(op).__name__} becomes {'Or' if isinstance(op, ast.And) else 'And'}"]
        case ast.UnaryOp(op=ast.Not()):
            return ["not is dropped"]
        case ast.Constant(value=value):
            return _changes_of_constant(value)
        case ast.If() | ast.While() | ast.IfExp() if not _is_true(node.test):
            return ["the condition is always true", "the condition is always false"]
        case ast.Expr(value=ast.Call() | ast.Await()):
            return ["the call is dropped"]
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            return ["None is returned"]
        case ast.Raise():
            return ["nothing is raised"]
    return []


def _changes_of_constant(value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"{value} becomes {not value}"]
    if isinstance(value, int | float):
        return [f"{value} becomes {value + 1}"]
    return []


def _apply(tree: ast.AST, node: ast.AST, number: int) -> None:
    match node:
        case ast.Compare(ops=[op]):
            node.ops = [_COMPARISONS[type(op)]()]
        case ast.BinOp(op=op):
            node.op = _ARITHMETIC[type(op)]()
        case ast.BoolOp(op=op):
            node.op = ast.Or() if isinstance(op, ast.And) else ast.And()
        case ast.UnaryOp():
            _replace(tree, node, node.operand)
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value) | float(value)):
            node.value = value + 1
        case ast.If() | ast.While() | ast.IfExp():
            node.test = ast.Constant(number == 0)
        case ast.Return():
            node.value = ast.Constant(None)
        case _:
            _replace(tree, node, ast.Pass())


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
                return
            if isinstance(value, list) and any(each is old for each in value):
                setattr(parent, name, [new if each is old else each for each in value])
                return


def _is_true(test: ast.expr) -> bool:
    """`while True`: without it nothing ends, and with `False` nothing begins; both are noticed."""
    return isinstance(test, ast.Constant)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_log_call(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log")))):
            return True
    return False
