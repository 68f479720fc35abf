"""Modules that repeat become functions: ONNX Runtime gives the same, and inlining gives the old graph, node by node."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
import onnxruntime
import pytest
from layered_toy import layered_package
from same_graph import facts
from small_graphs import _comments, _in_text_order, _without_comments

from optimum_htp import (
    PackageError,
    compare,
    diff,
    extract,
    functions,
    load_package,
    profile,
    project,
    strip,
    tree,
    validate,
)
from optimum_htp.cli.main import main
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.models.inputs import make_inputs
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.inlining import inlined
from optimum_htp.package.node_metadata import HtpOptions
from optimum_htp.package.resolver import tagged_file
from optimum_htp.package.write import write_files
from optimum_htp.tagging.graph import TaggedGraph

Exported = Callable[..., Path]
INLINE = onnx.inliner.inline_local_functions


def tags_of(package: Path, name: str, *, inline: bool) -> Counter[tuple[str, int | None]]:
    """The modules and calls of all nodes of a file, of those in functions for each call."""
    opened = load_package(package)
    graph = tagged_file(opened.files[name], package=opened)
    if not inline:
        return Counter((tag.tag, tag.call) for tag in graph.tags.values())
    with inlined(graph, package=package) as whole:
        assert not whole.model.functions
        return Counter((tag.tag, tag.call) for tag in whole.tags.values())


def check_same(before: Path, after: Path, *, run: bool = True) -> int:
    """Holds each file against the one that it was made from; gives how many functions there are."""
    found = 0
    for file in sorted(before.rglob("*.onnx")):
        name = file.relative_to(before).as_posix()
        old, new = onnx.load(file), onnx.load(after / name)
        if len(new.functions) == len(old.functions):
            assert file.read_bytes() == (after / name).read_bytes()
            continue
        onnx.checker.check_model(new)
        assert facts(INLINE(old).graph) == facts(INLINE(new).graph), name
        assert tags_of(before, name, inline=False) == tags_of(after, name, inline=True), name
        found += len(new.functions) - len(old.functions)
        if run:
            model = read_model(file)
            inputs = make_inputs(model, load_package(before).config)
            results = [session(path).run(None, inputs) for path in (file, after / name)]
            for one, other in zip(*results, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    return found


def session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


# --- Architectures ----------------------------------------------------------------------------------------------------

QUICK = {
    "bert": ("*", {"BertLayer": 2}),
    "albert": ("*", {"AlbertLayerGroup": 3}),
    "gpt2": ("*", {"GPT2Block": 2}),
    "t5": ("decoder_model_merged.onnx", {"T5LayerFF": 4}),  # the first block of each stack makes the position bias
}
SWEPT = {
    "audio-spectrogram-transformer": "ASTLayer",
    "bart": "BartDecoderLayer",
    "bloom": "BloomBlock",
    "clip": "CLIPEncoderLayer",
    "deberta-v2": "DebertaV2Layer",
    "dpt": "DPTViTLayer",
    "gemma2": "Gemma2DecoderLayer",
    "levit": "LevitResidualLayer",
    "llama": "LlamaDecoderLayer",
    "marian": "MarianDecoderLayer",
    "mobilebert": "MobileBertLayer",
    "mobilevit": "MobileViTTransformerLayer",
    "mpt": "MptBlock",
    "opt": "OPTDecoderLayer",
    "perceiver": "PerceiverLayer",
    "qwen3_moe": "Qwen3MoeDecoderLayer",
    "resnet": "ResNetBasicLayer",
    "roberta": "RobertaLayer",
    "sew-d": "SEWDLayer",
    "siglip": "SiglipEncoderLayer",
    "vit": "ViTLayer",
    "vits": "VitsEncoderLayer",
    "whisper": "WhisperDecoderLayer",
    "wav2vec2": "Wav2Vec2EncoderLayer",
    "yolos": "YolosLayer",
}


@pytest.mark.parametrize("name", QUICK)
def test_layers_are_one_function(name: str, exported: Exported, tmp_path: Path) -> None:
    file, expected = QUICK[name]
    report = functions(exported(name), output=tmp_path / "out", file=file)
    assert {function.name: len(function.calls) for function in report.functions} == expected
    assert check_same(exported(name), tmp_path / "out", run=name != "t5") == len(report.functions)
    assert validate(tmp_path / "out").ok


# Of these no two layers are alike: each is of another size, or the first does what the others only use.
NOTHING_ALIKE = {"convnext", "squeezebert", "swin", "swin2sr", "wavlm"}


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(SWEPT))
def test_layers_are_one_function_everywhere(name: str, exported: Exported, tmp_path: Path) -> None:
    report = functions(exported(name), output=tmp_path / "out")
    assert SWEPT[name] in {function.name for function in report.functions}
    assert check_same(exported(name), tmp_path / "out", run=False)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(NOTHING_ALIKE))
def test_where_nothing_is_alike_it_is_said(name: str, exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"is like it|repeats"):
        functions(exported(name), output=tmp_path / "out")


# --- Rules ------------------------------------------------------------------------------------------------------------


def package(directory: Path, text: str, *, opset: int = 18, ir_version: int = 8) -> Path:
    """A model of which each node has its module in its comment; the class of `layers.0.act` is `Act`, of `layers.0` `Layers`."""
    model = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}, "local": 1]>\n{_without_comments(text)}'
    )
    directory.mkdir(parents=True)
    path = directory / "model.onnx"
    onnx.save(model, path)
    read = read_model(path)
    notes = dict(zip(_in_text_order(read), _comments(text), strict=True))
    paths = {()} | {
        tuple(note.split("@")[0].split(".")[:end]) for note in notes.values() if note for end in range(1, 9)
    }
    calls = Counter(note.split("@")[0] for note in set(notes.values()) if "@" in note)
    modules = []
    for each in sorted(paths):
        name = next((part for part in reversed(each) if not part.isdecimal()), "net").capitalize()
        holds = any(other[:-1] == each and other[-1].isdecimal() for other in paths if other)
        ran = calls.get(".".join(each), 1)
        modules.append(ModuleInfo(each, name, f"toy.{name}", container=holds, calls=0 if holds else ran))
    tree_of = ModuleTree(modules)
    tags = {}
    for key, note in notes.items():
        name, _, call = note.partition("@")
        tags[key] = NodeTag(tree_of.tag(tuple(name.split(".")) if name else ()), "scope", int(call) if call else None)
    graph = TaggedGraph(read, tags, Roots((Root(tree_of),)))
    write_files({"model.onnx": graph}, directory, options=HtpOptions())
    return directory


def made(directory: Path, text: str, *patterns: str, **given: Any) -> Any:
    """The report on a toy, whose result is the same and gives the same."""
    source = package(directory / "toy", text, **given)
    report = functions(source / "model.onnx", patterns or "Layers", output=directory / "out.onnx")
    old, new = onnx.load(source / "model.onnx"), onnx.load(directory / "out.onnx")
    onnx.checker.check_model(new, full_check=True)
    assert facts(INLINE(old).graph) == facts(INLINE(new).graph)
    inputs = {value.name: np.array([[1.0, -2.0]], np.float32) for value in old.graph.input if value.name != "c"}
    for condition in (True, False):
        given = inputs | ({"c": np.array(condition)} if len(inputs) < len(old.graph.input) else {})
        results = [session(path).run(None, given) for path in (source / "model.onnx", directory / "out.onnx")]
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)
    return report


def test_constants_that_differ_are_given(tmp_path: Path) -> None:
    """A scale by the number of the layer is an input; the shift that all have is inside."""
    report = made(tmp_path, """
        net (float[N, 2] x) => (float[N, 2] y) {
          one = Constant <value = float {1.0}> ()      # layers.0
          s0 = Constant <value = float {1.0}> ()       # layers.0
          a = Mul(x, s0)                               # layers.0
          b = Add(a, one)                              # layers.0
          s1 = Constant <value = float {2.0}> ()       # layers.1
          eins = Constant <value = float {1.0}> ()     # layers.1
          d = Mul(b, s1)                               # layers.1
          y = Add(d, eins)                             # layers.1
        }""")  # fmt: skip
    (function,) = report.functions
    assert (function.nodes, function.inputs, function.constants, len(function.calls)) == (3, 2, 1, 2)


ATTRIBUTES = """
    net (float[N, 2] x) => (float[N, 2] y) {
      a = Elu <alpha = 1.0> (x)      # layers.0
      b = Neg(a)                     # layers.0
      d = Elu <alpha = 2.0> (b)      # layers.1
      e = Neg(d)                     # layers.1
      f = Elu <alpha = 1.0> (e)      # layers.2
      g = Neg(f)                     # layers.2
      h = Neg(g)                     # layers.3
      i = Elu <alpha = 1.0> (h)      # layers.3
      j = Elu <alpha = 1.0> (i)      # layers.4
      k = Neg(j)                     # layers.4
      y = Abs(k)                     # layers.4
    }"""


def test_what_differs_stays_and_is_told(tmp_path: Path) -> None:
    """Other attributes, another order of the work, and more of it."""
    report = made(tmp_path, ATTRIBUTES)
    assert [call.path for call in report.functions[0].calls] == ["layers.0", "layers.2"]
    assert {each.path: each.reason for each in report.left_out} == {
        "layers.1": "it has other attributes, first of 'Elu'",
        "layers.3": "it has the same nodes, wired in another way",
        "layers.4": "it has 3 nodes where others have 2: 1 more (Abs)",
    }


def test_the_order_in_the_file_does_not_matter(tmp_path: Path) -> None:
    """Nor does what is read of it outside: all that any of them gives is an output."""
    report = made(tmp_path, """
        net (float[N, 2] x) => (float[N, 2] y, float[N, 2] e) {
          a = Neg(x)        # layers.0
          b = Abs(x)        # layers.0
          d = Sub(a, b)     # layers.0
          e = Abs(d)        # layers.1
          f = Neg(d)        # layers.1
          y = Sub(f, e)     # layers.1
        }""")  # fmt: skip
    (function,) = report.functions
    assert (function.nodes, function.inputs, function.outputs) == (3, 1, 2)


def test_one_thing_given_twice(tmp_path: Path) -> None:
    """A weight that is stored once for two places of one layer, and twice for the other."""
    report = made(tmp_path, """
        net (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}, float[2] u = {5, 6}> {
          a = Mul(x, w)     # layers.0
          b = Add(a, w)     # layers.0
          d = Mul(b, v)     # layers.1
          y = Add(d, u)     # layers.1
        }""")  # fmt: skip
    assert report.functions[0].inputs == 3


def test_something_else_lies_between(tmp_path: Path) -> None:
    """What leaves the call comes back through a node of another module: one node can't do it."""
    text = """
        net (float[N, 2] x) => (float[N, 2] y) {
          a = Neg(x)        # layers.0
          b = Abs(a)        # other
          d = Sub(a, b)     # layers.0
          e = Neg(d)        # layers.1
          f = Sub(e, d)     # layers.1
          g = Neg(f)        # layers.2
          y = Sub(g, f)     # layers.2
        }"""
    report = made(tmp_path, text)
    (left,) = report.left_out
    assert left.path == "layers.0"
    assert left.reason == "a node of other is between its own: what leaves it comes back through 'Abs'"


def test_calls_that_take_turns(tmp_path: Path) -> None:
    """Each of two can be one node, but not both: their nodes take turns."""
    report = made(tmp_path, """
        net (float[N, 2] x) => (float[N, 2] y, float[N, 2] z, float[N, 2] h, float[N, 2] s) <float[2] w = {1, 2}> {
          a = Neg(x)            # layers.0
          p = Abs(x)            # layers.0
          b = Abs(a)            # layers.1
          q = Neg(x)            # layers.1
          y = Sub(p, q)         # layers.0
          z = Sub(b, w)         # layers.1
          f = Neg(y)            # layers.2
          g = Abs(y)            # layers.2
          h = Sub(g, w)         # layers.2
          r = Abs(z)            # layers.3
          s = Sub(r, f)         # layers.3
          t = Neg(z)            # layers.3
        }""")  # fmt: skip
    assert "its nodes take turns" in report.left_out[0].reason
    assert [call.path for call in report.functions[0].calls] == ["layers.1", "layers.2", "layers.3"]


BRANCHES = """
    net (float[N, 2] x, bool c) => (float[N, 2] z) <float[2] w = {1, 2}> {
      v = Neg(x)                     # head
      y = If (c) <                   # net
        then_branch = then () => (float[N, 2] b) {
          a = Mul(v, w)              # layers.0
          a1 = Neg(a)                # layers.0
          a2 = Mul(a1, w)            # layers.1
          b = Neg(a2)                # layers.1
        },
        else_branch = other () => (float[N, 2] g) {
          d = Mul(x, w)              # layers.0
          g = Neg(d)                 # layers.0
        }
      >
      z = Neg(y)                     # net
    }"""


def test_nodes_in_branches(tmp_path: Path) -> None:
    """One function is called in both, and given what is outside of them."""
    report = made(tmp_path, BRANCHES)
    (function,) = report.functions
    assert [(call.path, call.graph) for call in function.calls] == [
        ("layers.0", "1.then_branch"), ("layers.0", "1.else_branch"), ("layers.1", "1.then_branch"),
    ]  # fmt: skip


def test_branches_inside_of_a_function(tmp_path: Path) -> None:
    """What a body reads of what is around it is given to the function, or is inside."""
    layer = """
          {out}0 = Neg({x})                                                     # layers.{n}
          {out} = If (c) <                                                      # layers.{n}
            then_branch = then{n} () => (float[N, 2] p{n}) {{ p{n} = Add({out}0, {w}) }},   # layers.{n}.sub
            else_branch = other{n} () => (float[N, 2] q{n}) {{ q{n} = Sub(x, {out}0) }}     # layers.{n}.sub
          >
    """
    text = (
        "net (float[N, 2] x, bool c) => (float[N, 2] b) <float[2] w = {1, 2}, float[2] v = {3, 4}> {\n"
        + layer.format(n=0, x="x", out="a", w="w")
        + layer.format(n=1, x="a", out="b", w="v")
        + "}"
    )
    report = made(tmp_path, text)
    (function,) = report.functions
    assert (function.nodes, function.inputs, len(function.calls)) == (4, 4, 2)
    rows = {row.path: row.all_nodes for row in tree(tmp_path / "out.onnx").files[0].rows}
    assert (rows["layers.0.sub"], rows["layers.1.sub"], rows["layers.1"]) == (2, 2, 5)


def test_functions_in_functions(tmp_path: Path) -> None:
    """Of modules inside of each other the outer function calls the inner one; both are in the domain of their class."""
    layer = """
          {out}1 = Neg({x})           # layers.{n}.part
          {out}2 = Abs({out}1)        # layers.{n}.part
          {out} = Sub({out}2, {x})    # layers.{n}
    """
    text = (
        "net (float[N, 2] x) => (float[N, 2] d) {"
        + layer.format(n=0, x="x", out="a")
        + layer.format(n=1, x="a", out="d")
        + "}"
    )
    report = made(tmp_path, text, "Layers", "Part")
    assert [(each.name, each.nodes, len(each.calls)) for each in report.functions] == [
        ("Part", 2, 2),
        ("Layers", 2, 2),
    ]
    assert tags_of(tmp_path / "out.onnx", "out.onnx", inline=True) == tags_of(
        tmp_path / "toy", "model.onnx", inline=False
    )


def test_overloads_stay_where_they_are(tmp_path: Path) -> None:
    """ONNX Runtime does not find them from inside of a function."""
    text = """
        net (float[N, 2] x) => (float[N, 2] y) {
          a = Neg(x)              # layers.0
          b = local.Part(a)       # layers.0
          d = Neg(b)              # layers.1
          e = local.Part(d)       # layers.1
          f = Neg(e)              # other.0
          g = Abs(f)              # other.0
          h = Neg(g)              # other.1
          y = Abs(h)              # other.1
        }
        <domain: "local", opset_import: ["": 18]>
        Part (p) => (q) {
          q = Abs(p)              # layers
        }"""
    source = package(tmp_path / "toy", text, ir_version=10)
    model = onnx.load(source / "model.onnx")
    for part in (model.functions[0], model.graph.node[1], model.graph.node[3]):
        part.overload = "one"
    onnx.save(model, source / "model.onnx")
    report = functions(source / "model.onnx", ["Layers", "Other"], output=tmp_path / "out.onnx")
    assert [each.name for each in report.functions] == ["Other"]
    assert {each.reason for each in report.left_out} == {
        "it calls an overload of local::Part, which ONNX Runtime can't do inside of a function"
    }
    inputs = {"x": np.array([[1.0, -2.0]], np.float32)}
    results = [session(path).run(None, inputs)[0].tolist() for path in (source / "model.onnx", tmp_path / "out.onnx")]
    assert results[0] == results[1]


def test_functions_that_were_there(tmp_path: Path) -> None:
    """Their names are not taken, nodes that call them move, and what is in them stays."""
    text = """
        net (float[N, 2] x) => (float[N, 2] y) {
          a = local.Layers(x)     # layers.0
          b = Neg(a)              # layers.0
          d = local.Layers(b)     # layers.1
          y = Neg(d)              # layers.1
        }
        <domain: "local", opset_import: ["": 18]>
        Layers (p) => (q) {
          q = Abs(p)              # layers
        }"""
    report = made(tmp_path, text)
    model = onnx.load(tmp_path / "out.onnx")
    assert [(each.domain, each.name) for each in model.functions] == [("local", "Layers"), ("toy", "Layers")]
    assert {each.domain: each.version for each in model.functions[1].opset_import} == {"": 18, "local": 1}
    assert report.functions[0].nodes == 2


def test_old_formats_are_raised(tmp_path: Path) -> None:
    """Functions are there since version 8 of the format; opsets stay."""
    made(tmp_path, ATTRIBUTES, opset=12, ir_version=6)
    model = onnx.load(tmp_path / "out.onnx")
    assert model.ir_version == 8
    assert {each.domain: each.version for each in model.opset_import} == {"": 12, "local": 1, "toy": 1}


def test_what_is_made_once_for_all_layers_stays_outside(tmp_path: Path) -> None:
    """The first layer makes what all of them use, of nothing but what the model is given: the layers are alike all the same."""
    report = made(tmp_path, """
        net (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}> {
          s = Abs(x)        # layers.0
          a = Mul(x, w)     # layers.0
          b = Add(a, s)     # layers.0
          d = Mul(b, w)     # layers.1
          y = Add(d, s)     # layers.1
        }""")  # fmt: skip
    assert report.functions[0].nodes == 2 and not report.left_out


def test_calls_of_one_module(tmp_path: Path) -> None:
    """Patterns select calls, too."""
    text = """
        net (float[N, 2] x) => (float[N, 2] y) {
          a = Neg(x)        # layer@0
          b = Abs(a)        # layer@0
          d = Neg(b)        # layer@1
          e = Abs(d)        # layer@1
          f = Neg(e)        # layer@2
          y = Abs(f)        # layer@2
        }"""
    report = made(tmp_path, text, "Layer@0-1")
    assert [call.node for call in report.functions[0].calls] == ["layer@0", "layer@1"]


# --- What the other verbs make of it ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A package and what `functions` made of it."""
    directory = tmp_path_factory.mktemp("functions")
    source = layered_package(directory / "toy")
    functions(source, output=directory / "out")
    return source, directory / "out"


def test_blocks_read_well(toys: tuple[Path, Path]) -> None:
    """Names are those of the modules; in the function they say where in it they are."""
    model = onnx.load(toys[1] / "model.onnx")
    (function,) = model.functions
    assert (function.domain, function.name, function.doc_string) == (
        "toy",
        "Block",
        "Block: layers.0, layers.1, layers.2",
    )
    assert [(node.name, node.op_type, node.domain) for node in model.graph.node] == [
        (f"layers.{layer}", "Block", "toy") for layer in range(3)
    ]
    assert list(function.input) == ["input", "linear.weight", "linear.bias"]
    assert [node.name for node in function.node] == ["linear/MatMul", "linear/Add", "act/Relu"]
    boxes = [{each.key: each.value for each in node.metadata_props}["namespace"] for node in function.node]
    assert boxes == ["linear: Linear", "linear: Linear", "act: ReLU"]


def test_modules_own_the_nodes_of_their_function(toys: tuple[Path, Path]) -> None:
    source, output = toys
    rows = [{row.path: row.own_nodes for row in tree(each).files[0].rows} for each in toys]
    assert [rows[1][f"layers.{layer}.linear"] for layer in range(3)] == [2, 2, 2]
    assert {path: count for path, count in rows[1].items() if path.count(".") != 1} == {
        path: count for path, count in rows[0].items() if path.count(".") != 1
    }
    file = load_package(output).files["model.onnx"]
    assert file.hierarchy.nodes("layers.1") == [("", 1), ("toy::Block", 0), ("toy::Block", 1), ("toy::Block", 2)]
    (changed,) = diff(output, source).files
    assert not any(module.changed for module in changed.modules) and changed.nodes == (9, 6)
    assert validate(output).ok


def test_what_runs_is_measured_by_module(toys: tuple[Path, Path]) -> None:
    ran = [{each.path: each.kernels for each in profile(toy, runs=1, warmup=0).phases[0].modules} for toy in toys]
    assert ran[0] == ran[1] and ran[0]["layers.1"]
    (part,) = compare(toys[1], reference=toys[0]).parts
    assert {"layers.0.linear", "layers.2.act"} <= {call.path for call in part.calls if call.tensors and not call.over}


def test_parts_and_tags_of_it(toys: tuple[Path, Path], tmp_path: Path) -> None:
    """A layer is cut out with its function; what is inside of the function is not, and it is said what to do."""
    extract(toys[1], "layers.1", output=tmp_path / "part")
    assert len(onnx.load(tmp_path / "part" / "model.onnx").functions) == 1
    with pytest.raises(PackageError, match=r"in the function 'toy::Block'.*extract what calls it \(layers.1\)"):
        extract(toys[1], "layers.1.linear", output=tmp_path / "other")
    shutil.copytree(toys[1], tmp_path / "copy")
    onnx.save(INLINE(onnx.load(toys[1] / "model.onnx")), tmp_path / "copy" / "model.onnx")
    project(tmp_path / "copy")
    again, before = (
        {row.path: row.own_nodes for row in tree(each).files[0].rows} for each in (tmp_path / "copy", toys[0])
    )
    assert again == before
    shutil.copytree(toys[1], tmp_path / "lost")
    model = onnx.load(toys[1] / "model.onnx")
    for node in (*model.graph.node, *model.functions[0].node):
        del node.metadata_props[:]
    onnx.save(model, tmp_path / "lost" / "model.onnx")
    (tmp_path / "lost" / "export_metadata.json").unlink()
    project(tmp_path / "lost")
    found, before = (load_package(each).files["model.onnx"].tags for each in (tmp_path / "lost", toys[1]))
    assert found == before
    shutil.copytree(toys[1], tmp_path / "stripped")
    strip(tmp_path / "stripped")
    model = onnx.load(tmp_path / "stripped" / "model.onnx")
    assert len(model.functions) == 1 and not model.metadata_props
    assert not any(node.metadata_props for node in (*model.graph.node, *model.functions[0].node))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Blokc"], "did you mean 'Block'"),
        (["Net"], "no other Net runs"),
        (["ReLU"], "it is one node already"),
        (["--depth", "9"], "has 9 modules above it"),
        (["--depth", "-1"], "give 1 or more"),
        (["--file", "other.onnx"], "no file of it is called 'other.onnx'"),
        (["-o", "toy"], "only read"),
        (["-o", "toy/in"], "inside the package"),
    ],
)
def test_what_can_not_be_done_is_said(
    arguments: list[str], said: str, toys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(toys[0].parent)
    before = sorted(toys[0].parent.rglob("*"))
    output = [] if "-o" in arguments else ["-o", str(tmp_path / "new")]
    assert main(["functions", "toy", *arguments, *output]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(toys[0].parent.rglob("*")) == before and not (tmp_path / "new").exists()
