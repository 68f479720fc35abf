"""Evidence in the node's own metadata: the module scopes that torch's dynamo exporter writes."""

from __future__ import annotations

import ast

from optimum_htp.hierarchy import ModulePath, ModuleTree
from optimum_htp.onnxfile import Node

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"
_LONGEST = 100_000  # characters; torch does not write longer lists of names


def in_doubt(node: Node, tree: ModuleTree) -> bool:
    """Whether torch's metadata names an unknown module, so that no weaker evidence may name another."""
    return NAME_SCOPES in node.metadata and named_module(node, tree) is None


def named_module(node: Node, tree: ModuleTree) -> ModulePath | None:
    """The path of the module that torch's metadata names; None if it is unknown, or not of the class that is named."""
    scopes = listed_in(node.metadata.get(NAME_SCOPES, ""))
    if len(scopes) < 2:
        return None
    # The last scope is the node itself. What no registered names lead to is an expression: `borrower.held[0]`.
    paths = [tree.find(scope) for scope in scopes[:-1]]
    path = paths[-1]
    if path is None or None in paths:
        return None
    classes = listed_in(node.metadata.get(CLASS_HIERARCHY, ""))
    trusted = len(classes) != len(scopes) or classes[-2].rpartition(".")[2] == tree.module(path).class_name
    return path if trusted else None


def listed_in(text: str) -> list[str]:
    """The list that torch wrote with `repr`; empty for anything that is not a flat list of strings.

    >>> listed_in("['', 'layers.0', 'linear']"), listed_in("[[1]]")
    (['', 'layers.0', 'linear'], [])
    """
    if not text.startswith("[") or len(text) > _LONGEST:
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []
