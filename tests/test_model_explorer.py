"""Model Explorer: the boxes on the nodes, its ids, the node data, and what its own loader makes of our files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from small_graphs import save

from optimum_htp.hierarchy import CallTree, ModuleInfo, ModuleTree, NodeTag, Root, Roots
from optimum_htp.onnxfile import OnnxModel, read_content, read_model
from optimum_htp.package import HtpOptions, HtpPackage, strip_tags, write_tags
from optimum_htp.package.namespaces import Namespaces, says_the_tag
from optimum_htp.package.node_metadata import NAMESPACE
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.view.explorer.drawn import Drawn

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
