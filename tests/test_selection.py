"""Patterns, the verb `select`, and what other tools make of the names that it prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from optimum_htp import HtpOptions, PackageError, select, strip, write_layer_annotations
from optimum_htp.cli.main import main
from optimum_htp.cli.select import add_arguments
from optimum_htp.errors import HtpError
from optimum_htp.hierarchy.calls import CallTree
from optimum_htp.hierarchy.hierarchy import Hierarchy
from optimum_htp.hierarchy.patterns import ModulePattern, near_names, pattern_of
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.methods import load_package
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.marks import marks_of
from optimum_htp.package.node_metadata import LAYER_ANNOTATION, strip_tags, write_tags
from optimum_htp.package.resolver import tagged_file
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import Sidecar
from optimum_htp.selections.file_selection import FileSelection
from optimum_htp.selections.formats.base import NameFormat
from optimum_htp.selections.formats.table import FORMATS
from optimum_htp.selections.layer_annotations import MAX_SETTING_CHARACTERS
from optimum_htp.selections.selection import Selection
from optimum_htp.tagging.graph import TaggedGraph


def info(path: str, class_name: str, **facts: Any) -> ModuleInfo:
    return ModuleInfo(tuple(path.split(".")) if path else (), class_name, f"toy.{class_name}", **facts)


LAYERS = (0, 1, 2, 10)
TREE = ModuleTree(
    [
        info("", "Net", calls=1),
        info("encoder", "Encoder", calls=1),
        info("encoder.layer", "ModuleList", container=True),
        *(
            module
            for layer in LAYERS
            for module in (
                info(f"encoder.layer.{layer}", "Block", calls=1),
                info(f"encoder.layer.{layer}.norm", "LayerNorm", calls=1),
                info(f"encoder.layer.{layer}.fc", "Linear", calls=1),
            )
        ),
        info("head", "Head", calls=2, aliases=(("tail",),)),
        info("head.fc", "Linear", calls=2, aliases=(("tail", "fc"),)),
        info("drop", "Dropout", calls=1),
        info("branch", "Branch", calls=1),
    ]
)


def _call(path: str, parent: int, *alias: int) -> tuple[int, ...]:
    return [".".join(module.path) for module in TREE].index(path), parent, *alias


CALLS = CallTree.of_rows(
    TREE,
    [
        _call("", -1),
        _call("encoder", 0),
        *(
            row
            for index, layer in enumerate(f"encoder.layer.{layer}" for layer in LAYERS)
            for row in (_call(layer, 1), _call(f"{layer}.norm", 2 + 3 * index), _call(f"{layer}.fc", 2 + 3 * index))
        ),
        _call("head", 0),
        _call("head.fc", 14),
        _call("head", 0, 0),
        _call("head.fc", 16, 0),
        _call("drop", 0),
        _call("branch", 0),
    ],
)


def tag(path: str, source: str = "scope", call: int | None = None, origins: tuple[str, ...] = ()) -> NodeTag:
    return NodeTag(spelled(path), source, call, tuple(map(spelled, origins)))


def spelled(path: str) -> str:
    return TREE.tag(tuple(path.split(".")) if path else ())


# Name, operator, tag. The branches of the If have a node each, of one name.
NODES = [
    ("mask", "Cast", tag("")),
    *(
        node
        for layer in LAYERS
        for node in (
            (f"/layer.{layer}/norm/Pow", "Pow", tag(f"encoder.layer.{layer}.norm")),
            (f"/layer.{layer}/fc/Gemm", "Gemm", tag(f"encoder.layer.{layer}.fc")),
            (f"/layer.{layer}/Add", "Add", tag(f"encoder.layer.{layer}")),
        )
    ),
    ("skip", "Mul", tag("encoder.layer.2", "fused", origins=("encoder.layer.2", "encoder.layer.2.norm"))),
    ("/head/fc/MatMul", "MatMul", tag("head.fc", call=0)),
    ("/head/Relu", "Relu", tag("head", call=0)),
    ("/head/fc_1/MatMul", "MatMul", tag("head.fc", call=1)),
    ("/head/Relu_1", "Relu", tag("tail", call=1)),
    ("", "Neg", tag("head", call=1)),
    ("both", "Abs", tag("head", "fused")),
    ("odd[0]*", "Exp", tag("encoder")),
    ("lost", "Shape", tag("", "unresolved")),
]
BODY = [("branch/Sin", "Sin", tag("branch")), ("branch/Cos", "Cos", tag("branch"))]


def toy_package(directory: Path, *, foreign: bool = False, tags: bool = True) -> Path:
    """A package whose truth is the tables above."""
    import onnx
    from onnx import TensorProto, helper

    directory.mkdir(parents=True, exist_ok=True)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    nodes = [helper.make_node(kind, ["x"], [f"t{at}"], name=name) for at, (name, kind, _) in enumerate(NODES)]
    inner = [helper.make_node(kind, ["x"], [f"b{at}"], name=name) for at, (name, kind, _) in enumerate(BODY)]
    last = helper.make_tensor_value_info("b1", TensorProto.FLOAT, None)
    bodies = [helper.make_graph(inner, name, [], [last]) for name in ("then_branch", "else_branch")]
    nodes.append(helper.make_node("If", ["x"], ["y"], name="if", then_branch=bodies[0], else_branch=bodies[1]))
    if foreign:
        nodes[3].metadata_props.add(key=LAYER_ANNOTATION, value="mine")
    graph = helper.make_graph(nodes, "main", value[:1], value[1:])
    file = directory / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=10), file)
    if tags:
        model = read_model(file)
        known = {("", at): each for at, (_, _, each) in enumerate(NODES)} | {("", len(NODES)): tag("")}
        for body in ("then_branch", "else_branch"):
            known |= {(f"{len(NODES)}.{body}", at): each for at, (_, _, each) in enumerate(BODY)}
        tagged = TaggedGraph(model, known, Roots([Root(TREE, "model", (CALLS,))]))
        write_tags(tagged, options=HtpOptions(skeleton=False))
        Sidecar({"model.onnx": FileRecord.of(tagged)}).write(directory)
    return directory


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy package; treat it as read-only."""
    return toy_package(tmp_path_factory.mktemp("toy") / "package")


def chosen(package: Path, *patterns: str, **options: Any) -> FileSelection:
    (file,) = select(package, patterns, **options).files
    return file


def names(package: Path, *patterns: str, **options: Any) -> list[str]:
    return chosen(package, *patterns, **options).names


# --- Patterns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "modules"),
    [
        ("encoder.layer.1", ["encoder.layer.1"]),
        ("encoder.layer.*.norm", [f"encoder.layer.{layer}.norm" for layer in LAYERS]),
        ("*.layer.?", ["encoder.layer.0", "encoder.layer.1", "encoder.layer.2"]),
        ("encoder.layer.[01].fc", ["encoder.layer.0.fc", "encoder.layer.1.fc"]),
        ("encoder*.norm", [f"encoder.layer.{layer}.norm" for layer in LAYERS]),
        ("LayerNorm", [f"encoder.layer.{layer}.norm" for layer in LAYERS]),
        ("toy.Head", ["head"]),
        ("tail", ["head"]),
        ("", [""]),
        ("encoder.layer", ["encoder.layer"]),
        ("encoder.layer.1-2", ["encoder.layer.1", "encoder.layer.2"]),
        ("encoder.layer.2-10.fc", ["encoder.layer.2.fc", "encoder.layer.10.fc"]),
        ("*.1-9", ["encoder.layer.1", "encoder.layer.2"]),
        ("*.1-1.*", ["encoder.layer.1.norm", "encoder.layer.1.fc"]),
        ("class:*Norm", [f"encoder.layer.{layer}.norm" for layer in LAYERS]),
        ("class:toy.H*", ["head"]),
        (r"re:layer\.[02]$", ["encoder.layer.0", "encoder.layer.2"]),
        ("re:^drop", ["drop"]),
        ("re:", [".".join(module.path) for module in TREE]),
        ("/Net/Head.*", ["head", "head.fc"]),
        ("/Net/Encoder.encoder/Block.layer.1-2", ["encoder.layer.1", "encoder.layer.2"]),
        ("head@1", ["head"]),
        ("head*@0-1", ["head", "head.fc"]),
        ("head@2", []),
        ("encoder.layer@0", []),
        ("layer.1", []),
        ("encoder.layer.3-9", []),
        ("norm", []),
    ],
)
def test_modules_of_a_pattern(pattern: str, modules: list[str]) -> None:
    assert [".".join(found.path) for found in Hierarchy([TREE], {}).select(pattern)] == modules


def test_range_is_a_name_too() -> None:
    """Where a module is called just so."""
    tree = ModuleTree([info("", "Net"), info("2-3", "Block"), info("3", "Block"), info("4", "Block")])
    assert [module.path for module in Hierarchy([tree], {}).select("2-3")] == [("2-3",), ("3",)]


ODD_NAMES = ["a/b", "50%", "*", "[x]", "q?", "x y", "größe", "!no", "a@1", "a@b", "re:x", "class:z", "/abs", "1-2"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_name_can_be_written(name: str) -> None:
    """Also those that read like something else, for which the pattern is suggested that means them."""
    tree = ModuleTree([ModuleInfo((), "Net", "toy.Net"), *(ModuleInfo((each,), "B", "toy.B") for each in ODD_NAMES)])
    assert [info.path for info in tree.select(ModulePattern.parse(pattern_of(name)))] == [(name,)]
    text = name.removeprefix("!")
    wrong = replace(ModulePattern.parse(text), text=name)
    if not tree.select(wrong):
        assert near_names(wrong, paths=ODD_NAMES, classes=["B"], tags=[]) == [pattern_of(name)]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("re:layer.(0", "'re:layer.(0' is not a regular expression: missing )"),
        ("encoder.layer.5-2", "the range 5-2 runs backwards: write 2-5"),
        ("head@3-1", "the range 3-1 runs backwards: write 1-3"),
    ],
)
def test_what_is_no_pattern(pattern: str, message: str) -> None:
    with pytest.raises(HtpError, match=re.escape(message)):
        ModulePattern.parse(pattern)


# --- Nodes --------------------------------------------------------------------------------------------------------


def layer(number: int) -> list[str]:
    return [f"/layer.{number}/norm/Pow", f"/layer.{number}/fc/Gemm", f"/layer.{number}/Add"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["encoder.layer.1"], layer(1)),
        (
            ["encoder.layer.0-1", "LayerNorm"],
            [*layer(0), *layer(1), "/layer.2/norm/Pow", "/layer.10/norm/Pow", "skip"],
        ),
        (["encoder.layer.1", "!LayerNorm"], layer(1)[1:]),
        (["!LayerNorm", "encoder.layer.1"], layer(1)[1:]),
        (["encoder.layer.2", "!*.norm"], layer(2)[1:]),
        (["encoder.layer", "!encoder.layer.0-2"], layer(10)),
        (["head"], ["/head/fc/MatMul", "/head/Relu", "/head/fc_1/MatMul", "/head/Relu_1", "both"]),
        (["tail@1"], ["/head/fc_1/MatMul", "/head/Relu_1"]),
        (["head@0"], ["/head/fc/MatMul", "/head/Relu"]),
        (["head@0-1"], ["/head/fc/MatMul", "/head/Relu", "/head/fc_1/MatMul", "/head/Relu_1", "both"]),
        (["head.fc@1"], ["/head/fc_1/MatMul"]),
        (["drop", "branch"], ["branch/Sin", "branch/Cos"]),
        (["!encoder", "!head"], ["mask", "if", "branch/Sin", "branch/Cos"]),
    ],
    ids=" ".join,
)
def test_names(patterns: list[str], expected: list[str], package: Path) -> None:
    assert names(package, *patterns) == expected


def test_own_nodes(package: Path) -> None:
    assert names(package, "encoder.layer.0", own=True) == ["/layer.0/Add"]
    assert names(package, "", own=True) == ["mask", "if"]
    assert names(package, "*.norm", own=True, fused=False) == [f"/layer.{each}/norm/Pow" for each in LAYERS]


def test_fused_nodes(package: Path) -> None:
    """They belong to each module that they were fused from, unless that is not wanted."""
    assert names(package, "encoder.layer.2.norm") == ["/layer.2/norm/Pow", "skip"]
    assert [node.fused for node in chosen(package, "encoder.layer.2.norm").nodes] == [False, True]
    assert names(package, "encoder.layer.2.norm", fused=False) == ["/layer.2/norm/Pow"]
    assert chosen(package, "encoder.layer.2").fused == 0


def test_all_but_what_is_unresolved(package: Path) -> None:
    """Every pattern leaves out nodes whose module is not known; the root has all others."""
    for patterns in (["*"], [""], ["!drop"], ["re:"]):
        file = chosen(package, *patterns)
        assert len(file.nodes) == len(NODES) + 1 + 2 * len(BODY) - 1
        assert file.unresolved == 1
        assert "lost" not in file.names


def test_a_pattern_and_its_negation_share_all(package: Path) -> None:
    for pattern in ("encoder", "LayerNorm", "encoder.layer.0-2", "head", "re:fc$", "branch"):
        taken = {(node.graph, node.position) for node in chosen(package, pattern).nodes}
        left = {(node.graph, node.position) for node in chosen(package, f"!{pattern}").nodes}
        assert not taken & left
        assert len(taken | left) == len(chosen(package, "*").nodes)


@pytest.mark.parametrize("model", ["albert", "albert-groups"])
def test_calls_share_the_nodes_of_a_module(model: str, exported: Callable[[str], Path]) -> None:
    """Each node is of one call, and all calls do the same."""
    package = exported(model)
    hierarchy = load_package(package).files["model.onnx"].hierarchy
    groups = [each for each in hierarchy.select("AlbertLayerGroup") if each.calls > 1]
    assert groups
    for group in groups:
        path = ".".join(group.path)
        whole = chosen(package, path)
        calls = [chosen(package, f"{path}@{call}") for call in range(group.calls)]
        assert sum(len(call.nodes) + call.unknown_call for call in calls) >= len(whole.nodes)
        keys = [{(node.graph, node.position) for node in call.nodes} for call in calls]
        assert len(set.union(*keys)) == sum(map(len, keys))
        assert set.union(*keys) <= {(node.graph, node.position) for node in whole.nodes}
        operators = [sorted(node.operator for node in call.nodes if node.operator == "MatMul") for call in calls]
        assert operators[0]
        assert all(each == operators[0] for each in operators)


def test_paths_of_the_whole_model(exported: Callable[[str], Path]) -> None:
    """The encoder that was exported alone is still the model's encoder."""
    package = exported("t5")
    found = select(package, "encoder.block.0")
    assert [file.name for file in found.files] == ["encoder_model.onnx"]
    assert found.files[0].names == names(package, "block.0", file="encoder_model.onnx")


def test_merged_decoder(exported: Callable[[str], Path]) -> None:
    """Nodes of both branches, whose names are listed once."""
    file = chosen(exported("t5"), "*.block.0", file="*merged*")
    graphs = {node.graph.rpartition(".")[2] for node in file.nodes}
    assert graphs == {"then_branch", "else_branch"}
    assert len(file.names) < len(file.nodes)
    assert len(set(file.names)) == len(file.names)


def test_names_are_those_of_the_graph(exported: Callable[[str], Path]) -> None:
    """Nothing is renamed: TensorRT's users key on names."""
    package = exported("bert")
    file = chosen(package, "*")
    nodes = read_model(package / "model.onnx").graph.nodes
    assert [node.name for node in file.nodes] == [nodes[node.position].name for node in file.nodes]


# --- For other tools ----------------------------------------------------------------------------------------------


def test_the_command_line_knows_and_describes_all_formats(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(formatter_class=RawDescriptionHelpFormatter)
    add_arguments(parser)
    described = parser.format_help().partition("formats:\n")[2]
    assert set(re.findall(r"^  (\S+)(?:  |$)", described, re.MULTILINE)) == {"json", *FORMATS}
    for form in ("json", *FORMATS):
        assert parser.parse_args(["package", "LayerNorm", "--format", form]).format == form
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["package", "LayerNorm", "--format", "onnx"])
    assert "'onnx' is not a format: give one of json, names, " in capsys.readouterr().err


def test_formats(package: Path) -> None:
    """Each matches the selected names and no others, as the tool matches."""
    everything = [name for name, _, _ in (*NODES, *BODY) if name] + ["if"]
    for patterns in (["encoder.layer.1"], ["encoder"], ["*.norm"], ["head"], ["encoder.layer.0", "branch"]):
        selection = select(package, patterns)
        wanted = set(selection.files[0].names)
        assert set(selection.names_for("names")) == wanted
        olive, modelopt = selection.names_for("olive"), selection.names_for("modelopt")
        assert {name for name in everything for each in olive if fnmatchcase(name, each)} == wanted
        assert {name for name in everything for each in modelopt if re.match(each, name)} == wanted


@pytest.mark.parametrize("form", [form for form in FORMATS if form not in ("genai-int4", "trtexec", "polygraphy")])
def test_lines_of_a_format_are_what_is_printed(form: str, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And for a tool that takes a list, the names that Python gives."""
    selection = select(package, ["encoder.layer.1", "branch"])
    lines = FORMATS[form].lines(selection.files[0], device="npu")
    device = ["--device", "npu"] if form in ("layer-ann", "layer-name") else []
    out, _ = shown([str(package), "encoder.layer.1", "branch", "--format", form, *device], capsys)
    assert out.splitlines() == lines
    if isinstance(FORMATS[form], NameFormat):
        names = selection.names_for(form)
        assert names == lines if form == "names" else not FORMATS[form].as_json or names == json.loads(out)


def test_names_for_what_takes_no_names(package: Path) -> None:
    """The formats that are lists are listed."""
    for form in ("layer-ann", "json", "tensorrt"):
        with pytest.raises(HtpError, match=rf"'{form}' is not a format with a list of names: give one of names, "):
            select(package, "encoder").names_for(form)


def test_gemm_has_two_names(package: Path) -> None:
    """Its own, and the one that dynamic quantization gives it first."""
    found = select(package, "encoder.layer.1").names_for("ort-quantize")
    assert found == ["/layer.1/norm/Pow", "/layer.1/fc/Gemm", "/layer.1/fc/Gemm_MatMul", "/layer.1/Add"]


def owners(file: Path, *operators: str) -> dict[str, str]:
    """The tag of each node with one of the operators, by the node's name."""
    package = load_package(file)
    tagged = tagged_file(next(iter(package.files.values())), package=package)
    return {
        node.name: tagged.tags["", position].tag
        for position, node in enumerate(tagged.model.graph.nodes)
        if node.op_type in operators
    }


def quantized(package: Path, target: Path, exclude: list[str]) -> Path:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    config = AutoQuantizationConfig.avx2(is_static=False, per_channel=False, nodes_to_exclude=exclude)
    ORTQuantizer.from_pretrained(package, file_name="model.onnx").quantize(config, save_dir=target)
    return target / "model_quantized.onnx"


@pytest.mark.parametrize(
    "patterns", [["*.layer.0.attention"], ["classifier"], ["*.layer.1", "!*.output", "classifier"]]
)
def test_quantizer_leaves_just_those_modules_in_float(
    patterns: list[str], exported: Callable[[str], Path], tmp_path: Path
) -> None:
    """In the graph that `ORTQuantizer` makes, products in the selected modules are of floats, all others of integers."""
    package = exported("bert")
    file = chosen(package, *patterns)
    before = owners(package / "model.onnx", "MatMul", "Gemm")
    expected = {tag for name, tag in before.items() if name in set(file.names)}
    assert expected
    assert expected != set(before.values())
    made = quantized(package, tmp_path, select(package, patterns).names_for("ort-quantize"))
    assert set(owners(made, "MatMul", "Gemm").values()) == expected
    assert set(owners(made, "MatMulInteger").values()) == set(before.values()) - expected


def test_quantizer_does_not_know_a_gemm_by_its_name(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """Why it is given two. When this fails, the second can go."""
    package = exported("bert")
    file = chosen(package, "classifier")
    gemm = [node.name for node in file.nodes if node.operator == "Gemm"]
    assert gemm
    made = quantized(package, tmp_path, gemm)
    assert [name for name in owners(made, "MatMulInteger") if "classifier" in name]


def test_fp16_converter_leaves_just_those_nodes(exported: Callable[[str], Path]) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    package = exported("bert")
    blocked = select(package, "*.layer.0.output").names_for("ort-fp16")
    model = convert_float_to_float16(onnx.load(package / "model.onnx"), node_block_list=blocked)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weights = {
        node.name: {types[name] for name in node.input if name in types}
        for node in model.graph.node
        if node.op_type == "MatMul"
    }
    kept = {name for name, found in weights.items() if found == {onnx.TensorProto.FLOAT}}
    assert kept == {name for name in weights if "/layer.0/output/" in name}
    assert any(found == {onnx.TensorProto.FLOAT16} for found in weights.values())


# --- Layer annotations --------------------------------------------------------------------------------------------


def hit(setting: str, value: str) -> bool:
    """Whether ONNX Runtime's rules hit a node: a rule is a prefix, or after `=` the whole value."""
    rules = setting[setting.index("(") + 1 : -1].split(",")
    return any(value == rule[1:] if rule.startswith("=") else value.startswith(rule) for rule in map(str.strip, rules))


@pytest.mark.parametrize(
    ("patterns", "setting"),
    [
        (["encoder.layer.1"], "gpu(encoder/layer.1/, =encoder/layer.1)"),
        (["encoder.layer.1.norm"], "gpu(=encoder/layer.1/norm)"),
        (["encoder.layer.0-1"], "gpu(encoder/layer.0/, =encoder/layer.0, encoder/layer.1/, =encoder/layer.1)"),
        (["encoder", "!encoder.layer.1-10"], "gpu(=encoder, encoder/layer.0/, =encoder/layer.0)"),
        (["head"], "gpu(head/, =head, =tail)"),
        (["branch"], "gpu(=branch)"),
    ],
)
def test_layer_setting(patterns: list[str], setting: str, package: Path) -> None:
    assert chosen(package, *patterns).layer_setting() == setting


@pytest.mark.parametrize("model", ["bert", "t5", "gpt2"])
def test_layer_settings_hit_the_selected_nodes(model: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """And no others, as they stand in the file."""
    package = tmp_path / model
    shutil.copytree(exported(model), package)
    write_layer_annotations(package, select(package, "*"))
    for name, file in load_package(package).files.items():
        nodes = [node for _, graph in read_model(file.path).graphs() for node in graph.nodes]
        values = [node.metadata.get(LAYER_ANNOTATION, "") for node in nodes]
        assert all(values)
        for pattern in ("*.1", "class:*Attention", "*.0-1.*", "!*.0", "*"):
            try:
                found = chosen(package, pattern, file=name)
            except PackageError:
                continue
            setting = found.layer_setting()
            assert sum(hit(setting, value) for value in values) == len(found.nodes)


def test_onnxruntime_takes_the_setting(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """A session with it loads, and a setting longer than we say is refused."""
    import onnxruntime

    package = tmp_path / "bert"
    shutil.copytree(exported("bert"), package)
    selection = select(package, "*.layer.1")
    assert write_layer_annotations(package, selection) == ["model.onnx"]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.layer_assignment_settings", selection.files[0].layer_setting("cpu"))
    onnxruntime.InferenceSession(package / "model.onnx", options, providers=["CPUExecutionProvider"])
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.layer_assignment_settings", "a" * MAX_SETTING_CHARACTERS)
    with pytest.raises(Exception, match="longer than maximum"):
        onnxruntime.SessionOptions().add_session_config_entry("x", "a" * (MAX_SETTING_CHARACTERS + 1))


@pytest.mark.parametrize("model", ["bert", "t5"])
def test_strip_undoes_layer_annotations(model: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """Byte for byte, also when they were written twice; the tags stay while they are there."""
    package, plain = tmp_path / "package", tmp_path / "plain"
    shutil.copytree(exported(model), package)
    shutil.copytree(exported(model), plain)
    strip(plain)
    write_layer_annotations(package, select(package, "*.0"))
    tags = {name: dict(file.tags) for name, file in load_package(exported(model)).files.items()}
    once = {file.name: file.read_bytes() for file in package.glob("*.onnx")}
    write_layer_annotations(package, select(package, "*.1"))
    assert {file.name: file.read_bytes() for file in package.glob("*.onnx")} == once
    for name, file in load_package(package).files.items():
        assert dict(file.tags) == tags[name]
        assert file.evidence == "sidecar"
        assert all(LAYER_ANNOTATION in (mark.keys or ()) for mark in marks_of(file.model))
    strip(package)
    for file in plain.glob("*.onnx"):
        assert (package / file.name).read_bytes() == file.read_bytes()


def test_foreign_layer_annotations_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And are still there after `strip`."""
    package = toy_package(tmp_path / "toy", foreign=True)
    before = (package / "model.onnx").read_bytes()
    assert main(["select", str(package), "encoder", "--write-layer-annotations"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1 of its nodes have a layer_ann that something else wrote ('/layer.0/Add' has 'mine')" in shown.err
    assert (package / "model.onnx").read_bytes() == before
    strip_tags(package / "model.onnx")
    nodes = read_model(package / "model.onnx").graph.nodes
    assert [node.metadata for node in nodes if node.metadata] == [{LAYER_ANNOTATION: "mine"}]


def test_annotations_are_for_the_graph_that_was_selected_in(package: Path, tmp_path: Path) -> None:
    """Not for another file, nor for what became of it since; nothing is written."""
    import onnx

    selection = select(package, "encoder")
    other = toy_package(tmp_path / "other")
    model = onnx.load(other / "model.onnx")
    del model.graph.node[5:]
    onnx.save(model, other / "model.onnx")
    before = (other / "model.onnx").read_bytes()
    with pytest.raises(PackageError, match=r"model.onnx is not the file that was selected in; select again"):
        write_layer_annotations(other, selection)
    assert (other / "model.onnx").read_bytes() == before
    (other / "model.onnx").rename(other / "renamed.onnx")
    with pytest.raises(PackageError, match="is not the file that was selected in"):
        write_layer_annotations(other, selection)


def test_calls_are_no_layers(package: Path) -> None:
    with pytest.raises(PackageError, match=r"the layer .head/fc. are selected and some are not"):
        chosen(package, "head@0").layer_setting()


# --- The command --------------------------------------------------------------------------------------------------


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    assert main(["select", *arguments]) == 0
    output = capsys.readouterr()
    return output.out, output.err


def test_what_a_person_sees(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unresolved = "note: model.onnx: 1 node whose module is not known can't be selected\n"
    assert shown([str(package), "encoder.layer.1", "branch"], capsys) == (
        "/layer.1/norm/Pow\n/layer.1/fc/Gemm\n/layer.1/Add\nbranch/Sin\nbranch/Cos\n",
        unresolved + "note: model.onnx: 5 names stand for 7 nodes, as in branches\n",
    )
    assert shown([str(package), "encoder.layer.1", "--format", "modelopt"], capsys) == (
        '[\n  "/layer\\\\.1/norm/Pow$",\n  "/layer\\\\.1/fc/Gemm$",\n  "/layer\\\\.1/Add$"\n]\n',
        unresolved,
    )
    assert shown([str(package), "head@1", "--format", "ort-quantize"], capsys) == (
        '[\n  "/head/fc_1/MatMul",\n  "/head/Relu_1"\n]\n',
        unresolved
        + "note: model.onnx: left out 1 node whose call is not known\n"
        + "note: model.onnx: left out 1 node without a name, which tools that go by names can't select (--json lists "
        "all)\n",
    )
    assert shown([str(package), "*.2.norm", "--format", "layer-ann", "--no-fused", "--device", "npu"], capsys) == (
        "session.layer_assignment_settings=npu(=encoder/layer.2/norm)\n",
        unresolved,
    )


def test_json(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that is known, nodes without names included, by both options."""
    out, err = shown([str(package), "head", "--json"], capsys)
    document = json.loads(out)
    assert document == select(package, "head").to_dict()
    assert err == "note: model.onnx: 1 node whose module is not known can't be selected\n"
    file = document["files"]["model.onnx"]
    assert file["modules"] == ["/Net/Head.head"]
    assert [node["name"] for node in file["nodes"] if node["name"]] == file["names"]
    assert file["unnamed"] == len(file["nodes"]) - len(file["names"]) == 1
    assert file["nodes"][0] == {
        "graph": "", "position": 14, "id": "t14", "name": "/head/fc/MatMul", "operator": "MatMul",
        "tag": "/Net/Head.head/Linear.fc", "call": 0, "fused": False,
    }  # fmt: skip
    assert shown([str(package), "head", "--format", "json"], capsys)[0] == out


def test_write_layer_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The option is printed; all nodes whose module is known have their module's path."""
    package = toy_package(tmp_path / "toy")
    out, _ = shown([str(package), "encoder.layer.1", "--write-layer-annotations"], capsys)
    assert out == "session.layer_assignment_settings=gpu(encoder/layer.1/, =encoder/layer.1)\n"
    nodes = read_model(package / "model.onnx").graph.nodes
    assert [node.metadata.get(LAYER_ANNOTATION) for node in nodes[:4]] == [
        ".", "encoder/layer.0/norm", "encoder/layer.0/fc", "encoder/layer.0",
    ]  # fmt: skip
    assert [node.name for node in nodes if LAYER_ANNOTATION not in node.metadata] == ["lost"]


def test_several_files(exported: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Names stand under the file's; what one tool takes is for one file."""
    package = str(exported("t5"))
    out, _ = shown([package, "T5LayerNorm"], capsys)
    headings = [line for line in out.splitlines() if line.startswith("# ")]
    assert headings == [f"# {name}" for name in load_package(package).files]
    assert main(["select", package, "T5LayerNorm", "--format", "ort-fp16"]) == 2
    assert "choose it with --file NAME" in capsys.readouterr().err


def test_hostile_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a file says reaches the terminal escaped."""
    import onnx

    package = toy_package(tmp_path / "toy")
    model = onnx.load(package / "model.onnx")
    model.graph.node[1].name = "\x1b[2J\u202eevil"
    onnx.save(model, package / "model.onnx")
    out, _ = shown([str(package), "encoder.layer.0.norm"], capsys)
    assert out == "\\x1b[2J\\u202eevil\n"


def test_names_of_other_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is also that of a node elsewhere is told of; a tool would take both."""
    import onnx

    package = toy_package(tmp_path / "toy")
    model = onnx.load(package / "model.onnx")
    model.graph.node[1].name = "/layer.1/Add"
    onnx.save(model, package / "model.onnx")
    assert chosen(package, "encoder.layer.0").ambiguous_names() == ["/layer.1/Add"]
    _, err = shown([str(package), "encoder.layer.0", "--format", "ort-quantize"], capsys)
    assert "1 of the names are also those of nodes that were not selected, such as '/layer.1/Add'" in err


def test_no_pattern(package: Path) -> None:
    """An empty list is no wish for everything."""
    with pytest.raises(HtpError, match="no pattern says which modules to select"):
        select(package, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoder.layer.*.nrm"], "no module matches 'encoder.layer.*.nrm'; did you mean 'encoder.layer.*.norm'"),
        (["encoder.layer.1.nrm"], "did you mean 'encoder.layer.1.norm'"),
        (["layernorm"], "did you mean 'LayerNorm'"),
        (["layer.1"], "did you mean '*.layer.1'?"),
        (["encoder", "!Hed"], "no module matches '!Hed'; did you mean 'Head'"),
        (["class:LayerNrm"], "did you mean 'LayerNorm'"),
        (["/Net/Head.heads"], "did you mean '/Net/Head.head'"),
        (["head@2"], "such a module ran 2 times, which are the calls 0 to 1"),
        (["branch@1"], "such a module ran once, which is call 0"),
        (
            ["qqqqqqq", "!Hed"],
            "no module matches 'qqqqqqq'; `optimum-cli htp tree` lists the modules; no module matches '!Hed'",
        ),
        (["qqqqqqq"], "no module matches 'qqqqqqq'; `optimum-cli htp tree` lists the modules"),
        (["drop"], "'drop' selects a module that no node comes from"),
        (["encoder.layer.0", "!*"], "leaves no node"),
        (["re:("], "is not a regular expression"),
        (["encoder", "--file", "other.onnx"], "no file of it is called 'other.onnx'; it has model.onnx"),
        (["encoder", "--format", "layer-ann", "--device", "gpu("], "is not a device of ONNX Runtime"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(arguments: list[str], message: str, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with what was perhaps meant."""
    assert main(["select", str(package), *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert message in output.err


def test_untagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that tags it is named."""
    package = toy_package(tmp_path / "toy", tags=False)
    assert main(["select", str(package), "encoder"]) == 2
    assert f"optimum-cli htp tag {package}" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["ort-all", "dynamic", "optimum-O2", "onnxslim"])
def test_rewritten_graphs(tool: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """What a tool made of a tagged file is selected from by what the file itself still tells."""
    from rewriters import rewrite

    made = rewrite(tool, exported("bert") / "model.onnx", tmp_path / "model.onnx")
    shutil.rmtree(tmp_path / ".model-0")
    file = chosen(tmp_path, "*.layer.0-1", "!*attention*")
    assert file.nodes
    assert {node.name for node in file.nodes} <= {node.name for node in read_model(made).graph.nodes}
    assert any("layer.0" in name for name in chosen(tmp_path, "*.layer.0").names)
    assert not any("layer.1" in node.name for node in chosen(tmp_path, "*.layer.0", fused=False).nodes)


def test_without_the_sidecar(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """The metadata of the nodes tells the same."""
    shutil.copy(exported("bert") / "model.onnx", tmp_path)
    for patterns in (["*.layer.0"], ["LayerNorm"], ["*.layer.0-1", "!*.output"]):
        assert names(tmp_path, *patterns) == names(exported("bert"), *patterns)


def test_no_library_is_loaded(package: Path) -> None:
    """Neither torch nor onnx nor numpy."""
    code = (
        f"import sys\nfrom optimum_htp.cli.main import main\nmain(['select', {str(package)!r}, 'encoder', '--json'])\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"torch", "transformers", "onnx", "onnxruntime", "optimum", "numpy"} & set(
        re.findall(r"\w+", result.stderr.splitlines()[-1])
    )


def test_report_is_frozen(package: Path) -> None:
    selection: Selection = select(package, "encoder")
    with pytest.raises(AttributeError):
        selection.package = "other"  # type: ignore[misc]
    assert selection.patterns == ("encoder",)
