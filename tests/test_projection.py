"""Projection against evidence of its own: kept metadata, weights, values; and its rules, one by one, on small graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import rewriters
import zoo
from projection_evidence import (
    Owners,
    different_values,
    disagreements,
    projected,
    weight_mismatches,
    weight_owners,
)

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag, tag_ancestors
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.model import Function, Graph, Initializer, Node, OnnxModel, Value
from optimum_htp.package.package import HtpPackage
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.projection.steps import project


Export = Callable[[str], HtpPackage]


@pytest.fixture(scope="session")
def export(zoo_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A function from a zoo name to that model's tagged package; treat it as read-only."""
    from optimum_htp import main_export

    root = tmp_path_factory.mktemp("tagged")
    done: dict[str, HtpPackage] = {}

    def tagged(name: str) -> HtpPackage:
        if name not in done:
            model = zoo_model(name)
            kwargs = zoo.ZOO[name].main_export_kwargs(model)
            main_export(str(model), str(root / name), do_validation=False, **kwargs)
            done[name] = HtpPackage(root / name)
        return done[name]

    return tagged


@pytest.fixture(scope="session")
def owners(zoo_model: Callable[[str], Path]) -> Callable[[str], Owners]:
    """A function from a zoo name to the modules that hold each of that model's weights."""
    return functools.cache(lambda name: weight_owners(zoo_model(name)))


# --- Every tool, a few models; the rest is in the sweep ---

TOOLS = (*rewriters.REWRITERS, *rewriters.CHAINS)
# Neither ORTOptimizer nor the quantizer of operators can do ResNet. T5 has four files, one of them merged.
FAST = [
    *(("bert", tool) for tool in TOOLS),
    *(("resnet", tool) for tool in TOOLS if "O" not in tool and tool != "static-qoperator"),
    *(("t5", tool) for tool in ("ort-all", "dynamic", "fp16", "onnxslim", "version-converter")),
]
SWEEP = (
    "albert bart t5 clip deberta-v2 gpt2 llama mobilenet_v2 qwen3_moe segformer vit whisper "
    # not looked at while the rules were written
    "distilbert dinov2 swin convnext opt phi mpnet wav2vec2 donut bloom"
).split()


def check(package: HtpPackage, owners: Owners, tool: str, directory: Path) -> None:
    """Projects what a tool makes of a package, and holds the tags against everything that is known otherwise."""
    failures = []
    for file in package.files.values():
        try:
            target = rewriters.rewrite(tool, file.path, directory / file.name)
        except Exception as error:  # whatever a tool raises: that it can't is its own affair
            failures.append(f"{file.name}: {type(error).__name__}: {error}")
            continue
        if rewriters.is_empty(target):  # see test_empty_graph_names_the_tool
            continue
        model, tags = projected(file, target)
        nodes = {(path, i) for path, graph in model.graphs() for i in range(len(graph.nodes))}
        assert tags.keys() == nodes
        assert [key for key, tag in tags.items() if tag.source == "unresolved"] == []
        trees = file.hierarchy.trees
        known = {tree.tag(path) for tree in trees for info in tree for path in (info.path, *info.aliases)}
        assert {each for tag in tags.values() for each in (tag.tag, *tag.origins)} <= known
        if not tool.startswith("static"):  # see test_static_quantization_exceptions
            assert disagreements(model, tags) == []
        wrong = weight_mismatches(file, model, tags, owners)[1]
        assert [line for line in wrong if not any(part in line for part in FOREIGN)] == []
        if tool in rewriters.LOSSLESS and "merged" not in file.name:
            assert different_values(file.path, target)[1] == []
    if len(failures) == len(package.files):
        pytest.skip(f"{tool} fails: {'; '.join(failures)}")


FOREIGN = ("rel_embeddings", "parametrizations")
"""Weights that a model gives to another module than the one that holds them: DeBERTa normalizes its encoder's, and a
parametrization works on what the list of all of them holds."""


@pytest.mark.parametrize(("name", "tool"), FAST)
def test_every_tool(export: Export, owners: Callable[[str], Owners], name: str, tool: str, tmp_path: Path) -> None:
    """Nothing is unresolved, kept metadata agrees, weights are read by their modules, equal names hold equal values."""
    check(export(name), owners(name), tool, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", SWEEP)
def test_every_architecture(
    export: Export, owners: Callable[[str], Owners], name: str, tool: str, tmp_path: Path
) -> None:
    """The same for more of them."""
    check(export(name), owners(name), tool, tmp_path)


def test_static_quantization_exceptions(export: Export, tmp_path: Path) -> None:
    """A node that took on the activation behind it: its own metadata knows only half of what it does now."""
    file = export("resnet").files["model.onnx"]
    model, tags = projected(file, rewriters.rewrite("static-qdq", file.path, tmp_path / "model.onnx"))
    found = disagreements(model, tags)
    assert len(found) == 4
    assert all(line.startswith("Conv ") for line in found)
    both = [[each.rpartition("/")[2] for each in tag.origins] for tag in tags.values() if tag.origins]
    assert both == [["Conv2d.convolution", "ReLU.activation"]] * 4


def test_fused_nodes_list_their_origins(export: Export, tmp_path: Path) -> None:
    """The tag is the lowest module around all origins, and that is far below the root."""
    file = export("bert").files["model.onnx"]
    _, tags = projected(file, rewriters.rewrite("optimum-O2", file.path, tmp_path / "model.onnx"))
    fused = [tag for tag in tags.values() if tag.origins]
    assert len(fused) == 8
    for tag in fused:
        assert all(tag.tag in tag_ancestors(origin) for origin in tag.origins)
    attention = next(tag for tag in fused if tag.tag.endswith("SelfAttention.self"))
    below = [origin.removeprefix(attention.tag) for origin in attention.origins]
    assert below == ["/Linear.query", "/Linear.key", "/Linear.value", ""]


def test_calls_survive_fusion(export: Export, tmp_path: Path) -> None:
    """ALBERT runs one layer three times: each fused node knows which time."""
    file = export("albert").files["model.onnx"]
    _, tags = projected(file, rewriters.rewrite("optimum-O2", file.path, tmp_path / "model.onnx"))
    calls = [tag.call for tag in tags.values() if tag.origins and tag.tag.endswith("AlbertLayer.albert_layers.0")]
    assert calls == [0, 0, 1, 1, 2, 2]


def test_other_models_are_refused(export: Export) -> None:
    """A graph that isn't made from the tagged one is told from one that is, and how much matched is said."""
    files = {name: export(name).files for name in ("bert", "resnet", "t5", "distilbert")}
    for name, other in (("bert", "resnet"), ("resnet", "t5"), ("t5", "bert"), ("bert", "distilbert")):
        source = next(iter(files[name].values()))
        for target in files[other].values():
            with pytest.raises(HtpError, match=r"not made from the tagged graph: \d+ of \d+ nodes"):
                project([source.tagged], target.model, require_descent=True)


def test_sister_architectures_are_refused() -> None:
    """Where all that has a known name fits, names that an exporter gave to other nodes tell; a tool's own don't."""
    layers = [node("Relu", f"/{i}/Relu_output_0", f"/{i + 1}/Relu_output_0", f"/{i + 1}/Relu") for i in range(50)]
    source = tagged(model(layers, "/0/Relu_output_0", "/50/Relu_output_0"), *["a"] * 50)

    def longer(*names: str) -> OnnxModel:
        more = [node("Relu", "/50/Relu_output_0", name) for name in names]
        return model([*layers, *more], "/0/Relu_output_0", " ".join(names))

    assert len(project([source], longer("cast0", "cast1", "cast2"), require_descent=True)) == 53
    message = r"50 of 50 nodes that can be compared fit, .*, 3 of 54 names are another export's"
    with pytest.raises(HtpError, match=message):
        project([source], longer("/51/Relu_output_0", "/51/Relu_1_output_0", "onnx::MatMul_7"), require_descent=True)


def test_one_equal_name_is_no_descent() -> None:
    """A node that makes a tensor of that name from something else was not made from ours."""
    source = tagged(CONV, "a", "b")
    with pytest.raises(HtpError, match="0 of 0 nodes that can be compared fit, 1 of 1 make a tensor"):
        project([source], model([node("Relu", "z", "y")], "z"), require_descent=True)


def test_empty_graph_names_the_tool(export: Export, tmp_path: Path) -> None:
    """ORTOptimizer at O2 writes a merged decoder without nodes."""
    file = export("t5").files["decoder_model_merged.onnx"]
    target = rewriters.rewrite("optimum-O2", file.path, tmp_path / file.name)
    with pytest.raises(HtpError, match="ORTOptimizer"):
        projected(file, target)


# --- The rules, on graphs small enough to see ---


def node(op_type: str, inputs: str, outputs: str, name: str = "", **bodies: Graph) -> Node:
    """A node; `-` stands for an input that isn't given."""
    read = tuple("" if each == "-" else each for each in inputs.split())
    domain = "com.microsoft" if op_type.startswith(("Fused", "Skip", "Quick")) else ""
    return Node(name, op_type, domain, read, tuple(outputs.split()), {}, tuple(bodies.items()))


def graph(nodes: list[Node], inputs: str = "x", outputs: str = "", weights: str = "") -> Graph:
    given = tuple(Value(name, 1, None) for name in inputs.split())
    results = tuple(Value(name, 1, None) for name in outputs.split())
    return Graph(
        "", nodes, given, results, tuple(Initializer(name, 1, (4,), None, 0, None) for name in weights.split())
    )


def model(
    nodes: list[Node], inputs: str = "x", outputs: str = "y", weights: str = "", *functions: Function
) -> OnnxModel:
    return OnnxModel(Path("model.onnx"), 8, {"": 17}, "", "", {}, graph(nodes, inputs, outputs, weights), functions)


def tagged(source: OnnxModel, *names: str) -> TaggedGraph:
    """Tags the nodes in the order of their graphs, `a.b` for the module `/Net/A.a/B.b`, `-` for none."""
    keys = [(path, i) for path, each in source.graphs() for i in range(len(each.nodes))]
    tags = {key: NodeTag(spelled(name), "scope") for key, name in zip(keys, names, strict=True) if name != "-"}
    return TaggedGraph(source, tags)


def spelled(name: str) -> str:
    return "/Net" + "".join(f"/{part.upper()}.{part}" for part in name.split(".") if part)


def answers(source: TaggedGraph, target: OnnxModel) -> list[str]:
    """For each node `source module`, and its origins if there are several."""
    short = []
    for tag in project([source], target).tags.values():
        names = [".".join(part.partition(".")[2] for part in each.split("/")[2:]) for each in (tag.tag, *tag.origins)]
        short.append(" ".join((tag.source, names[0] or "root", *(f"<{each or 'root'}" for each in names[1:]))))
    return short


CONV = model([node("Conv", "x w", "c", "conv"), node("Relu", "c", "y", "relu")], weights="w")


def test_fused_node_keeps_the_last_name() -> None:
    """And the name of a node of ours that is only a part of it proves nothing."""
    target = model([node("FusedConv", "x w", "y", "conv")], weights="w")
    assert answers(tagged(CONV, "b.conv", "b.act"), target) == ["fused b <b.conv <b.act"]


def test_folded_weights_join_their_reader() -> None:
    """A transposed weight that became a stored tensor leaves no trace in what reads it."""
    source = model([node("Transpose", "w", "t"), node("MatMul", "x t", "y", "mm")], weights="w")
    target = model([node("MatMul", "x t", "y", "mm")], weights="t")
    assert answers(tagged(source, "head", "a"), target) == ["scope a"]


def test_bodies_whose_names_stand_everywhere() -> None:
    """A body with the names of a hundred others is known by the node that holds it."""
    body = graph([node("Relu", "x", "t", "relu")], "", "t")
    source = model([node("If", "c", f"y{i}", then_branch=body) for i in range(100)], "c x", "y0")
    names = [*["a"] * 100, *(f"m{i}" for i in range(100))]
    assert answers(tagged(source, *names), source) == [f"scope {name}" for name in names]


def test_no_op_removal_moves_a_name() -> None:
    """The node that makes `y` now is the one that made `c`, by name and operator."""
    source = model([node("Conv", "x w", "c", "conv"), node("Identity", "c", "y"), node("Relu", "c", "z")], weights="w")
    target = model([node("Conv", "x w", "y", "conv"), node("Relu", "y", "z")], weights="w")
    assert answers(tagged(source, "a", "b", "c"), target) == ["scope a", "scope c"]


def test_name_moved_from_an_unnamed_node() -> None:
    """Without a name, the work behind the no-op is seen through it."""
    source = model([node("Conv", "x w", "c"), node("Identity", "c", "y"), node("Relu", "c", "z")], weights="w")
    target = model([node("Conv", "x w", "y"), node("Relu", "y", "z")], weights="w")
    assert answers(tagged(source, "a", "b", "c"), target) == ["scope a", "scope c"]


def test_adapter_took_the_name() -> None:
    """A Cast that now makes `y` was put behind the node that did."""
    target = model([node("Conv", "x w", "c16", "conv"), node("Cast", "c16", "c"), node("Relu", "c", "y")], weights="w")
    assert answers(tagged(CONV, "a", "b"), target) == ["scope a", "inserted a", "scope b"]


def test_quantized_names() -> None:
    """The weight's DequantizeLinear belongs to its reader, the activation's to its maker."""
    target = model(
        [
            node("DequantizeLinear", "w_quantized w_scale", "w_DequantizeLinear_Output"),
            node("Conv", "x w_DequantizeLinear_Output", "c", "conv"),
            node("QuantizeLinear", "c s", "c_QuantizeLinear_Output"),
            node("DequantizeLinear", "c_QuantizeLinear_Output s", "c_DequantizeLinear_Output"),
            node("Relu", "c_DequantizeLinear_Output", "y", "relu"),
        ],
        weights="w_quantized w_scale s",
    )
    expected = ["inserted a", "scope a", "inserted a", "inserted a", "scope b"]
    assert answers(tagged(CONV, "a", "b"), target) == expected


def test_weight_of_a_node_that_took_on_more() -> None:
    """Its DequantizeLinear belongs to the module that read the weight, not to all that the node does now."""
    target = model(
        [
            node("DequantizeLinear", "w_quantized w_scale", "w_DequantizeLinear_Output"),
            node("Conv", "x w_DequantizeLinear_Output", "y", "conv"),
        ],
        weights="w_quantized w_scale",
    )
    assert answers(tagged(CONV, "b.conv", "b.act"), target) == ["inserted b.conv", "fused b <b.conv <b.act"]


def test_bias_that_went_to_the_next_node() -> None:
    """An activation that took on the bias of the product in front of it is the work of both, whatever their names."""
    source = model(
        [
            node("Gemm", "x w b", "g", "gemm"),
            node("Erf", "g", "e", "erf"),
            node("Mul", "g e", "m", "mul"),
            node("MatMul", "m w2", "u", "mm"),
            node("Sub", "u m", "y", "sub"),
        ],
        weights="w b w2",
    )
    target = model(
        [
            node("MatMul", "x w", "t1"),
            node("FusedBiasGelu", "t1 b", "t2"),
            node("MatMul", "t2 w2", "u", "mm"),
            node("Sub", "u t2", "y", "sub"),
        ],
        weights="w b w2",
    )
    expected = ["fused a.fc", "fused a <a.act <a.fc", "scope a.proj", "scope a"]
    assert answers(tagged(source, "a.fc", "a.act", "a.act", "a.proj", "a"), target) == expected


def test_activation_renamed_by_the_runtime() -> None:
    """`<tensor>_nchwc` is the node that made the tensor, with what it took on behind it."""
    source = model(
        [
            node("Conv", "x w", "c", "conv"),
            node("Add", "c x", "s", "add"),
            node("Relu", "s", "r", "relu"),
            node("GlobalAveragePool", "r", "y", "pool"),
        ],
        weights="w",
    )
    target = model(
        [node("Conv", "x r_w - x", "r_1", "c_nchwc"), node("GlobalAveragePool", "r_1", "y", "pool")], weights="r_w"
    )
    assert answers(tagged(source, "b.conv", "b", "b.act", "p"), target) == ["fused b <b.conv <b <b.act", "scope p"]


def test_addition_taken_on_in_front_of_several_readers() -> None:
    """It is the work of the convolution that reads both of its sides, whichever side comes first."""
    source = model(
        [
            node("Conv", "x w1", "c1", "conv1"),
            node("Conv", "c1 w2", "c2", "conv2"),
            node("Add", "c1 c2", "s", "add"),
            node("Relu", "s", "r", "relu"),
            node("Conv", "r w3", "c3", "conv3"),
            node("Add", "r c3", "y", "last"),
        ],
        weights="w1 w2 w3",
    )
    target = model(
        [
            node("Conv", "x r_1", "t1", "c1_nchwc"),
            node("Conv", "t1 r_2 - t1", "t2", "c2_nchwc"),
            node("Conv", "t2 r_3", "t3", "c3_nchwc"),
            node("Add", "t2 t3", "y", "last"),
        ],
        weights="r_1 r_2 r_3",
    )
    expected = ["scope a", "fused b <b.conv <b <b.act", "scope c", "scope d"]
    assert answers(tagged(source, "a", "b.conv", "b", "b.act", "c", "d"), target) == expected


def test_no_convolution_takes_on_another() -> None:
    """What lies between two of them in the tagged graph, and has weights of its own, is in the target nowhere."""
    source = model(
        [
            node("Conv", "x w1", "c1", "conv1"),
            node("Conv", "c1 w2", "c2", "conv2"),
            node("Conv", "c2 w3", "c3", "conv3"),
            node("Add", "c2 c3", "y", "add"),
        ],
        weights="w1 w2 w3",
    )
    target = model(
        [
            node("Conv", "x r_1", "t1", "c1_nchwc"),
            node("Conv", "t1 r_3", "t3", "c3_nchwc"),
            node("Add", "t1 t3", "y", "add"),
        ],
        weights="r_1 r_3",
    )
    assert answers(tagged(source, "a", "b", "c", "d"), target) == ["scope a", "scope c", "scope d"]


def test_new_names_all_the_way() -> None:
    """Regions are split by the weights that nodes read and by what lies between them."""
    source = model(
        [
            node("MatMul", "x w1", "m1", "mm1"),
            node("Add", "m1 x", "s", "add"),
            node("LayerNormalization", "s g", "n", "ln"),
            node("MatMul", "n w2", "m2", "mm2"),
            node("Sigmoid", "m2", "g1", "sigmoid"),
            node("Mul", "m2 g1", "g2", "mul"),
            node("MatMul", "g2 w3", "y", "mm3"),
        ],
        weights="w1 g w2 w3",
    )
    target = model(
        [
            node("FusedMatMul", "x w1", "t1"),
            node("SkipLayerNormalization", "t1 x g", "t2"),
            node("FusedMatMul", "t2 w2", "t3"),
            node("QuickGelu", "t3", "t4"),
            node("MatMul", "t4 w3", "y"),
        ],
        weights="w1 g w2 w3",
    )
    expected = ["fused one", "fused b.norm", "fused two", "fused act", "scope three"]
    found = answers(tagged(source, "one", "b", "b.norm", "two", "act", "act", "three"), target)
    assert [found[0], *found[2:]] == [expected[0], *expected[2:]]
    assert found[1] in ("fused b <b <b.norm", "fused b.norm")


def test_shared_work_is_left_out() -> None:
    """A mask that every layer fuses again pulls none of them up to the root."""
    layers = [node("Add", f"h{i} mask", f"a{i}") for i in range(3)]
    last = [node("Softmax", f"a{i}", f"h{i + 1}") for i in range(3)]
    nodes = [node("Unsqueeze", "m", "u"), node("Mul", "u k", "mask")]
    nodes += [each for pair in zip(layers, last, strict=True) for each in pair]
    source = model(nodes, "h0 m", "h3", "k")
    target = model([node("FusedSoftmax", f"h{i} m", f"h{i + 1}") for i in range(3)], "h0 m", "h3", "k")
    names = ["", "", *(f"l{i}{part}" for i in range(3) for part in ("", ".soft"))]
    assert answers(tagged(source, *names), target) == [f"fused l{i} <l{i} <l{i}.soft" for i in range(3)]


def test_equal_names_in_two_branches() -> None:
    """Names mean what the graph around them defines."""
    branches = {
        "then_branch": graph([node("Relu", "x", "y", "op")], "", "y"),
        "else_branch": graph([node("Relu", "x", "y", "op")], "", "y"),
    }
    source = tagged(model([node("If", "c", "out", "if", **branches)], "x c", "out"), "a", "b", "c")
    fresh = [node("Identity", "c", "c2"), node("If", "c2", "out", "if", **branches)]
    assert answers(source, model(fresh, "x c", "out")) == ["inserted a", "scope a", "scope b", "scope c"]


def test_wrapping_bodies_merges_sources() -> None:
    """A merged decoder: the new If has none of the work that its branches do."""
    first = tagged(model([node("Relu", "x", "r", "r"), node("Exp", "r", "y", "e")]), "a", "a.e")
    second = tagged(model([node("Relu", "x", "r", "r"), node("Log", "r", "y", "l")]), "a", "a.l")
    branches = {
        "then_branch": graph(second.model.graph.nodes, "", "y"),
        "else_branch": graph([*first.model.graph.nodes, node("Constant", "", "z")], "", "y z"),
    }
    found = project([first, second], model([node("If", "c", "y", "if", **branches)], "x c"))
    tags = [(tag.source, tag.tag) for tag in found.values()]
    assert tags[0] == ("inserted", spelled("a"))
    assert tags[1:3] == [("scope", spelled("a")), ("scope", spelled("a.l"))]
    assert tags[3:5] == [("scope", spelled("a")), ("scope", spelled("a.e"))]
    assert tags[5] == ("inserted", spelled("a"))


def test_inlined_body() -> None:
    """The nodes of a branch that took the place of its If are known by the names they had inside."""
    branches = {"then_branch": graph([node("Relu", "x", "r", "r"), node("Exp", "r", "b")], "", "b")}
    source = tagged(model([node("If", "c", "t", "if", **branches), node("Neg", "t", "y")], "x c"), "a", "n", "p", "q")
    target = model([node("Relu", "x", "r", "r"), node("Exp", "r", "t"), node("Neg", "t", "y")])
    assert [line.split(" <")[0] for line in answers(source, target)] == ["scope p", "scope q", "scope n"]


def test_inlined_function() -> None:
    """What a call became is the work of the module that called."""
    inside = graph([node("Exp", "a", "b"), node("Neg", "b", "c")], "a", "c")
    source = model([node("Soft", "x", "s"), node("Relu", "s", "y")], "x", "y", "", Function("", "Soft", "", inside))
    target = model([node("Exp", "x", "s_b"), node("Neg", "s_b", "s"), node("Relu", "s", "y")])
    found = answers(tagged(source, "act", "out", "act", "act"), target)
    assert [line.split()[1] for line in found] == ["act", "act", "out"]


def test_duplicate_and_empty_names() -> None:
    """Node names tell nothing where they are not unique."""
    nodes = [
        node("Relu", "x", "a", "n"),
        node("Relu", "a", "b", "n"),
        node("Relu", "b", "y", "n"),
        node("Exp", "y", "z"),
    ]
    source = tagged(model(nodes, outputs="z"), "a", "b", "c", "d")
    assert answers(source, source.model) == ["scope a", "scope b", "scope c", "scope d"]


def test_nothing_known_is_unresolved() -> None:
    """With no source of any use, the answer is that there is none."""
    target = model([node("Exp", "p", "q")], "p", "q")
    assert answers(tagged(CONV, "a", "b"), target) == ["unresolved root"]


def test_nodes_without_tags_are_no_evidence() -> None:
    """What a file's own metadata leaves open is decided by what is around it."""
    assert answers(tagged(CONV, "a", "-"), CONV) == ["scope a", "inserted a"]


def test_aliases_are_one_module() -> None:
    """A module under two names has no common ancestor but itself."""
    tree = ModuleTree(
        [ModuleInfo((), "Net", "Net"), ModuleInfo(("a",), "A", "A"), ModuleInfo(("b",), "A", "A", aliases=(("c",),))]
    )
    tags = {("", 0): NodeTag("/Net/A.b", "scope"), ("", 1): NodeTag("/Net/A.c", "scope")}
    target = model([node("FusedConv", "x w", "y")], weights="w")
    assert project([TaggedGraph(CONV, tags, Roots([Root(tree)]))], target).tags["", 0].tag == "/Net/A.b"


def test_ten_thousand_nodes_in_a_row() -> None:
    """Neither recursion nor quadratic time; the exact figures are in the benchmark."""
    length = 10_000
    names = ["x", *(f"t{i}" for i in range(length))]
    source = model([node("Relu", names[i], names[i + 1]) for i in range(length)], outputs=names[-1])
    every_other = [node("FusedRelu", names[i], names[i + 2]) for i in range(0, length, 2)]
    found = project([tagged(source, *(f"l{i // 2}" for i in range(length)))], model(every_other, outputs=names[-1]))
    assert [tag.tag for tag in found.values()] == [spelled(f"l{i}") for i in range(length // 2)]
