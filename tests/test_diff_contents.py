"""The verb `diff`: what nodes say besides their connections, where a package has the same nodes as another."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_diff import toy_package

from optimum_htp import Change, HtpOptions, PackageError, diff
from optimum_htp.cli.main import main
from optimum_htp.errors import OnnxFileError
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.attribute_values import named_attribute
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.stored_values import Content, tensor_content
from optimum_htp.onnxfile.wire import encode_varint
from optimum_htp.package.node_metadata import write_tags
from optimum_htp.tagging.graph import TaggedGraph

TREE = ModuleTree(
    [ModuleInfo((), "Net", "toy.Net", calls=1), *(
        ModuleInfo(tuple(path.split(".")), name, f"toy.{name}", calls=1)
        for path, name in [("norm", "LayerNorm"), ("attention", "Attention"), ("attention.query", "Linear"),
                           ("attention.key", "Linear"), ("branch", "Branch")]
    )]
)  # fmt: skip

# Each node, and below whose module it is.
MODEL = """
<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
net (float[batch, 4] x, bool choice) => (float[batch, 4] y)
<float[4] "norm.weight" = {1, 1, 1, 1}, float[4] "norm.bias" = {0, 0, 0, 0},
 float[4] "attention.query.bias" = {1, 2, 3, 4}, float[4] "attention.key.bias" = {4, 3, 2, 1},
 float scale = {8.0}, int64[2] shape = {-1, 4}>
{
  normed = LayerNormalization <axis = -1, epsilon = 1e-12> (x, "norm.weight", "norm.bias")
  turned = Transpose <perm = [1, 0]> (normed)
  back = Transpose <perm = [0, 1]> (turned)
  flat = Reshape (back, shape)
  query = Add (flat, "attention.query.bias")
  key = Add (flat, "attention.key.bias")
  half = Constant <value = float {0.5}> ()
  mixed = Mul (query, half)
  scaled = Div (mixed, scale)
  called = local.Twice <by = 2.0> (scaled)
  soft = Softmax (called)
  y = If (choice) <
    then_branch = one () => (float[batch, 4] a) { a = Elu <alpha = 1.5> (soft) },
    else_branch = two () => (float[batch, 4] b) <float[2] hidden = {1, 2}> { t = Sum (soft, key)  b = Div (t, hidden) }
  >
}
<domain: "local", opset_import: ["" : 18]>
Twice <by> (x) => (y) { f = Constant <value_float: float = @by> () y = Mul (x, f) }
"""
OWNERS = "norm attention attention attention attention.query attention.key attention attention attention attention attention branch".split()


def package(directory: Path, text: str = MODEL, change: Callable[[Any], None] = lambda _: None) -> Path:
    """The model, tagged; `change` has it before it is written."""
    import onnx

    model = onnx.parser.parse_model(text)
    change(model)
    directory.mkdir(parents=True)
    path = directory / "model.onnx"
    onnx.save(model, path)
    read = read_model(path)
    # Nodes of bodies and functions belong to the branch.
    tags = {
        key: NodeTag(TREE.tag(tuple((OWNERS[key[1]] if not key[0] else "branch").split("."))), "scope")
        for key, _ in read.nodes()
    }
    write_tags(TaggedGraph(read, tags, Roots([Root(TREE)])), options=HtpOptions())
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("base") / "A")


# What is changed in the text, in which module that is seen, and as what.
CHANGES = {
    "float": ("epsilon = 1e-12", "epsilon = 0.1", "norm", "attribute", "epsilon", "1e-12", "0.1"),
    "ints": ("perm = [0, 1]", "perm = [1, 0]", "attention", "attribute", "perm", "[0, 1]", "[1, 0]"),
    "constant node": ("float {0.5}", "float {0.25}", "attention", "attribute", "value", "0.5", "0.25"),
    "other type": ("float {0.5}", "double {0.5}", "attention", "attribute", "value", "float32 0.5", "float64 0.5"),
    "not given": ("Softmax (", "Softmax <axis = 0> (", "attention", "attribute", "axis", None, "0"),
    "taken away": ("<axis = -1, epsilon = 1e-12>", "<axis = -1>", "norm", "attribute", "epsilon", "1e-12", None),
    "scalar": ("scale = {8.0}", "scale = {4.0}", "attention", "constant", "input 1", "8.0", "4.0"),
    "shape": ("shape = {-1, 4}", "shape = {4, -1}", "attention", "constant", "input 1", "[-1, 4]", "[4, -1]"),
    "size": ("float scale = {8.0}", "float[1] scale = {8.0}", "attention", "constant", "input 1", "float32 8.0", "float32[1] 8.0"),
    "in a body": ("alpha = 1.5", "alpha = 2.5", "branch", "attribute", "alpha", "1.5", "2.5"),
    "stored in a body": ("hidden = {1, 2}", "hidden = {1, 3}", "branch", "constant", "input 1", "[1.0, 2.0]", "[1.0, 3.0]"),
    "of a function": ("by = 2.0", "by = 3.0", "attention", "attribute", "by", "2.0", "3.0"),
    "in a function": ("= @by", "= 2.5", "branch", "attribute", "value_float", "attribute the function's 'by'", "float 2.5"),
    "swapped": (
        'query = Add (flat, "attention.query.bias")', 'query = Add (flat, "attention.key.bias")',
        "attention.query", "weight", "input 1", "attention.query.bias", "attention.key.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_told_by_its_module(case: str, base: Path, tmp_path: Path) -> None:
    """It and nothing else, both ways."""
    old, new, module, *expected = CHANGES[case]
    changed = package(tmp_path / "B", MODEL.replace(old, new))
    (file,) = diff(changed, base).files
    assert file.same_wiring
    assert [each.path for each in file.changed_modules] == [module]
    (found,) = file.changed_modules[0].contents
    assert [found.kind, found.name, found.before, found.after] == expected
    assert found.nodes == 1
    (back,) = diff(base, changed).files[0].changed_modules[0].contents
    assert (back.before, back.after) == (found.after, found.before)


def test_weights(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their values count on request; without, the last line says that they were not looked at."""
    changed = package(tmp_path / "B", MODEL.replace('query.bias" = {1, 2', 'query.bias" = {1, 5'))
    assert main(["diff", str(base), str(changed), "--exit-code"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("not compared: the values of 4 weights (--weights compares them), names, descriptions, metadata")
    )
    assert main(["diff", str(base), str(changed), "--exit-code", "--weights"]) == 1
    out = capsys.readouterr().out
    assert "attention.query  Linear       1      1          other values in attention.query.bias" in out
    assert "the values of 4 weights; not compared: names, descriptions, metadata" in out.splitlines()[-1]
    assert main(["diff", str(base), str(changed), "--weights", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["weights_compared"]
    assert document["files"][0]["compared"] == {
        "nodes": 17, "alone": {"before": 0, "after": 0}, "constants": 3, "weights": 4, "types_only": 0,
    }  # fmt: skip
    assert document["files"][0]["modules"][0]["contents"] == [
        {
            "kind": "weight_values", "operator": "Add", "name": "input 1", "before": "[1.0, 2.0, 3.0, 4.0]",
            "after": "[1.0, 5.0, 3.0, 4.0]", "tensors": ["attention.query.bias"], "nodes": 1,
        }
    ]  # fmt: skip


def test_what_is_no_change(base: Path, tmp_path: Path) -> None:
    """Other names, descriptions, metadata and orders, defaults that are written down, and other ways to store a tensor."""
    import onnx
    from onnx import numpy_helper

    def renamed(model: Any) -> None:
        stored = list(model.graph.initializer)
        for tensor in stored:
            tensor.doc_string = "made by hand"
            if tensor.name != "shape":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))  # as raw data
        names = {tensor.name: f"stored_{index}" for index, tensor in enumerate(stored)}
        del model.graph.initializer[:]
        model.graph.initializer.extend(reversed(stored))
        for tensor in model.graph.initializer:
            tensor.name = names[tensor.name]
        for index, node in enumerate(model.graph.node):
            node.name = f"other/{index}"
            node.doc_string = "here"
            node.input[:] = [names.get(name, name) for name in node.input]
            attributes = sorted(node.attribute, key=lambda each: each.name, reverse=True)
            del node.attribute[:]
            node.attribute.extend(attributes)
        soft = next(node for node in model.graph.node if node.op_type == "Softmax")
        soft.attribute.append(onnx.helper.make_attribute("axis", -1))
        constant = next(node for node in model.graph.node if node.op_type == "Constant")
        constant.attribute[0].t.name = "half"
        model.producer_version = "9"
        model.doc_string = "again"
        model.graph.name = "other"

    other = package(tmp_path / "B", change=renamed)
    report = diff(other, base, weights=True)
    assert not report.changed
    assert report.files[0].compared.weights == 4


def test_external_data(base: Path, tmp_path: Path) -> None:
    """It is read where it lies; without it, what can be known is compared, and the rest is counted."""
    import onnx

    external = package(tmp_path / "B")
    model = onnx.load(external / "model.onnx")
    for tensor in [*model.graph.initializer, model.graph.node[6].attribute[0].t]:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(
        model, external / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert not diff(external, base, weights=True).changed
    data = bytearray((external / "model.onnx_data").read_bytes())
    weight = next(each for each in read_model(external / "model.onnx").graph.initializers if each.name == "norm.bias")
    data[weight.offset] ^= 1
    (external / "model.onnx_data").write_bytes(data)
    assert not diff(external, base).changed
    assert [each.path for each in diff(external, base, weights=True).files[0].changed_modules] == ["norm"]
    (external / "model.onnx_data").unlink()
    (file,) = diff(external, base).files
    assert file.compared.types_only == 4 + 3  # the constants too
    with pytest.raises(PackageError, match=r"model.onnx_data.*get the whole package"):
        diff(external, base, weights=True)


def test_functions(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What one declares is a change of the file, and the order of several is none."""

    def later(model: Any) -> None:
        model.functions[0].opset_import[0].version = 19

    changed = package(tmp_path / "B", change=later)
    assert main(["diff", str(base), str(changed), "--exit-code"]) == 1
    assert "function local::Twice: opset ai.onnx: 18 -> 19\n" in capsys.readouterr().out

    second = '\n<domain: "local", opset_import: ["" : 18]>\nOnce (x) => (y) { y = Neg (x) }\n'

    def turned(model: Any) -> None:
        functions = list(model.functions)
        del model.functions[:]
        model.functions.extend(reversed(functions))

    packages = package(tmp_path / "C", MODEL + second), package(tmp_path / "D", MODEL + second, turned)
    assert not diff(*packages).changed
    (file,) = diff(packages[0], base).files
    assert file.functions[0] == Change("function local::Once", None, "there")


def test_values_that_are_no_tensors(base: Path, tmp_path: Path) -> None:
    """Their types are told in words."""

    def listed(element: str) -> Path:
        text = MODEL.replace("bool choice)", f"bool choice, seq({element}[n]) more, optional(int64[n]) maybe)")
        return package(tmp_path / element, text)

    (file,) = diff(listed("float"), listed("double")).files
    assert file.values == (Change("input more", "seq(tensor(float64))", "seq(tensor(float32))"),)
    (file,) = diff(listed("int64"), base).files
    assert Change("input maybe", None, "optional(tensor(int64))") in file.values


def test_what_a_graph_returns(tmp_path: Path) -> None:
    """A stored tensor that a branch returns is read by no node."""
    text = MODEL.replace("{ a = Elu <alpha = 1.5> (soft) }", "<float[1] a = {1}> { }")
    one, other = package(tmp_path / "A", text), package(tmp_path / "B", text.replace("a = {1}", "a = {2}"))
    (module,) = diff(other, one).files[0].changed_modules
    assert (module.path, module.contents[0].name, module.contents[0].after) == ("branch", "output 0", "2.0")


def test_nodes_in_another_order(base: Path, tmp_path: Path) -> None:
    """Where graphs are connected differently, nodes that say the same are each other's, and the others in order."""
    lines = MODEL.splitlines(keepends=True)
    at = next(index for index, line in enumerate(lines) if line.startswith("  query = Add"))
    moved = "".join([*lines[:at], "  more = Identity (flat)\n", *lines[at:]]).replace(
        "epsilon = 1e-12", "epsilon = 0.5"
    )
    OWNERS.insert(4, "attention")
    try:
        other = package(tmp_path / "B", moved)
    finally:
        del OWNERS[4]
    (file,) = diff(other, base).files
    assert not file.same_wiring
    assert (file.compared.nodes, file.compared.alone) == (17, (0, 1))
    assert {each.path: [(one.name, one.after) for one in each.contents] for each in file.changed_modules} == {
        "norm": [("epsilon", "0.5")],
        "attention": [],
    }


def test_layers_with_the_same_change_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the weights that have other values are called differently in each."""
    import onnx

    infos = [ModuleInfo(tuple(path.split(".")) if path else (), "Block", "toy.Block", calls=1)
             for path in ("", "layer.0", "layer.1")]  # fmt: skip
    tree = ModuleTree([infos[0], ModuleInfo(("layer",), "List", "List", container=True), *infos[1:]])
    one = toy_package(tmp_path / "A", tree, [("Elu", "layer.0"), ("Elu", "layer.1")])
    other = shutil.copytree(one, tmp_path / "B")
    model = onnx.load(other / "model.onnx")
    for node in model.graph.node:
        node.attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    model.graph.initializer[0].float_data[:] = [0.25] * 100
    onnx.save(model, other / "model.onnx")
    assert main(["diff", str(one), str(other), "--weights"]) == 0
    expected = (
        "layer.0-1 ×2  Block       2      2          Elu alpha: not given -> 0.5 (2 nodes); other values in 2 weights"
    )
    assert expected in capsys.readouterr().out


# --- Real exports -------------------------------------------------------------------------------------------------


def test_a_real_model(exported: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every epsilon, the order of axes, swapped weights and one that was set to zero, each in its module."""
    import onnx

    def changed(name: str, change: Callable[[Any], None]) -> Path:
        directory = shutil.copytree(exported("bert"), tmp_path / name)
        model = onnx.load(directory / "model.onnx")
        change(model)
        onnx.save(model, directory / "model.onnx")
        return directory

    def epsilons(model: Any) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = 1e-5

    def swapped(model: Any) -> None:
        nodes = {node.name: node for node in model.graph.node}
        query, key = (nodes[f"/bert/encoder/layer.0/attention/self/{name}/MatMul"] for name in ("query", "key"))
        query.input[1], key.input[1] = key.input[1], query.input[1]

    def zeroed(model: Any) -> None:
        weight = next(each for each in model.graph.initializer if each.name.startswith("onnx::MatMul"))
        weight.raw_data = bytes(len(weight.raw_data))

    package = changed("epsilons", epsilons)
    found = {each.path: each.contents for each in diff(package, exported("bert")).files[0].changed_modules}
    assert set(map(len, found.values())) == {1}
    assert {
        (path.rpartition(".")[2], each.name, each.before, each.after) for path, (each,) in found.items() if path
    } == {("LayerNorm", "epsilon", "1e-12", "1e-5")}
    capsys.readouterr()
    assert main(["diff", str(exported("bert")), str(package)]) == 0
    assert "LayerNormalization epsilon: 1e-12 -> 1e-5" in capsys.readouterr().out
    query, key = (f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "key"))
    package = changed("swapped", swapped)
    for weights in (False, True):
        (file,) = diff(package, exported("bert"), weights=weights).files
        assert [each.path for each in file.changed_modules] == [query, key]
    package = changed("zeroed", zeroed)
    assert not diff(package, exported("bert")).changed
    (module,) = diff(package, exported("bert"), weights=True).files[0].changed_modules
    assert module.path == query


# --- Tensors and attributes ---------------------------------------------------------------------------------------


def no_file(*_: object) -> list[bytes]:
    raise AssertionError("nothing of it is outside")


def content(tensor: Any) -> Content:
    encoded = tensor.SerializeToString()
    return tensor_content(encoded, (0, len(encoded)), no_file)


@pytest.mark.parametrize("number", range(1, 24))
def test_a_tensor_is_the_same_however_it_is_stored(number: int) -> None:
    """As raw data, and in the field of its type: with all numbers in one, and with each by itself."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if number == TensorProto.STRING:
        made = helper.make_tensor("t", number, (3,), [b"a", b"", b"bc"])
        assert content(made) != content(helper.make_tensor("t", number, (3,), [b"a", b"b", b"c"]))
        return
    values = np.array([0, 1, 1, 0, 1, 0], dtype=helper.tensor_dtype_to_np_dtype(number)).reshape(2, 3)
    raw = numpy_helper.from_array(values, "raw")
    typed = helper.make_tensor("typed", number, (2, 3), values)
    assert raw.HasField("raw_data")
    assert not typed.HasField("raw_data")
    assert content(raw) == content(typed)
    # Protobuf writes one field for each number of some lists, or one for all: the other way is as good.
    encoded = onnx.TensorProto.FromString(typed.SerializeToString())
    name = next(field.name for field, _ in typed.ListFields() if field.name.endswith("_data"))
    numbers = list(getattr(encoded, name))
    encoded.ClearField(name)
    field = typed.DESCRIPTOR.fields_by_name[name].number
    letter = {"float_data": "f", "double_data": "d"}.get(name)
    if letter:
        parts = [struct.pack(f"<{letter}", each) for each in numbers]
        single = b"".join(bytes([field << 3 | (5 if letter == "f" else 1)]) + part for part in parts)
    else:
        parts = [encode_varint(each) for each in numbers]
        single = b"".join(bytes([field << 3]) + part for part in parts)
    packed = bytes([field << 3 | 2, len(b"".join(parts))]) + b"".join(parts)
    head = encoded.SerializeToString()
    for stored in (head + single, head + packed):
        assert tensor_content(stored, (0, len(stored)), no_file) == content(raw)


@pytest.mark.parametrize("value", [1e-12, 1e-5, 0.1, 1 / 3, -3.4028235e38, 1e-45, 65504.0, 8.0, 1e20, float("inf")])
def test_numbers_are_spelled_so_that_they_are_read_back(value: float) -> None:
    """In their own precision, without the digits that it does not have."""
    import numpy as np
    from onnx import numpy_helper

    for dtype in (np.float32, np.float64, np.float16):
        with np.errstate(over="ignore", under="ignore"):
            number = np.array(value, dtype=dtype)
        text = content(numpy_helper.from_array(number)).text
        assert dtype(text) == number
        assert len(text) <= len(repr(float(number)))


def test_attributes() -> None:
    """Each kind, and what a writer may leave out."""
    import onnx
    from onnx import helper

    def said(attribute: Any) -> Content | None:
        encoded = attribute.SerializeToString()
        return named_attribute(encoded, (0, len(encoded)), no_file)[1]

    texts = {
        "float": (1e-12, "1e-12"), "int": (-3, "-3"), "string": ("tanh", "'tanh'"), "ints": ([1, -2], "[1, -2]"),
        "floats": ([0.5, 1.0], "[0.5, 1.0]"), "strings": (["a", "b"], "['a', 'b']"),
    }  # fmt: skip
    for kind, (value, text) in texts.items():
        made = said(helper.make_attribute("name", value))
        assert made is not None
        assert (made.type, made.text) == (kind, text)
        assert made == said(helper.make_attribute("another", value, doc_string="about"))
    zero = onnx.AttributeProto(name="axis", type=onnx.AttributeProto.INT)
    assert said(zero) == said(helper.make_attribute("axis", 0))
    unpacked = helper.make_attribute("ints", [1, 2]).SerializeToString()
    packed = onnx.AttributeProto(name="ints", type=onnx.AttributeProto.INTS).SerializeToString() + b"\x42\x02\x01\x02"
    assert named_attribute(packed, (0, len(packed)), no_file) == named_attribute(unpacked, (0, len(unpacked)), no_file)
    long = [said(helper.make_attribute("ints", [*range(99), last])) for last in (1, 2)]
    assert long[0] != long[1]
    assert long[0] is not None
    assert long[0].text.startswith("[0, 1, 2, …] (100, sha256 ")
    assert said(helper.make_attribute("body", helper.make_graph([], "g", [], []))) is None


def test_a_damaged_attribute_is_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the file that has it, whichever of the two."""
    damaged = shutil.copytree(base, tmp_path / "B")
    content = (damaged / "model.onnx").read_bytes()
    at = content.index(b"\x0a\x04perm")
    broken = content[:at] + b"\x0a\x04perm\x42\x01\xff"  # an integer that does not end
    length = content[at - 1]
    rest = content[at + length :]
    spare = length - 9
    (damaged / "model.onnx").write_bytes(broken + b"\x6a" + bytes([spare - 2]) + b"x" * (spare - 2) + rest)
    for pair in ((damaged, base), (base, damaged)):
        with pytest.raises(OnnxFileError, match=r"B/model\.onnx"):
            diff(*pair)
    assert main(["diff", str(base), str(damaged)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
