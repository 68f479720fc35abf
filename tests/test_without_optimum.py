"""Where Optimum can't be imported: what reads goes on, and what needs it says so in one line.

It is hidden where it is installed; `make versions` has an environment without it.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest

import optimum_htp
from optimum_htp import export_module, load_package, tag
from optimum_htp.cli.main import main
from optimum_htp.cli.verbs import VERBS
from optimum_htp.errors import HtpError

FIXTURES = Path(__file__).parent / "fixtures" / "transformers5"
pytestmark = [pytest.mark.xdist_group("transformers5"), pytest.mark.usefixtures("no_optimum")]


class _Hidden(MetaPathFinder):
    """Finds nothing of Optimum, and says so."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "optimum":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def no_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    made_of_it = "optimum_htp.cli.plugin"  # whose classes are Optimum's, once another test has imported it
    for name in [each for each in sys.modules if each.partition(".")[0] == "optimum" or each == made_of_it]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("albert") / "package"
    with zipfile.ZipFile(FIXTURES / "albert.zip") as packed:
        packed.extractall(package)
    tag(package)
    return package


@pytest.fixture
def package(tagged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tagged, tmp_path / "package"))


# By the verb: what is behind it, where PKG is a package. `params` is below, because it reads the model in PyTorch.
LINES = {
    "tree": "PKG --nodes",
    "tag": "PKG",
    "project": "PKG",
    "strip": "PKG",
    "validate": "PKG",
    "pack": "PKG OUT.onnx",
    "unpack": "OUT.onnx OUT",
    "profile": "PKG --runs 1 --warmup 0",
    "compare": "PKG --reference PKG",
    "ranges": "PKG --dtype fp16",
    "select": "PKG *.attention",
    "extract": "PKG classifier OUT",
    "expose": "PKG classifier -o OUT",
    "functions": "PKG Linear -o OUT",
    "diff": "PKG PKG",
    "explain": "PKG linear_1",
    "view": "PKG -o OUT.html",
}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "params"])
def test_verbs_that_read(verb: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(name: str) -> int:
        line = LINES[name].replace("PKG", str(package)).replace("OUT", str(tmp_path / "out"))
        return main([name, *line.split()])

    if verb == "unpack":
        assert run("pack") == 0
    assert run(verb) == 0, capsys.readouterr().err


def the_line(error: str) -> str:
    assert "needs Optimum, which can't be imported here" in error
    assert "pip install 'optimum-onnx[onnxruntime]'" in error
    assert "\n" not in error.strip()
    return error


# By attributes, because a test that names them is skipped where there is no Optimum (systems.py).
NEEDING: dict[str, Callable[[Path], Any]] = {
    "main_export": lambda path: optimum_htp.main_export("model", path / "out"),
    "HtpExporter": lambda path: optimum_htp.HtpExporter().export("model", path / "out"),
    "AutoModelForONNX": lambda path: optimum_htp.AutoModelForONNX.from_pretrained(path),
}


@pytest.mark.parametrize("name", NEEDING)
def test_functions_that_need_it(name: str, package: Path) -> None:
    with pytest.raises(HtpError) as raised:
        NEEDING[name](package)
    the_line(str(raised.value))


@pytest.mark.parametrize("line", ["export --model model out", "params PKG --model PKG", "compare PKG --model PKG"])
def test_commands_that_need_it(line: str, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a package that Optimum could have exported: one without export.json."""
    (package / "export.json").unlink()
    assert main(line.replace("PKG", str(package)).split()) == 2
    the_line(capsys.readouterr().err)


def test_a_module_that_no_library_knows(tmp_path: Path) -> None:
    """`export_module` is torch's exporter and ours."""
    import torch

    export_module(torch.nn.Sequential(torch.nn.Linear(2, 2)), (torch.ones(1, 2),), tmp_path / "out")
    assert load_package(tmp_path / "out").files
