"""The verb `diff`: which modules differ between two packages, and figures that add up."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from test_selection import toy_package as other_toy
from test_tree import Terminal, plain

from optimum_htp import HtpOptions, PackageError, diff, main_export, strip
from optimum_htp.cli.main import main
from optimum_htp.cli.views.diff import print_diff
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.types import element_type
from optimum_htp.package.node_metadata import write_tags
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import Sidecar
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.diff.report import Change, FileDiff
from optimum_htp.verbs.diff.wiring import same_wiring


def info(path: str, class_name: str, **facts: Any) -> ModuleInfo:
    return ModuleInfo(tuple(path.split(".")) if path else (), class_name, f"toy.{class_name}", **facts)


LEFT = ModuleTree(
    [
        info("", "Net", calls=1, parameters=2_000),
        info("embed", "Embedding", calls=1, parameters=1_000),
        info("layer", "ModuleList", container=True, parameters=1_000),
        info("layer.0", "Block", calls=1, parameters=500),
        info("layer.0.act", "GELU", calls=1),
        info("layer.1", "Block", calls=2, parameters=500),
        info("gone", "Dropout", calls=1),
    ]
)
RIGHT = ModuleTree(
    [
        info("", "Net", calls=1, parameters=2_500),
        info("embed", "Embedding", calls=1, parameters=1_000),
        info("layer", "ModuleList", container=True, parameters=1_500),
        info("layer.0", "Block", calls=1, parameters=500),
        info("layer.0.act", "ReLU", calls=1),
        info("layer.1", "Block", calls=1, parameters=1_000),
        info("layer.1.norm", "LayerNorm", calls=1, parameters=8),
    ]
)
# Operator and owner; None is unresolved.
LEFT_NODES = [
    ("Gather", "embed"), ("MatMul", "layer.0"), ("Erf", "layer.0.act"), ("Mul", "layer.0.act"), ("MatMul", "layer.1"),
    ("Cast", None),
]  # fmt: skip
RIGHT_NODES = [
    ("Gather", "embed"), ("MatMul", "layer.0"), ("Relu", "layer.0.act"), ("Pow", "layer.1.norm"), ("MatMul", "layer.1"),
    ("custom::Fused", "layer.1"),
]  # fmt: skip


# The last line up to what is not compared besides the one weight that toys have.
COMPARED = (
    "compared: nodes and connections, inputs and outputs, opsets, attributes, constants, types of weights; "
    "not compared: the values of 1 weight (--weights compares them)"
)


def toy_package(
    directory: Path,
    tree: ModuleTree,
    nodes: list[tuple[str, str | None]],
    *,
    opset: int = 17,
    name: str = "model.onnx",
    weight: tuple[int, ...] = (2, 3),
    prefix: str = "t",
) -> Path:
    """A package whose nodes form a chain from the input `x` to the last tensor, which is the output."""
    import onnx
    from onnx import TensorProto, helper

    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for at, (operator, _) in enumerate(nodes):
        domain, _, kind = operator.rpartition("::")
        source = f"{prefix}{at - 1}" if at else "x"
        made.append(helper.make_node(kind, [source, "w"], [f"{prefix}{at}"], name=f"{prefix}/{at}", domain=domain))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"])
        for name in ("x", f"{prefix}{len(nodes) - 1}")
    ]
    stored = [
        helper.make_tensor("w", TensorProto.FLOAT, (100,), [0.5] * 100),
        helper.make_tensor("spare", TensorProto.FLOAT, weight, [0.0] * (weight[0] * weight[1])),
    ]
    graph = helper.make_graph(made, "main", ends[:1], ends[1:], stored)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opsets), directory / name)
    model = read_model(directory / name)
    tags = {
        ("", at): NodeTag(tree.tag(tuple(owner.split("."))), "scope") if owner else NodeTag(tree.tag(()), "unresolved")
        for at, (_, owner) in enumerate(nodes)
    }
    tagged = TaggedGraph(model, tags, Roots([Root(tree)]))
    write_tags(tagged, options=HtpOptions(skeleton=False))
    Sidecar({name: FileRecord.of(tagged)}).write(directory)
    return directory


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first toy package; treat it as read-only."""
    return toy_package(tmp_path_factory.mktemp("left") / "before", LEFT, LEFT_NODES)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second; treat it as read-only."""
    return toy_package(tmp_path_factory.mktemp("right") / "after", RIGHT, RIGHT_NODES, opset=18, weight=(2, 4))


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> str:
    assert main(["diff", *arguments]) == code
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def adds_up(file: FileDiff) -> None:
    """The figures of the modules sum up to those of the files, by operator too."""
    for side, nodes in zip(("before", "after"), file.nodes, strict=True):
        modules = [getattr(module, side) for module in file.modules]
        assert sum(module.nodes for module in modules if module is not None) == nodes
        for module in modules:
            assert module is None or sum(module.operators.values()) == module.nodes
    change = sum((each.after or 0) - (each.before or 0) for each in file.operators)  # type: ignore[operator]
    assert change == file.nodes[1] - file.nodes[0]


# --- What a person sees -------------------------------------------------------------------------------------------


def test_text(left: Path, right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        shown([str(left), str(right)], capsys).replace(str(left), "A").replace(str(right), "B")
        == f"""\
A -> B

model.onnx: 6 -> 6 nodes
opset ai.onnx: 17 -> 18
stored elements of float32: 106 -> 108
6 modules differ, 2 with nodes do not

module        class         before  after  change  what
(root)        Net                0      0          parameters 2,000 -> 2,500
layer.0.act   GELU -> ReLU       2      1      -1  -1 Erf, -1 Mul, +1 Relu
layer.1       Block              1      2      +1  parameters 500 -> 1,000; calls 2 -> 1; +1 custom::Fused
layer.1.norm  LayerNorm          -      1      +1  only in the second; +1 Pow
gone          Dropout            0      -          only in the first
(unresolved)                     1      -      -1  -1 Cast
total                            4      4

{COMPARED}, what 3 nodes before and 3 after say, which have no counterpart, names, descriptions, metadata
"""
    )


def layers(directory: Path, nodes: list[tuple[str, str | None]], *, numbers: str = "012345") -> Path:
    """A model with layers, each of which has an attention."""
    infos = [info("", "Net", calls=1), info("layer", "ModuleList", container=True)]
    for number in numbers:
        infos += [info(f"layer.{number}", "Block", calls=1), info(f"layer.{number}.attention", "Attention", calls=1)]
    return toy_package(directory, ModuleTree(infos), nodes)


def test_layers_that_changed_alike_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the sums of all of them; what changed otherwise has a line of its own, and JSON lists each module."""
    before = [("MatMul", f"layer.{number}.attention") for number in range(6)]
    after = [(operator, owner) for operator, owner in before for operator in ("Cast", operator)]
    after[2:4] = [("Gemm", "layer.1.attention")]
    packages = [str(layers(tmp_path / "A", before)), str(layers(tmp_path / "B", after))]
    text = shown(packages, capsys)
    assert text.partition("module ")[2].splitlines()[1:-2] == [
        "layer.0,2-5.attention (5)  Attention       5     10      +5  +5 Cast",
        "layer.1.attention          Attention       1      1          -1 MatMul, +1 Gemm",
        "total                                      6     11      +5",
    ]
    modules = json.loads(shown([*packages, "--json"], capsys))["files"][0]["modules"]
    assert [module["path"] for module in modules] == [f"layer.{number}.attention" for number in range(6)]


def test_names_that_a_pipe_cannot_take(tmp_path: Path) -> None:
    """In an old encoding they are escaped."""
    tree = ModuleTree([info("", "Net", calls=1), info("größe", "Layer", calls=1)])
    left = toy_package(tmp_path / "A", tree, [("Erf", "größe")])
    right = toy_package(tmp_path / "B", tree, [("Relu", "größe")])
    command = [sys.executable, "-m", "optimum_htp", "diff", str(left), str(right)]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"gr\xf6\xdfe" in done.stdout


def test_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what changed is cut off, and of a long name the end stays."""
    monkeypatch.setenv("COLUMNS", "80")
    long = "a_rather_long_name_of_a_module_that_is_cut.and_its_end"
    infos = [info("", "Net", calls=1), *(info(long[: len(long) - cut], "Layer", calls=1) for cut in (12, 0))]
    kinds = "Relu Gelu Softmax LayerNormalization ReduceMean Transpose".split()
    left = toy_package(tmp_path / "A", ModuleTree(infos), [("Erf", long)])
    right = toy_package(tmp_path / "B", ModuleTree(infos), [(kind, long) for kind in kinds])
    terminal = Terminal()
    with redirect_stdout(terminal):
        print_diff(diff(right, left))
    text = plain(terminal.getvalue())
    assert max(map(len, text.splitlines())) <= 80
    assert "…" in text
    assert ".and_its_end" in text
    assert all(kind in text for kind in kinds)


def test_depth(left: Path, right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes below count with the module above, and no node is lost."""
    out = shown([str(left), str(right), "--depth", "1"], capsys)
    table = out[out.index("module  ") : out.index("\n\ncompared") + 1]
    assert (
        table
        == """\
module        class    before  after  change  what
(root)        Net           0      0          parameters 2,000 -> 2,500
layer.0       Block         3      2      -1  -1 Erf, -1 Mul, +1 Relu
layer.1       Block         1      3      +2  parameters 500 -> 1,000; calls 2 -> 1; +1 Pow, +1 custom::Fused
gone          Dropout       0      -          only in the first
(unresolved)                1      -      -1  -1 Cast
total                       5      5
"""
    )
    for depth in range(4):
        adds_up(diff(right, left, depth=depth).files[0])


def test_no_difference(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown([str(left), str(left), "--exit-code"], capsys)
    same = "the same 6 nodes, module by module, with the same attributes and constants"
    assert out == f"{left} -> {left}\n\nmodel.onnx: {same}\n\n{COMPARED}, names, descriptions, metadata\n"


def test_exit_code(left: Path, right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 unless it is asked for."""
    shown([str(left), str(right)], capsys)
    shown([str(left), str(right), "--exit-code"], capsys, code=1)


def test_json(left: Path, right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(shown([str(left), str(right), "--json"], capsys))
    assert (document["before"], document["after"], document["changed"]) == (str(left), str(right), True)
    (file,) = document["files"]
    assert file["versions"] == [{"name": "ai.onnx", "before": 17, "after": 18}]
    assert file["stored_elements"] == [{"name": "float32", "before": 106, "after": 108}]
    assert file["same_wiring"] is False
    assert document["weights_compared"] is False
    assert file["compared"] == {
        "nodes": 3, "alone": {"before": 3, "after": 3}, "constants": 0, "weights": 0, "types_only": 1,
    }  # fmt: skip
    assert [module["path"] for module in file["modules"]] == [
        "", "layer.0.act", "layer.1", "layer.1.norm", "gone", None,
    ]  # fmt: skip
    assert file["modules"][2] == {
        "path": "layer.1",
        "before": {
            "class": "Block", "tag": "/Net/Block.layer.1", "calls": 2, "parameters": 500, "nodes": 1,
            "operators": {"MatMul": 1},
        },
        "after": {
            "class": "Block", "tag": "/Net/Block.layer.1", "calls": 1, "parameters": 1000, "nodes": 2,
            "operators": {"MatMul": 1, "custom::Fused": 1},
        },
        "operators": [{"name": "custom::Fused", "before": None, "after": 1}],
        "contents": [],
    }  # fmt: skip


def test_hostile_names(tmp_path: Path, left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a file says reaches the terminal escaped."""
    tree = ModuleTree([info("", "\x1b[2JNet", calls=1), info("\u202eevil", "[red]B[/red]", calls=1)])
    package = toy_package(tmp_path / "hostile", tree, [("Relu", "\u202eevil")])
    out = shown([str(left), str(package)], capsys)
    assert not {char for char in out if not char.isprintable()} - {"\n"}
    assert "\\u202eevil" in out
    assert "[red]B[/red]" in out


# --- What is compared ---------------------------------------------------------------------------------------------


def test_figures_add_up(left: Path, right: Path) -> None:
    for one, other in ((left, right), (right, left), (left, left)):
        adds_up(diff(other, one).files[0])


def test_other_way_round(left: Path, right: Path) -> None:
    """The same modules, with the sides exchanged."""
    there = {repr((each.path, each.before, each.after)) for each in diff(right, left).files[0].changed_modules}
    back = {repr((each.path, each.after, each.before)) for each in diff(left, right).files[0].changed_modules}
    assert there == back


def test_names_of_tensors_do_not_count(left: Path, tmp_path: Path) -> None:
    """Nor those of nodes: only the output that the graph has is a name that others use."""
    package = toy_package(tmp_path / "named", LEFT, LEFT_NODES, prefix="other")
    (file,) = diff(package, left).files
    assert file.same_wiring
    assert file.values == (Change("output t5", "float32[batch]", "float32[batch], called other5"),)
    assert not file.changed_modules


def test_wiring_counts(left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same nodes by module, connected in another way, are a difference."""
    import onnx

    package = toy_package(tmp_path / "wired", LEFT, LEFT_NODES)
    model = onnx.load(package / "model.onnx")
    model.graph.node[3].input[0] = "t0"
    onnx.save(model, package / "model.onnx")
    (file,) = diff(package, left).files
    assert not file.same_wiring
    assert file.changed
    out = shown([str(left), str(package), "--exit-code"], capsys, code=1)
    assert "the nodes are connected differently, or stand in another order" in out


def test_wiring_of_bodies(tmp_path: Path) -> None:
    """A branch is part of the graph."""
    import onnx

    other_toy(tmp_path / "one")
    package = other_toy(tmp_path / "two")
    model = onnx.load(package / "model.onnx")
    one = read_model(tmp_path / "one" / "model.onnx")
    assert same_wiring(one, read_model(package / "model.onnx"))
    branch = next(each.g for node in model.graph.node for each in node.attribute if each.name == "else_branch")
    branch.node[1].input[0] = "b0"
    onnx.save(model, package / "model.onnx")
    assert not same_wiring(one, read_model(package / "model.onnx"))


def test_files_of_one_side(
    exported: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are listed, and are a difference."""
    package = tmp_path / "t5"
    shutil.copytree(exported("t5"), package)
    (package / "decoder_with_past_model.onnx").unlink()
    capsys.readouterr()  # what the export said
    out = shown([str(exported("t5")), str(package), "--exit-code"], capsys, code=1)
    assert "decoder_with_past_model.onnx: only in the first\n" in out
    assert out.count("module by module") == 3


@pytest.mark.parametrize("tool", ["ort-all", "dynamic", "optimum-O2", "onnxslim"])
def test_rewritten_graphs(tool: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """What a tool changed, by the module, also where the file itself tells nothing any more."""
    from rewriters import rewrite

    package = exported("bert")
    rewrite(tool, package / "model.onnx", tmp_path / "made" / "model.onnx")
    shutil.rmtree(tmp_path / "made" / ".model-0")
    (file,) = diff(tmp_path / "made", package).files
    adds_up(file)
    assert file.changed_modules
    assert None not in {module.path for module in file.modules}
    shutil.copytree(tmp_path / "made", tmp_path / "bare")
    strip(tmp_path / "bare")
    (again,) = diff(tmp_path / "bare", package).files
    assert again.nodes == file.nodes
    assert again.operators == file.operators


def test_same_export_twice(exported: Callable[[str], Path], zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    import zoo

    source = zoo_model("bert")
    main_export(source, tmp_path, **zoo.ZOO["bert"].main_export_kwargs(source))
    assert not diff(tmp_path, exported("bert")).changed


# --- Refused ------------------------------------------------------------------------------------------------------


def test_untagged(left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the other package does not explain it either, the command that tags it is named."""
    package = other_toy(tmp_path / "toy", tags=False)
    assert main(["diff", str(package), str(package)]) == 2
    assert f"optimum-cli htp tag {package}" in capsys.readouterr().err
    with pytest.raises(PackageError):
        diff(package, left)


def test_no_package(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(left), "/no/such/package"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1


def test_no_library_is_loaded(left: Path, right: Path) -> None:
    """Neither torch nor onnx nor numpy."""
    code = (
        f"import sys\nfrom optimum_htp.cli.main import main\nmain(['diff', {str(left)!r}, {str(right)!r}])\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"torch", "transformers", "onnx", "onnxruntime", "optimum", "numpy"} & set(
        re.findall(r"\w+", result.stderr.splitlines()[-1])
    )


def test_element_types() -> None:
    """They are ONNX's own."""
    from onnx import TensorProto

    for name, number in TensorProto.DataType.items():
        text = {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())
        assert element_type(number).name in (text, f"type {number}")
