"""Imports point downwards, heavy libraries are imported where they are used, and only views and the command line print."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import optimum_htp


PACKAGE = Path(optimum_htp.__file__).parent

# A module may import what stands on its own line or above. A new module of the package needs a place here.
LAYERS = (
    ("errors", "interrupts", "patterns", "hierarchy"),
    ("onnxfile", "documents"),
    (
        "tracing",
        "tagging",
        "projection",
        "annotations",
        "layer_annotations",
        "skeleton",
        "packed",
        "tensors",
        "renaming",
        "spans",
        "wiring",
    ),
    (
        "sidecar",
        "package",
        "configs",
        "sources",
        "references",
        "roots",
        "staging",
        "packing",
        "recording",
        "sessions",
        "tagged",
    ),
    ("stripping", "inputs", "runtime"),
    ("export", "custom", "retagging", "validation", "modeling", "projecting"),
    ("profiling", "comparison", "parameter_map", "extraction", "selection", "diffing"),
    ("views",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

HEAVY = {"torch", "transformers", "onnxruntime", "optimum", "onnx", "diffusers", "accelerate", "numpy", "rich"}
# A subclass of Optimum's command needs that class when it is made; `optimum.commands` loads nothing heavy.
ALLOWED = {("cli/plugin.py", "optimum.commands.base"), ("cli/plugin.py", "optimum.commands.export.onnx")}

SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def parse(source: str) -> ast.Module:
    return ast.parse((PACKAGE / source).read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST, *, inside_functions: bool) -> Iterator[tuple[int, str]]:
    """The line and the full name of what is imported, as far as it is when the program runs."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield node.lineno, str(node.module)
            if node.module == "optimum_htp":
                yield from ((node.lineno, f"optimum_htp.{alias.name}") for alias in node.names)
        elif is_type_checking(node):
            assert isinstance(node, ast.If)
            stack.extend(node.orelse)
        elif inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            stack.extend(ast.iter_child_nodes(node))


def layer_of(source: str) -> str:
    return source.removesuffix(".py").split("/")[0]


@pytest.mark.parametrize("source", SOURCES)
def test_imports_point_downwards(source: str) -> None:
    """Also imports inside functions: a cycle that is put off is a cycle."""
    if source == "__init__.py":
        assert [name for _, name in imports(parse(source), inside_functions=True) if "optimum_htp." in name] == []
        return
    assert layer_of(source) in LEVEL, f"give {layer_of(source)} a place in LAYERS"
    upwards = [
        f"{source}:{line} imports {name}"
        for line, name in imports(parse(source), inside_functions=True)
        if name.startswith("optimum_htp.") and LEVEL.get(name.split(".")[1], 0) > LEVEL[layer_of(source)]
    ]
    assert upwards == []


@pytest.mark.parametrize("source", SOURCES)
def test_heavy_libraries_are_imported_where_they_are_used(source: str) -> None:
    """Importing a module of ours imports none of them."""
    heavy = [
        f"{source}:{line} imports {name}"
        for line, name in imports(parse(source), inside_functions=False)
        if name.split(".")[0] in HEAVY and (source, name) not in ALLOWED
    ]
    assert heavy == []


@pytest.mark.parametrize("source", [source for source in SOURCES if layer_of(source) not in ("views", "cli")])
def test_only_views_and_the_command_line_print(source: str) -> None:
    """The others compute and report."""
    tree = parse(source)
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []
    assert [name for _, name in imports(tree, inside_functions=True) if name.split(".")[0] == "rich"] == []
