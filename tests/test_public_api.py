"""The names that `optimum_htp` offers: complete, documented, and loaded only when they are used."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import optimum_htp
from optimum_htp import HtpPackage


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", optimum_htp.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """A class or function of the package with a docstring, or the version."""
    value = getattr(optimum_htp, name)
    if name == "__version__":
        assert isinstance(value, str)
        return
    assert value.__module__.startswith("optimum_htp.")
    assert value.__doc__
    assert name in dir(optimum_htp)


def test_names_have_one_home() -> None:
    """What type checkers read and what is loaded are the same names."""
    tree = ast.parse(Path(optimum_htp.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: str(node.module).removeprefix("optimum_htp.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == optimum_htp._HOMES
    assert len(" ".join(optimum_htp._ROOMS.values()).split()) == len(seen)
    assert set(seen) == set(optimum_htp.__all__) - {"__version__"}


@pytest.mark.parametrize(("old", "new"), optimum_htp._ALIASES.items())
def test_old_names_go_on_working(old: str, new: str) -> None:
    assert getattr(optimum_htp, old) is getattr(optimum_htp, new)
    assert old not in optimum_htp.__all__


CLASSES = {
    node.name
    for path in Path(optimum_htp.__file__).parent.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}


def members(value: Any) -> Iterator[Any]:
    """A function; or a class, whose annotations are those of its fields, and its public functions and properties."""
    yield value
    if isinstance(value, type):
        for name, member in vars(value).items():
            if name == "__init__" or not name.startswith("_"):
                function = member.fget if isinstance(member, property) else getattr(member, "func", member)
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function):
                    yield function


# What the hooks of `HtpExporter` take that only our own rooms override.
HOOKS = {"ExportTrace", "Exported", "ModuleTap", "StagedDirectory"}


@pytest.mark.parametrize("name", sorted(optimum_htp._HOMES))
def test_types_of_public_signatures_are_public(name: str) -> None:
    """Whoever gets a value, or has to give one, can name its type."""
    named = {
        word
        for member in members(getattr(optimum_htp, name))
        for field, annotation in inspect.get_annotations(member).items()
        if not field.startswith("_")
        for word in re.findall(r"\w+", str(annotation))
    }
    assert (named & CLASSES) - HOOKS - set(optimum_htp.__all__) == set()


METHODS = {name: value for name, value in vars(HtpPackage).items() if inspect.isfunction(value)}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_of_a_package_are_the_verbs(name: str) -> None:
    """By the same name, with the package as the first argument."""
    assert METHODS[name] is getattr(optimum_htp, name)
    first, *others = inspect.signature(METHODS[name]).parameters.values()
    assert (first.name, first.annotation) == ("package", "str | Path | HtpPackage")
    assert sum(other.kind is other.POSITIONAL_OR_KEYWORD for other in others) <= 1


REFERENCE = (Path(__file__).parent.parent / "docs" / "reference.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", REFERENCE, re.DOTALL | re.MULTILINE))


def test_reference_has_every_public_name() -> None:
    """If not: `make reference`."""
    assert ENTRIES.keys() == optimum_htp._HOMES.keys()


@pytest.mark.parametrize("name", ENTRIES)
def test_reference_is_up_to_date(name: str) -> None:
    """It has every parameter of a function, every attribute and method of a class. If not: `make reference`."""
    value = getattr(optimum_htp, name)
    if not isinstance(value, type):
        names = set(inspect.signature(value).parameters)
    else:
        names = {field for field in inspect.get_annotations(value) if not field.startswith("_")}
        names |= {m.__name__ for m in members(value) if m is not value and m.__name__ != "__init__" and m.__doc__}
    assert {word for word in names if not re.search(rf"\b{word}\b", ENTRIES[name])} == set()


def test_unknown_name() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="module 'optimum_htp' has no attribute 'mainexport'"):
        optimum_htp.mainexport  # noqa: B018
    with pytest.raises(ImportError):
        from optimum_htp import mainexport  # noqa: F401


def test_import_is_light() -> None:
    """`import optimum_htp` loads nothing but the standard library, not even our own modules."""
    code = "import sys; before = set(sys.modules); import optimum_htp; import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    loaded = {name.split(".")[0] for name in json.loads(run_python(code))}
    assert loaded - set(sys.stdlib_module_names) == {"optimum_htp"}


def test_reading_is_light() -> None:
    """Opening a package needs no library that computes, and reading errors needs nothing."""
    code = (
        "import sys; from optimum_htp import load_package, strip, HtpError, HtpOptions\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "optimum", "numpy", "rich", "huggingface_hub"}
    assert heavy.isdisjoint(ast.literal_eval(run_python(code)))
