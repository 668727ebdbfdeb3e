"""The source as trees: what it imports and what it calls. Knows nothing of what is forbidden."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import depthflux

SOURCE = Path(depthflux.__file__).parent


@cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    """Every file's path inside the package, and what is in it."""
    return tuple(
        (str(path.relative_to(SOURCE)), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(SOURCE.rglob("*.py"))
    )


def imports() -> Iterator[tuple[str, str]]:
    """Where something is imported, and its whole name."""
    for place, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((place, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((place, f"{node.module}.{alias.name}") for alias in node.names)


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """Where something is called, its name as it is written, and the call."""
    return tuple(
        (f"{place}:{node.lineno}", _name(node.func), node)
        for place, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    )


def _name(node: ast.expr) -> str:
    """A dotted name; of what is none, such as a call's result, a question mark."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{_name(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"
