"""The names that `optimum_htp` offers: complete, documented, and loaded only when they are used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import optimum_htp


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
    """What type checkers read, what is loaded and what is listed are the same names."""
    tree = ast.parse(Path(optimum_htp.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module).removeprefix("optimum_htp.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == optimum_htp._HOMES
    assert set(seen) == set(optimum_htp.__all__) - {"__version__"}
    assert len(set(optimum_htp.__all__)) == len(optimum_htp.__all__)


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
