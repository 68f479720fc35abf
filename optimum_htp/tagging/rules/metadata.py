"""Evidence in the node's own metadata: the module scopes that torch's dynamo exporter writes."""

from __future__ import annotations

import ast

from optimum_htp.hierarchy import ModulePath, ModuleTree, NodeKey
from optimum_htp.onnxfile import Node
from optimum_htp.tagging.rules.evidence import Evidence, Owner


NAME_SCOPES = "pkg.torch.onnx.name_scopes"
CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"
# A list of dotted names; a longer one was not written by torch.
_LONGEST = 100_000


def decide(key: NodeKey, evidence: Evidence) -> Owner | None:
    """The module that `pkg.torch.onnx.name_scopes` names: the last item but one; the last is the node itself.

    Which call of the module it was stays open: torch does not write it.
    """
    path = named_module(evidence.nodes[key], evidence.trace.tree)
    return Owner(path) if path is not None else None


def in_doubt(node: Node, tree: ModuleTree) -> bool:
    """Whether torch's metadata names a module that can't be found, so that no weaker evidence may name another."""
    return NAME_SCOPES in node.metadata and named_module(node, tree) is None


def named_module(node: Node, tree: ModuleTree) -> ModulePath | None:
    """The path of the module that torch's metadata names, None where there is no such module.

    A module that the model reaches by other ways than registered names appears by its Python expression
    (`borrower.held[0]`, torch's strict export); and a class that is not the registered module's says that the name is
    not to be trusted.
    """
    scopes = parse_name_scopes(node.metadata.get(NAME_SCOPES, ""))
    if len(scopes) < 2:
        return None
    paths = [tree.find(scope) for scope in scopes[:-1]]
    path = paths[-1]
    if path is None or None in paths:
        return None
    classes = parse_name_scopes(node.metadata.get(CLASS_HIERARCHY, ""))
    known = len(classes) != len(scopes) or classes[-2].rpartition(".")[2] == tree.module(path).class_name
    return path if known else None


def parse_name_scopes(text: str) -> list[str]:
    """The list that torch wrote with `repr`; empty for anything that is no flat list of strings.

    >>> parse_name_scopes("['', 'layers.0', 'linear']")
    ['', 'layers.0', 'linear']
    >>> parse_name_scopes("[[1]]")
    []
    """
    if not text.startswith("[") or len(text) > _LONGEST:
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []
