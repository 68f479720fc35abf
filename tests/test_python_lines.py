"""The line of Python that a node comes from: what a trace says, what of it is believed, and what is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from optimum_htp.cli.main import main
from optimum_htp.cli.views.compare import comparison_page
from optimum_htp.onnxfile.model import Graph, Node, OnnxModel
from optimum_htp.package import python_lines
from optimum_htp.package.python_lines import STACK_TRACE, PythonLine, lines_by_output, python_line

OURS = "/elsewhere/site-packages/models/net.py"
TORCHS = "/elsewhere/site-packages/torch/nn/modules/linear.py"


def frame(file: str, line: int, code: str | None = "return self.fc(x)", function: str = "forward") -> str:
    return f'  File "{file}", line {line}, in {function}\n' + (f"    {code}\n" if code is not None else "")


def line_of(*frames: str) -> PythonLine | None:
    return python_line(Node(metadata={STACK_TRACE: "".join(frames).strip()}))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An environment with one package, `models`."""
    root = tmp_path / "lib" / "site-packages"
    (root / "models").mkdir(parents=True)
    (root / "models" / "net.py").write_text("import secrets\n\n    return self.fc(x)\n")
    (tmp_path / "secret.py").write_text("a\nb\nreturn self.fc(x)\n")
    monkeypatch.setattr(python_lines, "_package_directories", lambda: iter([root.resolve()]))
    python_lines._installed_lines.cache_clear()
    yield root
    python_lines._installed_lines.cache_clear()


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([frame(OURS, 3), frame(TORCHS, 134, "return F.linear(input, self.weight)")], (OURS, 3)),
        ([frame(OURS, 3), frame(OURS, 9, function="attend")], (OURS, 9)),
        ([frame(OURS, 3, None), frame(TORCHS, 1, None)], (OURS, 3)),  # without the code
        ([frame("/opt/pytorch/torch/nn/modules/linear.py", 1)], None),  # a checkout of torch
        ([frame("/home/me/torch/net.py", 7)], ("/home/me/torch/net.py", 7)),  # which is none
        ([frame(OURS, 3), frame("<eval_with_key>.6", 7)], (OURS, 3)),
        (
            [frame("C:\\env\\Lib\\site-packages\\models\\net.py", 3)],
            ("C:\\env\\Lib\\site-packages\\models\\net.py", 3),
        ),
        ([frame(OURS, 0)], None),
        (["no trace at all"], None),
        ([frame(OURS, 3) * 10_000], None),  # longer than any
    ],
)
def test_the_line_of_a_trace(frames: list[str], expected: tuple[str, int] | None) -> None:
    """The innermost one of the model's own code."""
    found = line_of(*frames)
    assert (found and (found.file, found.line)) == expected


def test_what_is_shown(installed: Path) -> None:
    """The place in its package, and the line if the file here has it too."""
    line = line_of(frame(OURS, 3))
    assert line is not None
    assert (line.place, line.source()) == ("models/net.py:3", "return self.fc(x)")
    assert line.to_dict() == {"file": OURS, "line": 3, "function": "forward"}
    other = line_of(frame(OURS, 3, "return x"))  # of another version of that package
    beyond = line_of(frame(OURS, 99, None))
    quoted = line_of(frame(OURS, 1, None))
    assert other is not None and beyond is not None and quoted is not None
    assert (other.source(), beyond.source(), quoted.source()) == (None, None, "import secrets")
    outside = line_of(frame("/home/me/net.py", 3))
    assert outside is not None
    assert (outside.place, outside.source()) == ("net.py:3", None)


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.py",
        "models/../../../secret.py",
        "leads_out.py",
        "models/net.txt",
        "models",
        "/etc/passwd",
        "pipe.py",
        "large.py",
        "models/net.py\0",
        "circle.py",
        f"{'a' * 5000}.py",
    ],
)
def test_nothing_else_is_opened(name: str, installed: Path, tmp_path: Path) -> None:
    """Of a stranger's trace: no file outside of the packages, by no way, and nothing that is no file of Python."""
    (installed / "leads_out.py").symlink_to(tmp_path / "secret.py")
    (installed / "circle.py").symlink_to(installed / "circle.py")
    os.mkfifo(installed / "pipe.py")
    (installed / "models" / "net.txt").write_text("a\nb\nreturn self.fc(x)\n")
    with (installed / "large.py").open("wb") as large:
        large.write(b"a\nb\nreturn self.fc(x)\n")
        large.truncate(100_000_000)
    line = line_of(frame(f"/x/site-packages/{name}", 3))
    assert line is None or line.source() is None


def test_lines_of_tensors() -> None:
    """By the tensors that nodes make, those of functions left out: their names are others'."""
    node = Node("n", "Add", outputs=("y", ""), metadata={STACK_TRACE: frame(OURS, 3)})
    model = OnnxModel(graph=Graph(nodes=[node, Node("m", "Add", outputs=("z",))]))
    assert list(lines_by_output(model)) == ["y"]


def _package(directory: Path) -> Path:
    """A tagged file with a node from Python, and one without."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "z")]
    nodes = [helper.make_node("Sin", ["x"], ["y"], "sin"), helper.make_node("Cos", ["y"], ["z"], "cos")]
    for node, entries in zip(
        nodes,
        (
            {"pkg.optimum_htp.tag": "/Net/Sin.a", "pkg.optimum_htp.source": "scope", STACK_TRACE: frame(OURS, 3)},
            {"pkg.optimum_htp.tag": "/Net", "pkg.optimum_htp.source": "scope"},
        ),
        strict=True,
    ):
        for key, text in entries.items():
            entry = node.metadata_props.add()
            entry.key, entry.value = key, text
    model = helper.make_model(
        helper.make_graph(nodes, "net", value[:1], value[1:]), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    onnx.save(model, directory / "model.onnx")
    return directory


def test_tree_shows_them(installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--nodes` the place, `--source` the line too, `--json` the file; `--source` alone is refused."""
    package = str(_package(tmp_path))
    assert main(["tree", package, "--nodes"]) == 0
    assert "models/net.py:3" in capsys.readouterr().out
    assert main(["tree", package, "--nodes", "--source"]) == 0
    assert "return self.fc(x)" in capsys.readouterr().out
    assert main(["tree", package, "--nodes", "--json"]) == 0
    modules = json.loads(capsys.readouterr().out)["files"]["model.onnx"]["modules"]
    assert [node["python"] for module in modules for node in module["nodes"]] == [
        None,
        {"file": OURS, "line": 3, "function": "forward"},
    ]
    assert main(["tree", package, "--source"]) == 2
    assert "--source is for --nodes" in capsys.readouterr().err


def test_profile_and_compare_know_them(tmp_path: Path) -> None:
    """The nodes of a profile by what they make; each call that is compared, and who is to blame."""
    from optimum_htp import compare, profile

    package = _package(tmp_path)
    (phase,) = profile(package, runs=1, warmup=0).phases
    lines: dict[str, Any] = {name: node.python for node in phase.nodes for name in node.outputs}
    assert lines["y"].line == 3
    assert lines["z"] is None
    report = compare(package, reference=package)
    (part,) = report.parts
    assert {call.path: call.python and call.python.place for call in part.calls if not call.operations} == {
        "a": "models/net.py:3",
        "": None,
    }
    assert any("models/net.py:3" in str(block) for block in comparison_page(report, every=True))
