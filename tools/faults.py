"""The small faults that can be made in a file: a sign, a bound, a condition, a default, a call left out."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "zeros": "ones", "floor": "ceil"}
WITHOUT = ("abs", "clamp", "clip", "clone", "contiguous", "copy", "detach", "double", "float", "round", "sqrt", "strip")


@dataclass(frozen=True)
class Fault:
    """One fault: where, what, and the file with it."""

    file: str
    line: int
    what: str
    source: str


def faults_of(file: Path, root: Path) -> Iterator[Fault]:
    """Every fault that can be made in `file`, in the order of its text."""
    source = file.read_text(encoding="utf-8")
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    for node in sorted(_able_to_fail(tree), key=lambda node: (node.lineno, node.col_offset)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        before = source.encode()[start:end].decode()
        for after in _changes(node):
            text = source.encode()[:start].decode() + after + source.encode()[end:].decode()
            what = f"{' '.join(before.split())[:60]}  ->  {' '.join(after.split())[:60]}"
            yield Fault(file.relative_to(root).as_posix(), node.lineno, what, text)


def _able_to_fail(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Nodes whose change changes what the program does: no annotation, message, documentation or type."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.expr | ast.stmt):
            yield node
        waiting += (child for name, child in _children(node) if not _only_said(node, name, child))


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield name, child


def _only_said(node: ast.AST, name: str, child: ast.AST) -> bool:
    if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
        return True
    if isinstance(child, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return True
    if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
        return True
    if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]).startswith("__"):
        return True
    if isinstance(child, ast.AnnAssign) and isinstance(node, ast.Module) and child.value is None:
        return True
    # Unions and generics are types, sums of texts are messages.
    return isinstance(child, ast.BinOp) and (isinstance(child.op, ast.BitOr) or _has_text(child))


def _has_text(node: ast.BinOp) -> bool:
    parts = (node.left, node.right)
    return any(
        isinstance(p, ast.JoinedStr) or (isinstance(p, ast.Constant) and isinstance(p.value, str)) for p in parts
    )


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield _changed(node, lambda n: n.ops.__setitem__(0, SWAPS[type(op)]()))
        case ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in SWAPS:
            yield _changed(node, lambda n: setattr(n, "op", SWAPS[type(op)]()))
        case ast.AugAssign(op=op) if type(op) in SWAPS:
            yield ast.unparse(_altered(node, lambda n: setattr(n, "op", SWAPS[type(op)]())))
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield f"({ast.unparse(operand)})"
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() as value):
            yield str(value + 1)
        case ast.Constant(value=float() as value):
            yield repr(2 * value if value else 1.0)
        case ast.IfExp():
            yield f"({ast.unparse(node.orelse)} if {ast.unparse(node.test)} else {ast.unparse(node.body)})"
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call() as test):
            yield ast.unparse(node).replace(ast.unparse(test), f"not {ast.unparse(test)}", 1)
        case ast.Expr(value=ast.Call()):
            yield "pass"
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
        case ast.Call():
            yield from _other_calls(node)


def _other_calls(node: ast.Call) -> Iterator[str]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name in NAMES:
        replaced = f"({ast.unparse(node.func.value)})." if isinstance(node.func, ast.Attribute) else ""
        yield _changed(node, lambda n: setattr(n, "func", ast.parse(replaced + NAMES[name], mode="eval").body))
    if isinstance(node.func, ast.Attribute) and name in WITHOUT:
        yield f"({ast.unparse(node.func.value)})"
    for place, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, "stacklevel"):  # which line a warning names is only said
            yield _changed(node, lambda n, place=place: n.keywords.pop(place))


def _altered(node: ast.AST, change: Callable) -> ast.AST:
    other = copy.deepcopy(node)
    change(other)
    return other


def _changed(node: ast.AST, change: Callable) -> str:
    return f"({ast.unparse(_altered(node, change))})"
