"""The verbs `tree` and `strip`: what a person sees, what a program reads, and figures that add up.

What a person sees is held against the files in `tests/golden`. To make them anew after a change that is meant:
`python -m pytest tests/test_tree.py --regenerate-golden`, and look at the difference.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import optimum_htp
from optimum_htp import HtpOptions, main_export
from optimum_htp.cli.main import main
from optimum_htp.cli.views.terminal import print_page
from optimum_htp.cli.views.tree import tree_page
from optimum_htp.errors import PackageError
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import read_tags, write_tags
from optimum_htp.package.package import HtpPackage
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import SIDECAR, Sidecar
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.tree import FileTree

HOSTILE = "\x1b[2J\x9b31m\u202e[red]evil[/red]"


def info(path: str, class_name: str, **facts: Any) -> ModuleInfo:
    return ModuleInfo(tuple(path.split(".")) if path else (), class_name, f"toy.{class_name}", **facts)


TREE = ModuleTree(
    [
        info("", "Net", calls=1, parameters=1_234_567),
        info("shared", "Embedding", calls=2, parameters=12_345, aliases=(("decoder", "embed"),)),
        info("encoder", "Encoder", calls=1, parameters=1_200_000),
        info("encoder.layer", "ModuleList", container=True, parameters=1_200_000),
        info("encoder.layer.0", "Block", calls=1, parameters=600_000),
        info("encoder.layer.0.attention", "Attention", calls=1, parameters=600_000),
        info("encoder.layer.0.dropout", "Dropout", calls=1),
        info("encoder.layer.1", "Block", calls=2, parameters=600_000),
        info("encoder.layer.1.attention", "Attention", calls=2, parameters=600_000),
        info("encoder.scales", "ParameterList", container=True, parameters=8),
        info("decoder", "Decoder", calls=1, parameters=22_222),
    ]
)


def tag(path: str, source: str = "scope", call: int | None = None) -> NodeTag:
    return NodeTag(TREE.tag(tuple(path.split(".")) if path else ()), source, call)


# Operator, output, and tag; the second list is the branch of an If that stands last in the first.
MAIN = [
    ("Gather", "ids", tag("shared", call=0)),
    ("MatMul", "query", tag("encoder.layer.0.attention")),
    ("Softmax", "weights", tag("encoder.layer.0.attention")),
    ("Add", "left", tag("encoder.layer.0")),
    ("MatMul", "again_0", tag("encoder.layer.1.attention", call=0)),
    ("MatMul", "again_1", tag("encoder.layer.1.attention", call=1)),
    ("Constant", "axes", tag("encoder", "dataflow")),
    ("Identity", "scale", tag("encoder.scales", "parameter")),
    ("Cast", "mask", tag("", "dataflow")),
    ("Shape", "unknown", tag("", "unresolved")),
]
BRANCH = [("Gather", "ids", tag("decoder.embed", call=1)), ("Relu", "out", tag("decoder", "inserted"))]


def toy_package(directory: Path, *, sidecar: bool = True, hostile: bool = False) -> Path:
    """A package whose truth is the tables above."""
    import onnx
    from onnx import TensorProto, helper

    directory.mkdir(parents=True, exist_ok=True)
    names = {"left": HOSTILE} if hostile else {}
    nodes = [helper.make_node(operator, ["x"], [names.get(output, output)]) for operator, output, _ in MAIN]
    nodes[[output for _, output, _ in MAIN].index("ids")].name = "Gather_0"
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inner = [helper.make_node(operator, ["x"], [output]) for operator, output, _ in BRANCH]
    branch = helper.make_graph(inner, "branch", [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    nodes.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch, domain="custom"))
    graph = helper.make_graph(nodes, "main", [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)], [value])
    file = directory / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=10), file)
    model = read_model(file)
    tags = {("", position): each for position, (_, _, each) in enumerate(MAIN)}
    tags["", len(MAIN)] = tag("decoder")
    for body in ("then_branch", "else_branch"):
        tags |= {(f"{len(MAIN)}.{body}", position): each for position, (_, _, each) in enumerate(BRANCH)}
    tagged = TaggedGraph(model, tags, Roots([Root(TREE, "model")]))
    write_tags(tagged, options=HtpOptions(skeleton=False))
    if sidecar:
        Sidecar({"model.onnx": FileRecord.of(tagged)}).write(directory)
    return directory


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy package; treat it as read-only."""
    return toy_package(tmp_path_factory.mktemp("toy") / "package")


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["tree", *arguments]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


# --- What a person sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tree", []),
        ("tree_nodes", ["--nodes"]),
        ("tree_depth", ["--depth", "1"]),
        ("tree_module", ["--module", "*.attention"]),
        ("tree_class", ["--module", "Block", "--depth", "0"]),
        ("tree_container", ["--module", "encoder.layer", "--nodes"]),
    ],
)
def test_golden_text(
    name: str,
    arguments: list[str],
    package: Path,
    capsys: pytest.CaptureFixture[str],
    golden: Callable[[str, str], None],
) -> None:
    """Plain text, in a pipe."""
    golden(name, shown([str(package), *arguments], capsys))


def test_text_is_as_wide_as_it_takes(package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """A pipe has no width, whatever the environment says of the terminal."""
    wide = shown([str(package), "--nodes"], capsys)
    monkeypatch.setenv("COLUMNS", "20")
    assert shown([str(package), "--nodes"], capsys) == wide


class Terminal(io.StringIO):
    """A stream that says that a person watches it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_terminal_has_colours_and_the_same_words(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted to its width: names wrap, figures don't."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    report = optimum_htp.tree(package)
    pipe = printed(report, io.StringIO())
    monkeypatch.setenv("COLUMNS", "200")
    wide = printed(report, Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    narrow = plain(printed(report, Terminal()))
    assert "\x1b[" in wide
    assert [word for word in plain(wide).split() if not set(word) <= set("│├└─")] == pipe.split()
    assert max(map(len, narrow.splitlines())) <= 60
    assert all(name in narrow for name in ("attention", "embed", "Embedding", "not shown, for want of room: "))


def printed(report: optimum_htp.TreeReport, stream: io.StringIO) -> str:
    with redirect_stdout(stream):
        print_page(tree_page(report))
    return stream.getvalue()


def plain(text: str) -> str:
    from rich.text import Text

    return Text.from_ansi(text).plain


def test_names_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control characters of a hostile file are escaped, and what looks like markup is text."""
    hostile = toy_package(tmp_path / HOSTILE.replace("/", ""), hostile=True)
    text = shown([str(hostile), "--nodes"], capsys)
    assert "\\x1b[2J\\x9b31m\\u202e[red]evil[/red]" in text
    assert [line for line in text.splitlines() if not line.isprintable()] == []
    monkeypatch.setenv("COLUMNS", "200")
    shown_on_terminal = printed(optimum_htp.tree(hostile, nodes=True), Terminal())
    assert "[red]evil[/red]" in plain(shown_on_terminal)
    assert "\x1b[2J" not in shown_on_terminal
    assert "\u202e" not in shown_on_terminal
    assert "\x1b" not in refused(["tree", str(hostile), "--module", HOSTILE], capsys)
    assert "\x1b" not in shown([str(hostile), "--nodes", "--json"], capsys)


def test_stream_without_unicode(package: Path) -> None:
    """A terminal or a pipe in an old encoding gets its tree in ASCII."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with redirect_stdout(stream):
        print_page(tree_page(optimum_htp.tree(package)))
    stream.flush()
    assert b"\n  encoder " in raw.getvalue()


# --- What a program reads -----------------------------------------------------------------------------------------


def test_json(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exact figures, by file and module."""
    document = json.loads(shown([str(package), "--nodes", "--json"], capsys))
    assert document["package"] == str(package)
    file = document["files"]["model.onnx"]
    assert file["counts"] == {
        "nodes": 15,
        "tagged": 14,
        "unresolved": 1,
        "root_by_dataflow": 1,
        "by_source": {"dataflow": 2, "inserted": 2, "parameter": 1, "scope": 9, "unresolved": 1},
    }
    assert file["evidence_from"] == "sidecar"
    modules = {module["path"]: module for module in file["modules"]}
    assert modules["encoder.layer.1"] == {
        "path": "encoder.layer.1",
        "class": "Block",
        "tag": "/Net/Encoder.encoder/Block.layer.1",
        "depth": 2,
        "calls": 2,
        "parameters": 600_000,
        "own_nodes": 0,
        "all_nodes": 2,
        "aliases": [],
        "alias_of": None,
        "nodes": [],
    }
    assert [(node["id"], node["call"]) for node in modules["encoder.layer.1.attention"]["nodes"]] == [
        ("again_0", 0),
        ("again_1", 1),
    ]
    assert modules["decoder.embed"]["alias_of"] == "shared"
    assert modules["decoder"]["nodes"][0] == {
        "graph": "",
        "id": "y",
        "name": "",
        "operator": "custom::If",
        "source": "scope",
        "call": None,
        "python": None,
    }
    assert modules[""]["in_model"] == "model"
    assert [node["id"] for node in file["unresolved"]] == ["unknown"]


def assert_adds_up(tree: FileTree) -> None:
    """Every node is one module's own or unresolved, and what is below a module is the sum of what is below it."""
    assert sum(row.own_nodes for row in tree.rows) + len(tree.unresolved) == tree.counts.nodes
    assert sum(tree.counts.by_source.values()) == tree.counts.nodes
    assert tree.counts.tagged + tree.counts.unresolved == tree.counts.nodes
    assert len(tree.unresolved) == tree.counts.unresolved
    for position, row in enumerate(tree.rows):
        assert row.own_nodes == len(row.nodes)
        below = []
        for other in tree.rows[position + 1 :]:
            if other.depth <= row.depth:
                break
            below.append(other)
        assert row.all_nodes == row.own_nodes + sum(other.own_nodes for other in below)
        assert row.modules_below == len(below)
        assert all(other.tag.startswith(row.tag + "/") for other in below)


def test_figures_add_up(package: Path) -> None:
    (tree,) = optimum_htp.tree(package).files
    assert_adds_up(tree)


@pytest.mark.parametrize("name", ["bert", "t5", "albert"])
def test_figures_of_real_exports_add_up(name: str, zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Merged decoders, shared embeddings, layers that run more than once; with the sidecar and without."""
    result = main_export(str(zoo_model(name)), tmp_path)
    trees = {tree.name: tree for tree in optimum_htp.tree(tmp_path).files}
    assert {name: tree.counts for name, tree in trees.items()} == result.files
    for tree in trees.values():
        assert_adds_up(tree)
    (tmp_path / SIDECAR).unlink()
    for tree in optimum_htp.tree(tmp_path).files:
        assert_adds_up(tree)
        assert tree.evidence == "metadata"
        own = {row.tag: row.own_nodes for row in trees[tree.name].rows if row.own_nodes}
        assert {row.tag: row.own_nodes for row in tree.rows if row.own_nodes} == own


# --- Packages of all kinds ----------------------------------------------------------------------------------------


def test_without_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The metadata of the nodes says as much, but for calls, parameters and modules without nodes."""
    text = shown([str(toy_package(tmp_path, sidecar=False))], capsys)
    assert "read from the nodes, without export_metadata.json" in text
    line = next(line for line in text.splitlines() if "layer.1" in line)
    assert line.split()[-4:] == ["2", "0", "?", "?"]
    assert "dropout" not in text


def test_one_file(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An ONNX file is a package of its own, with what the sidecar beside it says."""
    assert shown([str(package / "model.onnx")], capsys) == shown([str(package)], capsys)


def test_file_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its path in the package or a glob."""
    for name in ("unet", "vae"):
        toy_package(tmp_path / name, sidecar=False)
    assert list(json.loads(shown([str(tmp_path), "--json"], capsys))["files"]) == ["unet/model.onnx", "vae/model.onnx"]
    for pattern in ("vae/model.onnx", "vae/*"):
        document = json.loads(shown([str(tmp_path), "--json", "--file", pattern], capsys))
        assert list(document["files"]) == ["vae/model.onnx"]
    line = refused(["tree", str(tmp_path), "--file", "other.onnx"], capsys)
    assert "'other.onnx'; it has unet/model.onnx, vae/model.onnx" in line


@pytest.mark.parametrize("pattern", ["nothing", "encoder.layer.[5]", "Blo"])
def test_no_such_module(pattern: str, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"no module matches {pattern!r}" in refused(["tree", str(package), "--module", pattern], capsys)


def test_near_modules_are_named(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["tree", str(package), "--module", "encoder.layer.7"], capsys)
    assert "did you mean 'encoder.layer.1' or 'encoder.layer.0'" in line
    assert "takes modules away" in refused(["tree", str(package), "--module", "!Block"], capsys)


@pytest.mark.parametrize("depth", ["-1", "two", "1.5", "9" * 30])
def test_depth_that_is_none(depth: str, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["tree", str(package), "--depth", depth])
    assert done.value.code == 2
    assert "is not a whole number" in capsys.readouterr().err


def test_untagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the command that tags it."""
    toy_package(tmp_path)
    assert main(["strip", str(tmp_path)]) == 0
    capsys.readouterr()
    line = refused(["tree", str(tmp_path)], capsys)
    assert "are not tagged" in line
    assert "optimum-cli htp tag" in line


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no ONNX file in it"), (b"", "empty"), (b"nothing of the kind", "model.onnx")]
)
@pytest.mark.parametrize("verb", ["tree", "strip"])
def test_no_package(
    verb: str, content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    assert said in refused([verb, str(tmp_path)], capsys)
    assert "no such package" in refused([verb, str(tmp_path / "none")], capsys)


@pytest.mark.parametrize(
    "path",
    [
        ("digest",),
        ("roots",),
        ("roots", 0, "in_model"),
        ("roots", 0, "modules"),
        ("roots", 0, "modules", 0),
        ("roots", 0, "modules", 4, "path"),
        ("roots", 0, "modules", 4, "calls"),
        ("tags", 1),
        ("graphs", ""),
        ("graphs", "", 0),
        ("graphs", "", 0, 1),
        ("graphs", "", 0, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("value", [None, -1, 10**30, "\x1b[2J", "/A/B", "a.b.c", [], {}, ["a"]], ids=repr)
def test_hostile_sidecar(path: tuple[str | int, ...], value: object, tmp_path: Path, capsys: Any) -> None:
    """It is shown, without harm, or refused in a line."""
    toy_package(tmp_path)
    document = json.loads((tmp_path / SIDECAR).read_text())
    at = document["files"]["model.onnx"]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (tmp_path / SIDECAR).write_text(json.dumps(document))
    code = main(["tree", str(tmp_path), "--nodes"])
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err
    assert (code, output.err.count("\n")) in ((0, 0), (2, 1))


def test_tag_that_names_no_module(tmp_path: Path) -> None:
    """Metadata of nodes comes from files too."""
    toy_package(tmp_path, sidecar=False)
    model = read_model(tmp_path / "model.onnx")
    package = HtpPackage(tmp_path)
    tags = {**read_tags(model), ("", 0): NodeTag("/Net/%zz.%2e", "scope")}
    file = package.files["model.onnx"]
    file.tagged = replace(file.tagged, tags=tags)
    with pytest.raises(PackageError, match="names no module"):
        optimum_htp.tree(package)


def test_tree_is_light(package: Path) -> None:
    """It loads no library at all in a pipe."""
    code = (
        "import sys\nfrom optimum_htp.cli.main import main\n"
        f"main(['tree', {str(package)!r}, '--nodes'])\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    heavy = ("torch", "transformers", "onnx", "onnxruntime", "optimum", "numpy", "rich", "huggingface_hub")
    assert [name for name in heavy if repr(name) in result.stderr] == []


# --- strip --------------------------------------------------------------------------------------------------------


def test_strip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of ours is gone, and a second time there is nothing to do."""
    toy_package(tmp_path)
    assert main(["strip", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "model.onnx: stripped\nexport_metadata.json: deleted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert b"optimum_htp" not in (tmp_path / "model.onnx").read_bytes()
    assert main(["strip", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "model.onnx: nothing to remove\n"


def test_strip_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sidecar goes with the last file that it describes."""
    toy_package(tmp_path)
    assert main(["strip", str(tmp_path / "model.onnx"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"package": str(tmp_path / "model.onnx"), "files": {"model.onnx": True, SIDECAR: True}}
    assert not (tmp_path / SIDECAR).exists()


@pytest.mark.parametrize("function", ["strip_tags", "remove_config_metadata"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, PackageError("no")])
def test_strip_that_fails(
    function: str, error: type[BaseException] | BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is there as it was, the sidecar too."""
    toy_package(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object, **__: object) -> bool:
        raise error

    monkeypatch.setattr(f"optimum_htp.verbs.strip.{function}", fail)
    assert main(["strip", str(tmp_path)]) == (130 if error is KeyboardInterrupt else 2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_strip_with_a_broken_config(tmp_path: Path) -> None:
    """It is left alone, unless something of ours seems to be in it: then nothing is stripped."""
    toy_package(tmp_path)
    (tmp_path / "config.json").write_text('{"htp_metadata": {')
    assert main(["strip", str(tmp_path)]) == 2
    assert (tmp_path / SIDECAR).is_file()
    (tmp_path / "config.json").write_text("{")
    assert main(["strip", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()}["config.json"] == b"{"
    assert b"optimum_htp" not in (tmp_path / "model.onnx").read_bytes()
