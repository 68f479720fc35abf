"""The house: rooms import one way and by their faces, heavy libraries come in late, and only the command line prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import optimum_htp

PACKAGE = Path(optimum_htp.__file__).parent

# A room may import those on lines above its own. The verbs don't import each other; `view` shows what the others report.
FLOORS = (
    ("errors", "collecting"),
    ("reports",),
    ("onnxfile", "hierarchy"),
    ("tagging",),
    ("package",),
    ("models", "selections"),
    ("export",),
    ("verbs",),
    ("verbs.view",),
    ("methods",),
    ("cli", "explorer_extension"),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

HEAVY = {
    "torch",
    "transformers",
    "onnxruntime",
    "openvino",
    "optimum",
    "onnx",
    "diffusers",
    "accelerate",
    "numpy",
    "rich",
    "model_explorer",
}
# A subclass of Optimum's command needs that class when it is made; `optimum.commands` loads nothing heavy.
ALLOWED = {("cli/plugin.py", "optimum.commands.base"), ("cli/plugin.py", "optimum.commands.export.onnx")}
# As does one of Model Explorer's, which imports it.
ALLOWED |= {("explorer_extension/main.py", name) for name in ("model_explorer", "model_explorer.config_editor")}

# File names that several rooms have, because they mean the same there: what a verb does and what it reports; how much of
# a file is accepted; a verb in the command line, in its room and in its view; what is imported to start.
VERBS = {path.stem for path in (PACKAGE / "verbs").iterdir() if not path.stem.startswith("_")}
SHARED_NAMES = {"__init__", "verb", "report", "limits", "export", "main", *VERBS}

SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def parse(source: str) -> ast.Module:
    return ast.parse((PACKAGE / source).read_text(encoding="utf-8"))


def module_of(source: str) -> str:
    """`optimum_htp.verbs.profile.report`, from the file's path in the package."""
    parts = source.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(["optimum_htp", *(part for part in parts if part != "__init__")])


MODULES = {module_of(source): source for source in SOURCES}


def imports(tree: ast.AST, *, inside_functions: bool = True) -> Iterator[tuple[int, str, str]]:
    """The line, module and name of everything that is imported; for type checkers alone, too."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((node.lineno, str(node.module), alias.name) for alias in node.names)
        elif inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            stack.extend(ast.iter_child_nodes(node))


def our_imports(source: str) -> Iterator[tuple[int, str]]:
    """The line and the full name of each module of ours that a file imports, or imports from."""
    for line, module, name in imports(parse(source)):
        if module.split(".")[0] == "optimum_htp":
            full = f"{module}.{name}"
            yield line, full if full in MODULES else module


def room_of(module: str) -> str:
    """The face by which others reach a module: its room, and for verbs the room or file of the verb."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["verbs"] else 1])


def level_of(room: str) -> int:
    return LEVEL.get(room, LEVEL.get(room.split(".")[0], -1))


def is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("source", SOURCES)
def test_rooms_import_one_way(source: str) -> None:
    """Downwards only, in functions and for type checkers too: a cycle that is put off is a cycle."""
    own = room_of(module_of(source))
    if own in ("", "__main__"):  # the public face, and the way in: they import from anywhere
        return
    assert level_of(own) >= 0, f"give {own} a place in FLOORS"
    wrong = [
        f"{source}:{line} imports {module}"
        for line, module in our_imports(source)
        if (room := room_of(module)) and room != own
        if level_of(room) >= level_of(own)
    ]
    assert wrong == []


@pytest.mark.parametrize("source", SOURCES)
def test_rooms_are_entered_by_their_faces(source: str) -> None:
    """What a room has for others is in its `__init__`; inside a room files import each other, never the face."""
    own = room_of(module_of(source))
    past = []
    for line, module in our_imports(source):
        room = room_of(module)
        by_face = module == f"optimum_htp.{room}"
        if room and own not in ("", "__main__") and (not by_face if room != own else by_face):
            past.append(f"{source}:{line} imports {module}")
    assert past == []


def test_no_file_takes_part_in_a_cycle() -> None:
    """Also within a room."""
    graph = {module_of(source): {module for _, module in our_imports(source)} for source in SOURCES}
    for module, imported in graph.items():
        imported -= {module, "optimum_htp"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


FACES = [source for source in SOURCES if source.endswith("/__init__.py")]
TAKEN = {(module, name) for source in SOURCES for _, module, name in imports(parse(source))}


@pytest.mark.parametrize("source", FACES)
def test_a_face_only_hands_on(source: str) -> None:
    """A docstring, and imports of what other rooms or the public face take from it."""
    docstring, *rest = parse(source).body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, (ast.Import, ast.ImportFrom)) or is_typing_block(node) for node in rest)
    handed_on = {name for _, module, name in imports(parse(source)) if module != "typing"}
    assert {name for name in handed_on if (module_of(source), name) not in TAKEN} == set()


def test_no_file_name_has_two_meanings() -> None:
    names = [Path(source).stem for source in SOURCES]
    assert {name for name in names if names.count(name) > 1} - SHARED_NAMES == set()


def test_the_ways_that_are_not_imports() -> None:
    """A report finds its view by name, as the command line its verbs; nothing else looks for a module of ours upwards."""
    by_name = [source for source in SOURCES if "import_module(" in (PACKAGE / source).read_text(encoding="utf-8")]
    libraries = ["models/sentence_graph.py", "models/trust.py"]
    assert by_name == ["__init__.py", "cli/verbs.py", "cli/views/notebook.py", *libraries, "reports.py"]


@pytest.mark.parametrize("source", SOURCES)
def test_heavy_libraries_are_imported_where_they_are_used(source: str) -> None:
    """Importing a module of ours imports none of them."""
    tree = parse(source)
    tree.body = [node for node in tree.body if not is_typing_block(node)]
    heavy = [
        f"{source}:{line} imports {module}"
        for line, module, _ in imports(tree, inside_functions=False)
        if module.split(".")[0] in HEAVY and (source, module) not in ALLOWED
    ]
    assert heavy == []


@pytest.mark.parametrize("source", [source for source in SOURCES if not source.startswith("cli/")])
def test_only_the_command_line_prints(source: str) -> None:
    """The others compute and report."""
    tree = parse(source)
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []
    assert [module for _, module, _ in imports(tree) if module.split(".")[0] == "rich"] == []
