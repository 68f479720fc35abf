"""Evidence in the node's own metadata: the module scopes that torch's dynamo exporter writes."""

from __future__ import annotations

import ast
from collections import Counter

from optimum_htp.hierarchy import ModulePath, ModuleTree
from optimum_htp.onnxfile import Node, OnnxModel

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"
_LONGEST = 100_000  # characters; torch does not write longer lists of names


def in_doubt(node: Node, tree: ModuleTree) -> bool:
    """Whether torch's metadata names an unknown module, so that no weaker evidence may name another."""
    return NAME_SCOPES in node.metadata and named_module(node, tree) is None


def named_module(node: Node, tree: ModuleTree) -> ModulePath | None:
    """The path of the module that torch's metadata names; None if it, or one around it, is unknown or of another class."""
    scopes = listed_in(node.metadata.get(NAME_SCOPES, ""))
    if len(scopes) < 2:
        return None
    # The last scope is the node itself. What no registered names lead to is an expression: `borrower.held[0]`.
    paths = [path for scope in scopes[:-1] if (path := tree.find(scope)) is not None]
    if len(paths) < len(scopes) - 1:
        return None
    classes = [name.rpartition(".")[2] for name in listed_in(node.metadata.get(CLASS_HIERARCHY, ""))]
    trusted = len(classes) != len(scopes) or classes[:-1] == [tree.module(path).class_name for path in paths]
    return paths[-1] if trusted else None


def named_root(model: OnnxModel) -> str | None:
    """The class of the exported module, as torch's metadata says on most nodes; None if it is nowhere."""
    texts = (node.metadata[CLASS_HIERARCHY] for _, node in model.nodes() if CLASS_HIERARCHY in node.metadata)
    roots = Counter(classes[0] for classes in map(listed_in, texts) if len(classes) > 1)
    return roots.most_common(1)[0][0].rpartition(".")[2] if roots else None


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
