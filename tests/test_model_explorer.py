"""Model Explorer: the boxes on the nodes, its ids, the node data, and what its own loader makes of our files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import onnx
import pytest
from rewriters import rewrite
from small_graphs import save

from optimum_htp import model_explorer, profile
from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import CallTree, ModuleInfo, ModuleTree, NodeTag, Root, Roots
from optimum_htp.onnxfile import OnnxModel, read_content, read_model
from optimum_htp.package import HtpOptions, HtpPackage, fingerprint, strip_tags, tagged_file, write_tags
from optimum_htp.package.namespaces import Namespaces, says_the_tag
from optimum_htp.package.node_metadata import NAMESPACE
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.view.explorer.drawn import Drawn
from optimum_htp.verbs.view.explorer.figures import compare_figures, profile_figures
from optimum_htp.verbs.view.explorer.navigation import navigation

Exported = Callable[..., Path]

pytestmark = pytest.mark.xdist_group("model_explorer")

# --- Boxes --------------------------------------------------------------------------------------------------------


def module(path: str, name: str, calls: int = 1, **more: Any) -> ModuleInfo:
    return ModuleInfo(tuple(path.split(".")) if path else (), name, f"my.{name}", calls=calls, **more)


# A net calls its block twice, and the block its layer each time, which it holds in a list.
TREE = ModuleTree(
    [
        module("", "Net"),
        module("block", "Block", 2),
        module("block.list", "ModuleList", 0, container=True),
        module("block.list.0", "Layer", 2),
        module("he;ad\\", "A;B"),
    ]
)
CALLS = CallTree.of_rows(TREE, [(0, -1), (1, 0), (3, 1), (1, 0), (3, 3), (4, 0)])
LAYER = "/Net/Block.block/Layer.list.0"
HEAD = TREE.tag(("he;ad\\",))


def parsed(text: str) -> OnnxModel:
    """A model as ONNX spells it; what follows `#` is left out."""
    imports = ", ".join(f'"{domain}": {version}' for domain, version in (("", 17), ("local", 1)))
    text = re.sub("#.*", "", text)
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]>\n{text}")
    return read_content(model.SerializeToString(), path=Path("model.onnx"))


def boxes(*tags: NodeTag, text: str = "", roots: tuple[Root, ...] = (Root(TREE, "", (CALLS,)),)) -> list[str]:
    """The namespaces of nodes with some tags; without a text, of a chain of them."""
    lines = "\n".join(f"t{index + 1} = Relu(t{index})" for index in range(len(tags)))
    model = parsed(text or f"net (float[2] t0) => (float[2] t{len(tags)}) {{\n{lines}\n}}")
    known = dict(zip((key for key, _ in model.nodes()), tags, strict=True))
    namespaces = Namespaces(TaggedGraph(model, known, Roots(roots)))
    return [namespaces.value(key, tag) for key, tag in known.items()]


def test_a_box_has_the_name_of_its_module_its_class_and_the_call() -> None:
    """The root has none; what all calls share is in the module; what Model Explorer would take apart is escaped."""
    assert boxes(
        NodeTag("/Net", "scope"),
        NodeTag(LAYER, "scope", 1),
        NodeTag("/Net/Block.block", "scope", 0),
        NodeTag(LAYER, "parameter"),
        NodeTag(HEAD, "scope"),
    ) == ["", "block: Block@1/list.0: Layer@1", "block: Block@0", "block: Block/list.0: Layer", "he%3Bad%5C: A%3BB"]


def test_roots_are_told_apart() -> None:
    """Of several roots in a file, each has a box."""
    other = Root(ModuleTree([module("", "Head"), module("fc", "Linear")]))
    roots = (Root(TREE, "", (CALLS,)), other)
    found = boxes(NodeTag("/Net", "scope"), NodeTag("/Head/Linear.fc", "scope"), roots=roots)
    assert found == ["Net", "Head/fc: Linear"]


def test_in_the_bodies_of_an_if_a_box_is_said_from_there() -> None:
    """The adapter draws them in the box of the `If`; those of a loop are drawn as a graph of their own."""
    text = """
net (float[2] x, bool c, int64 n) => (float[2] y) {
  r = If (c) <then_branch = g1 () => (float[2] r1) { r1 = Relu(x)
      }, else_branch = g2 () => (float[2] r2) { r2 = Abs(x) }>
  y = Loop (n, , r) <body = g3 (int64 i, bool ci, float[2] v) => (bool co, float[2] vo) {
      co = Identity(ci)
      vo = Relu(v)
  }>
}"""
    block = NodeTag("/Net/Block.block", "scope", 1)
    tags = (block, block, NodeTag(LAYER, "scope", 1), NodeTag(HEAD, "scope"), NodeTag(LAYER, "scope", 0), block)
    inside = ["list.0: Layer@1", "he%3Bad%5C: A%3BB", "block: Block@0/list.0: Layer@0", "block: Block@1"]
    assert boxes(*tags, text=text) == ["block: Block@1", "block: Block@1", *inside]


def test_whether_a_namespace_is_ours() -> None:
    """Each form that we write or wrote, and no other module's."""
    for tag, value in (
        (LAYER, "block: Block@1/list.0: Layer@1"),
        (LAYER, "list.0: Layer"),
        (LAYER, "Net/block: Block/list.0: Layer"),
        (LAYER, ": my.Net/block: my.Block/block.list.0: my.Layer"),
        (HEAD, "he%3Bad%5C: A%3BB"),
        ("/Net", ""),
        ("/Net/Odd@1.b", "b: Odd@1"),
        ("/Net/Odd@1.b", "b: Odd@1@2"),
    ):
        assert says_the_tag(value, tag), value
        assert not says_the_tag(f"x{value}", tag)
        assert not says_the_tag(f"{value}/more: More", tag)
    assert not says_the_tag(": my.Net/block: my.Block", LAYER)


def test_files_of_the_format_before(tmp_path: Path) -> None:
    """What torch's long format says is read, and it goes, also where the list of our keys is lost."""
    path = save(
        tmp_path / "model.onnx", "net (float[2] x) => (float[2] y) {\n a = Relu(x)  # b\n y = Abs(a)  # b.c\n}"
    )
    write_tags(HtpPackage(path).files["model.onnx"].tagged, options=HtpOptions(skeleton=False))
    model = onnx.load(path)
    for node, below in zip(model.graph.node, ("", "/b.c: my.C"), strict=True):
        (entry,) = (entry for entry in node.metadata_props if entry.key == NAMESPACE)
        assert entry.value == "b: B" + below.replace("b.c: my.C", "c: C")
        entry.value = f": my.Net/b: my.B{below}"
    del model.metadata_props[:]
    onnx.save(model, path)
    (file,) = HtpPackage(path).files.values()
    assert [info.qualified_class for info in file.tagged.trees[0]] == ["my.Net", "my.B", "my.C"]
    strip_tags(path)
    assert not any(node.metadata_props for node in onnx.load(path).graph.node)


# --- What its adapter draws ---------------------------------------------------------------------------------------

EXOTIC = """
net (float[2] x, bool c, int64 n) => (float[2] y) {
  [dup] a = Relu(x)  # a
  [dup] b = Relu(a)  # a
  q = Abs(b)  # a
  r = If (c) <then_branch = g1 () => (float[2] r1) {
      [inner] t1 = Relu(q)  # a.b
      r1 = If (c) <then_branch = g2 () => (float[2] r2) { [inner] r2 = Abs(t1)  # a.b.c
      }, else_branch = g3 () => (float[2] r3) { r3 = local.F(t1)  # a.b
      }>  # a.b
  }, else_branch = g4 () => (float[2] r4) {
      r4 = Loop (n, , q) <body = g5 (int64 i, bool ci, float[2] v) => (bool co, float[2] vo) {
           co = Identity(ci)  # d
           vo = If (ci) <then_branch = g6 () => (float[2] r6) { r6 = Abs(v)  # d.e
           }, else_branch = g7 () => (float[2] r7) { [dup] r7 = Neg(v)  # d
           }>  # d
      }>  # d
  }>  # a
  y = local.F(r)  # z
}
<domain: "local", opset_import: ["" : 17]>
F (x) => (y) {
  [k] z = Relu(x)  # f
  [k] y = Abs(z)  # f
}
"""


def test_ids() -> None:
    """Names are made unique, bodies of an `If` are drawn around it, other bodies and functions by themselves."""
    model = parsed(EXOTIC)
    drawn = Drawn.of(model)
    main, body = "net", "node_1/else_branch/node/body"
    assert {
        key: place for key, place in drawn.nodes.items() if key[0] in ("", "3.else_branch/0.body", "local::F")
    } == {
        ("", 0): (main, "dup"),
        ("", 1): (main, "dup_1"),
        ("", 2): (main, "node"),
        ("", 3): (main, "node_1"),
        ("", 4): (main, "node_3"),
        ("3.else_branch/0.body", 0): (body, "node"),
        ("3.else_branch/0.body", 1): (body, "node_2"),
        ("local::F", 0): ("[function]local::F", "k"),
        ("local::F", 1): ("[function]local::F", "k_1"),
    }
    inner = "node_1/then_branch/node"
    assert drawn.nodes["3.then_branch/1.else_branch", 0] == (main, f"{inner}/else_branch/node")
    assert drawn.nodes["3.else_branch/0.body/1.then_branch", 0] == (body, "node_2/then_branch/node")


@pytest.fixture(scope="module")
def drawn_by_adapter() -> Callable[[Path], dict[str, dict[str, Any]]]:
    """A function from an ONNX file to the nodes that the real adapter makes, by their graph and their id."""
    pytest.importorskip("model_explorer_onnx", reason="Model Explorer's ONNX adapter is not installed")
    from model_explorer_onnx.main import ONNXAdapter

    def load(path: Path) -> dict[str, dict[str, Any]]:
        graphs = ONNXAdapter().convert(str(path), {})["graphs"]
        return {graph.id: {node.id: node for node in graph.nodes} for graph in graphs}

    return load


Loader = Callable[[Path], dict[str, dict[str, Any]]]
OF_THE_ADAPTER = {"Input", "Output", "(Phi)", "(Capture)"}


def test_ids_are_those_of_the_adapter(drawn_by_adapter: Loader, exported: Exported, tmp_path: Path) -> None:
    """Each node that it draws has an id of ours, and is the node with that operator."""
    t5 = exported("t5")
    for path in (
        save(tmp_path / "exotic.onnx", EXOTIC),
        t5 / "decoder_model_merged.onnx",
        exported("deberta-v2") / "model.onnx",
    ):
        model = read_model(path)
        drawn, real = Drawn.of(model), drawn_by_adapter(path)
        nodes = dict(model.nodes())
        assert len(set(drawn.nodes.values())) == len(drawn.nodes) == len(nodes)
        for key, (graph, node) in drawn.nodes.items():
            assert real[graph][node].label == nodes[key].operator
        for graph, node in drawn.initializers.values():
            assert real[graph][node].label in ("Initializer", "InitializedInput")
        ours = {*drawn.nodes.values(), *drawn.initializers.values()}
        others = [
            node
            for graph, drawn_nodes in real.items()
            for name, node in drawn_nodes.items()
            if (graph, name) not in ours
        ]
        assert {node.label for node in others} <= OF_THE_ADAPTER


@pytest.mark.parametrize("name", ["bert", "albert", "deberta-v2"])
def test_every_module_is_a_box(name: str, drawn_by_adapter: Loader, exported: Exported) -> None:
    """The box of a node is its module's, whatever the node is called; there is a box for each call that made nodes."""
    package = exported(name)
    (file,) = HtpPackage(package).files.values()
    (graph,) = drawn_by_adapter(file.path).values()
    drawn, nodes = Drawn.of(file.model), dict(file.model.nodes())
    found = set()
    for key, tag in file.tags.items():
        if nodes[key].op_type == "Constant":
            continue  # the adapter draws it where it is read
        parts = graph[drawn.nodes[key][1]].namespace.split("/")[1:]
        parts = [part for part in parts if not part.startswith("If <") and not part.endswith("_branch")]
        names = [re.fullmatch(r"(.+): (.+?)(@\d+)?", part).groups() for part in parts]  # type: ignore[union-attr]
        spelled = "".join(f"/{class_name}.{path}" for path, class_name, _ in names)
        assert f"/{tag.tag.split('/')[1]}{spelled}" == tag.tag
        if tag.call is not None and parts:
            assert names[-1][2] == f"@{tag.call}"
        found.add((tag.tag, tag.call))
    assert found >= {(tag.tag, tag.call) for key, tag in file.tags.items() if nodes[key].op_type != "Constant"}


# --- Node data ----------------------------------------------------------------------------------------------------
# --- Node data ----------------------------------------------------------------------------------------------------


def graph_of(text: str, **tags: NodeTag) -> TaggedGraph:
    """A graph whose nodes are tagged by the names of their first outputs."""
    model = parsed(text)
    return TaggedGraph(model, {key: tags[node.outputs[0]] for key, node in model.nodes() if node.outputs[0] in tags})


BRANCHES = """
net (float[2] x, bool use_cache_branch) => (float[2] y) {
  a = Relu(x)
  b = Abs(a)
  y = If (use_cache_branch) <
    then_branch = g1 () => (float[2] r) { r = Neg(b) },
    else_branch = g2 () => (float[2] r) { r = Exp(b) }
  >
}"""


def figures_of(read: Callable[..., Any], graph: TaggedGraph, document: dict[str, Any]) -> dict[str, dict[Any, Any]]:
    """The values of each kind of figure in a document, by the ids of nodes."""
    found = read(document, {"f": "f"}.get, graphs={"f": graph}, drawn={"f": Drawn.of(graph.model)})
    return {figure.kind: {node: value for (_, node), value in figure.values.items()} for _, figure in found}


def ran(*outputs: str, time: float, graph: str = "") -> dict[str, Any]:
    return {"outputs": list(outputs), "graph": graph, "time": {"median_us": time}}


def test_a_kernel_is_shown_on_the_node_whose_output_it_makes() -> None:
    """Fused ones on the last of their nodes; in the branch that ran; what makes nothing of the file is not shown."""
    nodes = [ran("b", time=5.0), ran("put_in", time=7.0), ran("r", time=2.0, graph="9.else_branch")]
    phases = [
        {"file": "f", "phase": "decode", "nodes": nodes},
        {"file": "another", "phase": "decode", "nodes": [ran("b", time=1.0)]},
        {"file": "f", "phase": "forward", "nodes": [ran("r", time=3.0)]},
    ]
    found = figures_of(profile_figures, graph_of(BRANCHES), {"phases": phases})
    assert found == {
        "time-decode": {"node_1": 5.0, "node_2/else_branch/node": 2.0},
        "time": {"node_2/then_branch/node": 1.5, "node_2/else_branch/node": 1.5},
    }


def compared(
    tag: str, call: int | None, own: float | None, errors: float | None = None, **more: Any
) -> dict[str, Any]:
    def document(sqnr: float | None) -> dict[str, Any] | None:
        if sqnr is None:
            return None
        exact = sqnr == float("inf")
        return {"sqnr_db": None if exact else sqnr, "relative": 0.0 if exact else 0.1}

    return {"tag": tag, "call": call, "own": document(own), "errors": document(errors), "operations": False, **more}


def test_errors_are_shown_on_the_nodes_of_each_call() -> None:
    """A module's own nodes have what it does between the calls in it; of a merged decoder, one branch has been run."""
    block, inner = NodeTag("/Net/B.b", "scope", 1), NodeTag("/Net/B.b/C.c", "scope", 1)
    graph = graph_of(BRANCHES, a=block, b=inner, y=NodeTag("/Net", "unresolved"), r=NodeTag("/Net", "scope"))
    calls = [
        compared("/Net/B.b", 0, 11.0, 11.0),
        compared("/Net/B.b", 1, 12.0, 13.0),
        compared("/Net/B.b", 1, 60.111, operations=True),
        compared("/Net/B.b/C.c", 1, float("inf"), 14.0),
        compared("/Net", None, None, 15.0),
    ]
    found = figures_of(compare_figures, graph, {"files": [{"name": "f", "branch": "with past", "calls": calls}]})
    assert found == {
        "own-sqnr-with-past": {"node": 60.11, "node_1": "exact"},
        "sqnr-with-past": {"node": 13.0, "node_1": 14.0, "node_2/then_branch/node": 15.0},
    }


@pytest.fixture(scope="module")
def package(exported: Exported) -> Path:
    return exported("bert")


@pytest.fixture(scope="module")
def optimized(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ONNX Runtime made of it."""
    target = tmp_path_factory.mktemp("optimized") / "model.onnx"
    rewrite("ort-all", package / "model.onnx", target)
    return target


def test_files_of_several_graphs_have_their_ids(tmp_path: Path) -> None:
    """Those of one graph have none: Model Explorer calls it otherwise where it is the second model's."""
    path = save(tmp_path / "exotic.onnx", EXOTIC)
    report = model_explorer(path, tmp_path / "out")
    document = json.loads(report.files[0].node_data["evidence"].read_text())
    assert list(document) == ["net", "node_1/else_branch/node/body", "[function]local::F"]
    assert {result["value"] for graph in document.values() for result in graph["results"].values()} == {"scope"}
    assert list(report.files[0].node_data) == ["evidence"]  # it has no initializers


def values(path: Path) -> dict[str, Any]:
    """The values of the nodes of the main graph in a file of node data."""
    return {node: result["value"] for node, result in json.loads(path.read_text())["results"].items()}


def test_node_data_of_a_package(package: Path, drawn_by_adapter: Loader, tmp_path: Path) -> None:
    """Each value lands on a node that is drawn; sources, elements and times are all there."""
    times = profile(package, runs=1, warmup=0, batch_size=1)
    report = model_explorer(package, tmp_path / "out", profile=json.loads(json.dumps(times.to_dict())))
    (file,) = report.files
    assert sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out").rglob("*.json")) == [
        f"out/model/{kind}.json" for kind in ("evidence", "memory", "parameters", "time")
    ]
    (graph,) = drawn_by_adapter(package / "model.onnx").values()
    (shown,) = HtpPackage(package).files.values()
    for kind, path in file.node_data.items():
        assert values(path).keys() <= graph.keys()
        assert len(values(path)) == file.figures[kind]
    sources = list(values(file.node_data["evidence"]).values())
    assert {source: sources.count(source) for source in set(sources)} == {
        source: [tag.source for tag in shown.tags.values()].count(source) for source in set(sources)
    }
    sizes = [tensor.dims for tensor in shown.model.graph.initializers]
    assert sum(values(file.node_data["parameters"]).values()) == sum(map(prod, sizes))
    (phase,) = times.phases
    made = {name for _, node in shown.model.nodes() for name in node.outputs}
    known = sum(node.time.median for node in phase.nodes if not made.isdisjoint(node.outputs))
    assert sum(values(file.node_data["time"]).values()) == pytest.approx(known)
    assert known > 0.9 * phase.kernel_time.median
    taken = [node.work.allocated_bytes or 0 for node in phase.nodes if not made.isdisjoint(node.outputs)]
    assert sum(values(file.node_data["memory"]).values()) == pytest.approx(sum(taken))


# --- Navigation ---------------------------------------------------------------------------------------------------


def test_navigation(package: Path, optimized: Path, drawn_by_adapter: Loader, tmp_path: Path) -> None:
    """Nodes go with those whose work they do, each in one entry; boxes and values with those of the same name."""
    report = model_explorer(optimized, tmp_path / "out", other=package)
    (file,) = report.files
    assert (file.left, file.right) == (package / "model.onnx", optimized)
    assert file.navigation is not None
    document = json.loads(file.navigation.read_text())
    assert document["disableMappingFallback"]
    sides = [drawn_by_adapter(path)["main_graph"] for path in (package / "model.onnx", optimized)]
    tags = [tags_by_id(path) for path in (package, optimized)]
    seen: list[set[str]] = [set(), set()]
    fused = 0
    for entry in document["mappingEntries"]:
        left, right = entry["leftNodeIds"], entry["rightNodeIds"]
        assert left
        assert right
        for ids, side, known in zip((left, right), sides, seen, strict=True):
            boxes = {node.namespace for node in side.values()}
            for name in ids:
                box = name.removesuffix("___group___")
                assert name in side or any(each == box or each.startswith(f"{box}/") for each in boxes)
            assert known.isdisjoint(ids)
            known.update(ids)
        if len(left) > 1:
            fused += 1
            (tag,) = (tags[1][name] for name in right)
            assert {tags[0][name].tag for name in left} & {tag.tag, *tag.origins}
    assert fused > 5
    operations = {name for name, node in sides[1].items() if node.label not in OF_THE_ADAPTER | {"Initializer"}}
    assert operations <= seen[1]


def tags_by_id(path: Path) -> dict[str, NodeTag]:
    opened = HtpPackage(path)
    (file,) = opened.files.values()
    graph = tagged_file(file, package=opened)
    return {place[1]: graph.tags[key] for key, place in Drawn.of(graph.model).nodes.items()}


def test_what_a_tool_put_in_goes_with_the_box_of_its_module() -> None:
    """And the box with its own, which comes after it."""
    text = "net (float[2] x) => (float[2] y) {{ y = Relu(x) {} }}"
    before = graph_of(text.format(""), y=NodeTag("/Net/B.b", "scope"))
    after = graph_of(
        text.format("z = Cast<to=10>(y)").replace("[2] y) {", "[2] y, float16[2] z) {"), y=NodeTag("/Net/B.b", "scope")
    )
    for graph in (before, after):
        for node in graph.model.graph.nodes:
            node.metadata["namespace"] = "b: B"
    document = navigation(before, after, (Drawn.of(before.model), Drawn.of(after.model)))
    box = "net/b: B___group___"
    entries = [(entry["leftNodeIds"], entry["rightNodeIds"]) for entry in document["mappingEntries"]]
    assert entries == [
        ([box], ["node_1"]),
        ([box], [box]),
        (["[value] x"],) * 2,
        (["[value] y"],) * 2,
        (["node"], ["node"]),
    ]


# --- What is refused ----------------------------------------------------------------------------------------------


def test_a_directory_in_use(package: Path, tmp_path: Path) -> None:
    """Nothing is written over; with `overwrite`, what is not true any more goes, and what is not ours stays."""
    out = tmp_path / "out"
    model_explorer(package, out, profile=profile(package, runs=1, warmup=0))
    (out / "model" / "mine.json").write_text("{}")
    with pytest.raises(PackageError, match=r"evidence\.json: it exists already; give --overwrite"):
        model_explorer(package, out)
    model_explorer(package, out, overwrite=True)
    assert sorted(path.name for path in (out / "model").iterdir()) == ["evidence.json", "mine.json", "parameters.json"]


@pytest.mark.parametrize(
    ("where", "message"), [("inside", "inside the package"), ("file", "a file; give a directory")]
)
def test_a_place_that_is_no_place(where: str, message: str, package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PackageError, match=message):
        model_explorer(package, package / "x" if where == "inside" else tmp_path / "file")
    assert not (package / "x").exists()


def another_phase(package: Path, phase: str) -> dict[str, Any]:
    (own,) = map(fingerprint, HtpPackage(package).files.values())
    phases = [{"file": "model.onnx", "phase": phase, "nodes": []}]
    return {"package": "x", "fingerprints": {"model.onnx": own}, "phases": phases}


def test_reports_that_are_not_of_this_package(package: Path, optimized: Path, tmp_path: Path) -> None:
    """Nothing is written then."""
    other = profile(optimized, runs=1, warmup=0, reference=package).to_dict()
    (tmp_path / "list.json").write_text("[]")
    for given, message in (
        (other, "it is of another model"),
        ({**other, "fingerprints": 1}, "not a report of `profile`"),
        (another_phase(package, "../../x"), "not a report of `profile`.*is neither a phase nor a branch"),
        (tmp_path / "list.json", "not a report of `profile`"),
        (tmp_path / "none.json", "no such file"),
    ):
        with pytest.raises(HtpError, match=message):
            model_explorer(package, tmp_path / "out", profile=given)
    with pytest.raises(PackageError, match="no such package"):
        model_explorer(package, tmp_path / "out", other=tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_model_explorer_is_not_installed(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says how to install it, before anything is run."""
    monkeypatch.setattr("optimum_htp.verbs.view.explorer.server.DISTRIBUTIONS", ("no-such-distribution", "nor-this"))
    assert main(["view", str(package), "--serve", "--profile"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("(no-such-distribution is missing); install it: pip install no-such-distribution nor-this")


# --- The command line, and Model Explorer itself ------------------------------------------------------------------


def test_command_line(package: Path, optimized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it wrote, and how to look at it."""
    arguments = ["view", str(optimized), "--model-explorer", str(tmp_path / "out"), "--diff", str(package)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out
    assert f"{package / 'model.onnx'} on the left, {optimized} on the right" in lines
    data = ",".join(str(tmp_path / "out" / "model" / f"{kind}.json") for kind in ("evidence", "parameters"))
    assert f"model-explorer {optimized} --extensions model_explorer_onnx --node_data_paths {data}" in lines
    assert main([*arguments, "--overwrite", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["files"][0]["navigation"] == str(tmp_path / "out" / "model" / "navigation.json")
    for wrong, message in (
        (["-o", "x.html"], "instead of the page"),
        (["--no-browser"], "--no-browser is for --serve"),
        (["--model", "m"], "--model is what --compare compares with"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_serve(
    package: Path, optimized: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is started on this machine alone, with both models, what is known of their nodes, and what measures more."""
    model_explorer = pytest.importorskip("model_explorer", reason="Model Explorer is not installed")
    started: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(
        model_explorer, "visualize_from_config", lambda config, **options: started.append((config, options))
    )
    other = optimized.with_name("model_optimized.onnx")
    shutil.copy(optimized, other)
    assert main(["view", str(optimized), "--diff", str(package), "--serve"]) == 2
    assert "give one another name" in capsys.readouterr().err
    assert main(["view", str(other), "--diff", str(package), "--serve", "--no-browser"]) == 0
    ((config, options),) = started
    assert options == {
        "host": "127.0.0.1",
        "extensions": ["model_explorer_onnx", "optimum_htp.explorer_extension"],
        "no_open_in_browser": True,
    }
    assert [source["url"] for source in config.model_sources] == [str(package / "model.onnx"), str(other)]
    data = [json.loads(text) for text in config.node_data_list]
    assert [document["main_graph (2)"]["name"] for document in data] == ["evidence", "parameters"]
    assert set(config.node_data_target_models) == {other.name}


@pytest.fixture(scope="module")
def run_extension() -> Callable[..., dict[str, Any]]:
    """A function that does what Model Explorer's server does when it is asked to run an extension."""
    pytest.importorskip("model_explorer", reason="Model Explorer is not installed")
    from model_explorer.extension_manager import ExtensionManager

    manager = ExtensionManager(["optimum_htp.explorer_extension"])
    manager.load_extensions()

    def run(command: str, provider: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            json.dumps(manager.run_cmd({"cmdId": command, "extensionId": provider, **more}))
        )
        return answer

    return run


def test_the_extension_measures(run_extension: Callable[..., dict[str, Any]], package: Path, optimized: Path) -> None:
    """It asks for sizes, and gives the nodes of a graph what `profile` and `compare` find; what is at fault is said."""
    asked = run_extension("get_config_editors", "optimum_htp_profile")["configEditors"]
    assert [each["id"] for each in asked] == ["batch_size", "sequence_length", "runs"]
    asked = run_extension("get_config_editors", "optimum_htp_compare")["configEditors"]
    assert [each["id"] for each in asked] == ["reference", "model", "batch_size", "sequence_length"]
    shown = {"modelPath": str(optimized), "graphId": "main_graph (2)"}
    sizes = {"batch_size": 1, "sequence_length": "", "runs": 1}
    time, memory = run_extension("run", "optimum_htp_profile", **shown, configValues=sizes)["result"]
    assert (time["name"], memory["name"]) == ("time (µs)", "memory taken (bytes)")
    assert time["results"].keys() <= {place[1] for place in Drawn.of(read_model(optimized)).nodes.values()}
    errors = run_extension("run", "optimum_htp_compare", **shown, configValues={"reference": str(package)})
    assert [each["name"] for each in errors["result"]] == ["own SQNR (dB)", "SQNR in the running model (dB)"]
    for provider, more, message in (
        ("optimum_htp_compare", {}, "give what to compare with"),
        ("optimum_htp_compare", {"reference": "/none"}, "/none: no such package"),
        ("optimum_htp_profile", {"runs": "many"}, "Runs: 'many' is not a whole number"),
        ("optimum_htp_profile", {"batch_size": 0}, "Batch size: 0 is not a whole number, 1 or more"),
    ):
        answer = run_extension("run", provider, **shown, configValues=more)
        assert answer["result"] is None
        assert message in answer["error"]
