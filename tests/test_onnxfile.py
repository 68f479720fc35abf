"""Reading and rewriting ONNX files, against the `onnx` package's own answers."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from optimum_htp import onnxfile
from optimum_htp.errors import HtpError, ModelTooLargeError, OnnxFileError
from optimum_htp.onnxfile import rewriting, wire
from optimum_htp.onnxfile.digest import graph_digest
from optimum_htp.onnxfile.model import external_data_files, node_id
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.rewriting import rewrite_metadata
from optimum_htp.onnxfile.types import element_type

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def ours(key: str) -> bool:
    return key.startswith("pkg.optimum_htp.")


def graph_of(name, nodes, inputs=(), outputs=(), initializers=()):
    """A graph whose values are float vectors of size 2."""
    return helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(x, FLOAT, [2]) for x in inputs],
        [helper.make_tensor_value_info(x, FLOAT, [2]) for x in outputs],
        list(initializers),
    )


def loop_body():
    """A Loop body that adds `x` of the outer graph to what it carries."""
    carried = [helper.make_tensor_value_info(n, FLOAT, [2]) for n in ("v_in", "v_out")]
    conditions = [helper.make_tensor_value_info(n, BOOL, []) for n in ("c_in", "c_out")]
    step = helper.make_tensor_value_info("i", INT64, [])
    nodes = [helper.make_node("Identity", ["c_in"], ["c_out"]), helper.make_node("Add", ["v_in", "x"], ["v_out"])]
    return helper.make_graph(nodes, "loop", [step, conditions[0], carried[0]], [conditions[1], carried[1]])


def make_model() -> onnx.ModelProto:
    """A model that runs: an If with a Loop inside, a function, inline weights, metadata that is not ours."""
    limit = helper.make_tensor("limit", INT64, [], [3])
    true = helper.make_tensor("true", BOOL, [], [True])
    then = graph_of(
        "then",
        [
            helper.make_node("Constant", [], ["limit"], value=limit),
            helper.make_node("Constant", [], ["true"], value=true),
            helper.make_node("Loop", ["limit", "true", "w"], ["then_out"], "looping", body=loop_body()),
        ],
        outputs=["then_out"],
    )
    other = graph_of("else", [helper.make_node("Relu", ["x"], ["else_out"])], outputs=["else_out"])
    nodes = [
        helper.make_node("Cast", ["flag"], ["cond"], "/cast", to=BOOL),
        helper.make_node("If", ["cond"], ["chosen"], "/if", then_branch=then, else_branch=other),
        helper.make_node("Twice", ["chosen"], ["doubled"], "/twice", domain="local"),
        helper.make_node("Clip", ["doubled", "", "high"], ["y"]),
    ]
    nodes[0].metadata_props.add(key="namespace", value=": not ours")
    nodes[0].doc_string = "dokumentace: česky"
    graph = graph_of(
        "main",
        nodes,
        inputs=["x"],
        outputs=["y"],
        initializers=[
            helper.make_tensor("w", FLOAT, [2], [1.0, 2.0]),
            helper.make_tensor("high", FLOAT, [], [9.0]),
        ],
    )
    graph.input.append(helper.make_tensor_value_info("flag", INT64, []))
    twice = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
        functions=[twice],
        ir_version=10,
        producer_name="maker",
        producer_version="1.2",
    )
    helper.set_model_props(model, {"author": "somebody"})
    return model


def make_odd_model() -> onnx.ModelProto:
    """A model with what is rare: lists of graphs, unknown fields, sparse and external tensors, an overload."""
    model = make_model()
    graph = model.graph
    many = helper.make_node("Switch", ["x"], ["switched"], domain="local")
    many.attribute.append(
        helper.make_attribute(
            "cases",
            [graph_of(f"case{i}", [helper.make_node("Relu", ["x"], [f"c{i}"])], outputs=[f"c{i}"]) for i in range(2)],
        )
    )
    graph.node.append(many)
    external = helper.make_tensor("outside", FLOAT, [2, 3], bytes(24), raw=True)
    onnx.external_data_helper.set_external_data(external, "weights.bin", 64, 24)
    external.ClearField("raw_data")
    graph.initializer.append(external)
    constant = onnx.TensorProto.FromString(external.SerializeToString())
    constant.external_data[0].value = "constants.bin"
    graph.node.append(helper.make_node("Constant", [], ["k"], value=constant))
    indices = onnx.TensorProto.FromString(external.SerializeToString())
    indices.external_data[0].value = "indices.bin"
    values = helper.make_tensor("sparse_w", FLOAT, [1], [5.0])
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10, 20]))
    symbolic = helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT16, ["batch", None, 7])
    sequence = helper.make_tensor_sequence_value_info("q", FLOAT, None)
    graph.input.extend([symbolic, sequence, onnx.ValueInfoProto(name="bare")])
    model.functions[0].overload = "v2"
    model.functions[0].node.append(helper.make_node("If", ["c"], ["z"], then_branch=loop_body()))
    return model


def save(model: onnx.ModelProto, directory: Path, unknown: bytes = b"") -> Path:
    path = directory / "model.onnx"
    path.write_bytes(model.SerializeToString() + unknown)
    return path


@pytest.fixture
def model_path(tmp_path):
    return save(make_model(), tmp_path)


@pytest.fixture
def odd_path(tmp_path):
    # Field 900 with three bytes, and field 901 with eight: no protobuf schema of ONNX has them.
    return save(make_odd_model(), tmp_path, b"\xa2\x38\x03abc" + b"\xa9\x38" + bytes(8))


def entries_for(model: onnxfile.OnnxModel) -> dict[tuple[str, int], dict[str, str]]:
    """An entry of ours for every node of every graph, that says which node it is."""
    return {
        (path, position): {"pkg.optimum_htp.tag": f"{path}|{position}|ž", "pkg.optimum_htp.call": "0"}
        for path, graph in model.graphs()
        for position, _ in enumerate(graph.nodes)
    }


def assert_same_nodes(graph: onnxfile.Graph, expected) -> None:
    """The nodes equal those that onnx reads, bodies included."""
    assert len(graph.nodes) == len(expected)
    for node, proto in zip(graph.nodes, expected, strict=True):
        assert (node.name, node.op_type, node.domain) == (proto.name, proto.op_type, proto.domain)
        assert (node.inputs, node.outputs) == (tuple(proto.input), tuple(proto.output))
        assert node.metadata == {p.key: p.value for p in proto.metadata_props}
        bodies = []
        for attribute in proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                bodies.append((attribute.name, attribute.g))
            bodies.extend((f"{attribute.name}[{i}]", g) for i, g in enumerate(attribute.graphs))
        assert [name for name, _ in node.bodies] == [name for name, _ in bodies]
        for (_, body), (_, proto_body) in zip(node.bodies, bodies, strict=True):
            assert body.name == proto_body.name
            assert_same_nodes(body, proto_body.node)
            assert [v.name for v in body.inputs] == [v.name for v in proto_body.input]


class TestRead:
    def test_nodes_equal_those_that_onnx_reads(self, odd_path):
        """Names, operators, metadata and bodies of every node, functions too."""
        model, proto = read_model(odd_path), onnx.load(odd_path, load_external_data=False)
        assert_same_nodes(model.graph, proto.graph.node)
        assert_same_nodes(model.functions[0].graph, proto.functions[0].node)

    def test_model_fields(self, model_path):
        """What stands beside the graph."""
        model = read_model(model_path)
        assert (model.path, model.ir_version) == (model_path, 10)
        assert model.opset_imports == {"": 17, "local": 1}
        assert (model.producer_name, model.producer_version) == ("maker", "1.2")
        assert model.metadata == {"author": "somebody"}
        assert model.graph.name == "main"

    def test_values(self, odd_path):
        """Sizes, symbols and unknown dimensions; what is no tensor has no shape; a scalar has an empty one."""
        values = {v.name: (v.elem_type, v.shape) for v in read_model(odd_path).graph.inputs}
        assert values == {
            "x": (FLOAT, (2,)),
            "flag": (INT64, ()),
            "s": (TensorProto.FLOAT16, ("batch", None, 7)),
            "q": (0, None),
            "bare": (0, None),
        }

    def test_initializers(self, odd_path):
        """Inline, external and sparse ones, without their contents."""
        initializers = read_model(odd_path).graph.initializers
        assert initializers == (
            onnxfile.Initializer("w", FLOAT, (2,)),
            onnxfile.Initializer("high", FLOAT),
            onnxfile.Initializer("outside", FLOAT, (2, 3), "weights.bin", 64, 24),
            onnxfile.Initializer("sparse_w", FLOAT, (10, 20)),
        )

    def test_function(self, odd_path):
        """A function's identity, and its inputs and outputs by name."""
        (function,) = read_model(odd_path).functions
        assert (function.domain, function.name, function.overload) == ("local", "Twice", "v2")
        assert function.graph.inputs == (onnxfile.Value("a"),)
        assert function.graph.outputs == (onnxfile.Value("b"),)

    def test_graph_paths(self, odd_path):
        """Depth first, a parent before its bodies, functions last."""
        assert [path for path, _ in read_model(odd_path).graphs()] == [
            "",
            "1.else_branch",
            "1.then_branch",
            "1.then_branch/2.body",
            "4.cases[0]",
            "4.cases[1]",
            "local::Twice:v2",
            "local::Twice:v2/1.then_branch",
        ]

    def test_external_data_files(self, odd_path):
        """Initializers, constants and sparse indices, without opening any of the files."""
        assert external_data_files(read_model(odd_path)) == {"weights.bin", "constants.bin", "indices.bin"}

    def test_external_data_as_optimum_saves_it(self, tmp_path):
        """With `convert_attribute=True`, attributes of bodies and functions are external too."""
        path = tmp_path / "model.onnx"
        model = make_model()
        model.functions[0].node.append(
            helper.make_node("Constant", [], ["k"], value=helper.make_tensor("k", FLOAT, [2], bytes(8), raw=True))
        )
        body = model.graph.node[1].attribute[0].g
        assert body.name in ("then", "else")
        body.initializer.append(helper.make_tensor("wide", FLOAT, [2], bytes(8), raw=True))
        onnx.save(
            model, path, save_as_external_data=True, location="all.data", size_threshold=0, convert_attribute=True
        )
        expected = {
            entry.value
            for graph in (onnx.load(path, load_external_data=False).graph,)
            for tensor in onnx.external_data_helper._get_all_tensors(onnx.load(path, load_external_data=False))
            for entry in tensor.external_data
            if entry.key == "location" and graph is not None
        }
        assert external_data_files(read_model(path)) == expected == {"all.data"}

    def test_dims_packed_and_not(self, tmp_path):
        """Both spellings of a repeated number, negative and large ones too."""
        packed = wire.encode_message(10, b"\x03\x80\x01" + b"\xff" * 9 + b"\x01")
        loose = b"\x08\x05"
        graph = wire.encode_message(42, packed + loose + b"\x42\x01w")
        path = tmp_path / "model.onnx"
        path.write_bytes(wire.encode_message(58, graph))
        assert read_model(path).graph.initializers[0].dims == (3, 128, -1, 5)

    def test_type_in_pieces(self, tmp_path):
        """What a value says of its type twice is put together, and numbers too large are cut, as in protobuf."""
        elem_type = b"\x08" + wire.encode_varint((1 << 40) + TensorProto.INT64)
        dims = [b"\x12\x04\x0a\x02\x08" + bytes([size]) for size in (2, 3)]
        types = [b"\x12" + bytes([len(part) + 2, 10, len(part)]) + part for part in (elem_type + dims[0], dims[1])]
        value = b"\x0a\x01x" + b"".join(types)
        graph = b"\x5a" + bytes([len(value)]) + value
        path = tmp_path / "model.onnx"
        path.write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
        (theirs,) = onnx.load(path).graph.input
        assert theirs.type.tensor_type.elem_type == INT64
        assert [dim.dim_value for dim in theirs.type.tensor_type.shape.dim] == [2, 3]
        (value,) = read_model(path).graph.inputs
        assert (value.elem_type, value.shape) == (INT64, (2, 3))

    def test_repeated_metadata_key(self, tmp_path):
        """The last value of a key counts; a rewrite removes all."""
        model = make_model()
        for value in ("old", "new"):
            model.graph.node[0].metadata_props.add(key="pkg.optimum_htp.tag", value=value)
        path = save(model, tmp_path)
        assert read_model(path).graph.nodes[0].metadata["pkg.optimum_htp.tag"] == "new"
        rewrite_metadata(path, nodes={}, owned=ours, model={})
        assert path.read_bytes() == make_model().SerializeToString()

    def test_node_id(self, model_path):
        """The first output with a name, else the position."""
        nodes = read_model(model_path).graph.nodes
        assert node_id(nodes[1], 1) == "chosen"
        nodes[1].outputs = ("", "second")
        assert node_id(nodes[1], 1) == "second"
        nodes[1].outputs = ("",)
        assert node_id(nodes[1], 1) == "#1"

    def test_weights_are_not_read(self, tmp_path):
        """A gigabyte of weights (a hole in the file) takes no memory."""
        size = 1 << 30
        tensor = b"\x42\x01w\x4a" + wire.encode_varint(size)
        initializer = b"\x2a" + wire.encode_varint(len(tensor) + size) + tensor
        path = tmp_path / "model.onnx"
        path.write_bytes(b"\x3a" + wire.encode_varint(len(initializer) + size) + initializer)
        os.truncate(path, path.stat().st_size + size)
        tracemalloc.start()
        try:
            model = read_model(path)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert [tensor.name for tensor in model.graph.initializers] == ["w"]
        assert peak_bytes < 1 << 20

    def test_imports_nothing_heavy(self):
        """Reading needs neither onnx nor torch nor numpy."""
        code = "import sys, optimum_htp.onnxfile; print(sorted({'onnx', 'torch', 'numpy'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestDigest:
    def test_metadata_and_names_do_not_count(self, odd_path):
        """Tags and node names leave the digest as it is."""
        before = read_model(odd_path)
        rewrite_metadata(odd_path, nodes=entries_for(before), owned=ours, model={"pkg.optimum_htp.a": "b"})
        after = read_model(odd_path)
        after.graph.nodes[0].name = "other"
        assert graph_digest(after) == graph_digest(before)

    @pytest.mark.parametrize("place", ["main", "body", "function"])
    def test_structure_counts(self, odd_path, place):
        """One other input anywhere gives another digest."""
        model = read_model(odd_path)
        before = graph_digest(model)
        node = {
            "main": model.graph.nodes[0],
            "body": dict(model.graphs())["1.then_branch/2.body"].nodes[0],
            "function": model.functions[0].graph.nodes[0],
        }[place]
        node.inputs = (*node.inputs, "more")
        assert graph_digest(model) != before

    def test_borders_between_strings_count(self, model_path):
        """Moving a character, or an input to the outputs, gives another digest."""
        digests = set()
        for inputs, outputs in ((("ab", "c"), ("d",)), (("a", "bc"), ("d",)), (("ab",), ("c", "d"))):
            model = read_model(model_path)
            model.graph.nodes[0].inputs, model.graph.nodes[0].outputs = inputs, outputs
            digests.add(graph_digest(model))
        assert len(digests) == 3


class TestRewrite:
    def test_every_node_gets_its_entry(self, odd_path):
        """Nodes of bodies and functions too; what was there before stays first."""
        entries = entries_for(read_model(odd_path))
        rewrite_metadata(odd_path, nodes=entries, owned=ours, model={"pkg.optimum_htp.skeleton": "s" * 300})
        model = read_model(odd_path)
        assert_same_nodes(model.graph, onnx.load(odd_path, load_external_data=False).graph.node)
        for path, graph in model.graphs():
            for position, node in enumerate(graph.nodes):
                assert {k: v for k, v in node.metadata.items() if ours(k)} == entries[path, position]
        assert model.graph.nodes[0].metadata["namespace"] == ": not ours"
        assert model.metadata == {"author": "somebody", "pkg.optimum_htp.skeleton": "s" * 300}

    def test_only_metadata_differs(self, odd_path):
        """Without our entries, onnx reads the same model, byte for byte."""
        before = onnx.load(odd_path, load_external_data=False)
        rewrite_metadata(
            odd_path, nodes=entries_for(read_model(odd_path)), owned=ours, model={"pkg.optimum_htp.a": ""}
        )
        after = onnx.load(odd_path, load_external_data=False)

        def clean(nodes):
            for node in nodes:
                for entry in [p for p in node.metadata_props if ours(p.key)]:
                    node.metadata_props.remove(entry)
                for attribute in node.attribute:
                    clean(attribute.g.node)
                    for graph in attribute.graphs:
                        clean(graph.node)
                    if attribute.type != onnx.AttributeProto.GRAPH:
                        attribute.ClearField("g")

        for nodes in (after.graph.node, after.functions[0].node):
            clean(nodes)
        del after.metadata_props[-1]
        assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)

    def test_strip_gives_back_the_bytes(self, odd_path):
        """Unknown fields and foreign metadata included."""
        before = odd_path.read_bytes()
        rewrite_metadata(
            odd_path, nodes=entries_for(read_model(odd_path)), owned=ours, model={"pkg.optimum_htp.a": "b"}
        )
        assert odd_path.read_bytes() != before
        rewrite_metadata(odd_path, nodes={}, owned=ours, model={})
        assert odd_path.read_bytes() == before

    def test_twice_is_once(self, odd_path):
        """Writing the same entries again changes nothing."""
        entries = entries_for(read_model(odd_path))
        rewrite_metadata(odd_path, nodes=entries, owned=ours, model={"pkg.optimum_htp.a": "b"})
        once = odd_path.read_bytes()
        rewrite_metadata(odd_path, nodes=entries, owned=ours, model={"pkg.optimum_htp.a": "b"})
        assert odd_path.read_bytes() == once

    def test_nothing_to_do_leaves_the_file_alone(self, model_path):
        """The file is not even written again."""
        before = model_path.stat()
        rewrite_metadata(model_path, nodes={}, owned=ours, model={})
        after = model_path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # reading may change the atime

    def test_long_lengths_stay(self, tmp_path):
        """A length that is not the shortest varint stays as it is where the content does."""
        node = b"\x22\x03Abs"
        graph = b"\x0a\x85\x80\x00" + node + b"\x0a\x05" + node
        path = tmp_path / "model.onnx"
        path.write_bytes(b"\x3a\x90\x00" + graph)
        rewrite_metadata(path, nodes={("", 1): {"a": "b"}}, owned=ours, model={})
        assert b"\x0a\x85\x80\x00" + node in path.read_bytes()
        assert read_model(path).graph.nodes[1].metadata == {"a": "b"}

    @pytest.mark.parametrize("width", [4, 5])
    def test_lengths_of_one_width_stay(self, tmp_path, width):
        """Of a writer that leaves room for any length, stripping gives back every byte, and onnx reads the rest."""

        def field(tag, payload):
            return bytes([tag]) + wire.encode_varint(len(payload), width) + payload

        name = field(0x1A, b"node")
        body = field(0x0A, name)  # a node in a graph
        attribute = field(0x0A, b"then_branch") + field(0x32, body)
        node = name + field(0x2A, attribute)
        content = field(0x3A, field(0x0A, node) + field(0x0A, name))
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        keys = [("", 0), ("", 1), ("0.then_branch", 0)]
        rewrite_metadata(path, nodes={key: {"pkg.optimum_htp.tag": "x" * 300} for key in keys}, owned=ours, model={})
        nodes = onnx.load(path).graph.node
        assert [len(each.metadata_props) for each in (*nodes, nodes[0].attribute[0].g.node[0])] == [1, 1, 1]
        rewrite_metadata(path, nodes={}, owned=ours, model={})
        assert path.read_bytes() == content

    def test_onnx_and_runtime_accept_the_result(self, model_path):
        """The checker passes, and ONNX Runtime computes what it did."""
        onnxruntime = pytest.importorskip("onnxruntime")
        numpy = pytest.importorskip("numpy")

        def run():
            session = onnxruntime.InferenceSession(model_path.read_bytes(), providers=["CPUExecutionProvider"])
            feeds = {"x": numpy.array([1, -1], numpy.float32), "flag": numpy.array(1)}
            return session.run(None, feeds)[0].tolist()

        before = run()
        rewrite_metadata(
            model_path, nodes=entries_for(read_model(model_path)), owned=ours, model={"pkg.optimum_htp.a": ""}
        )
        onnx.checker.check_model(model_path, full_check=True)
        assert run() == before == [8.0, -2.0]

    def test_destination(self, model_path, tmp_path):
        """The source stays; without changes the destination is a copy."""
        before = model_path.read_bytes()
        rewrite_metadata(model_path, nodes={}, owned=ours, model={"a": "b"}, destination=tmp_path / "new.onnx")
        rewrite_metadata(model_path, nodes={}, owned=ours, model={}, destination=tmp_path / "copy.onnx")
        assert model_path.read_bytes() == (tmp_path / "copy.onnx").read_bytes() == before
        assert read_model(tmp_path / "new.onnx").metadata == {"author": "somebody", "a": "b"}

    @pytest.mark.parametrize("key", [("", 99), ("1.other", 0), ("local::Once", 0)])
    def test_unknown_node(self, model_path, key):
        """An entry for a node that is not there is an error, not lost."""
        before = model_path.read_bytes()
        with pytest.raises(OnnxFileError, match=f"no node {key[1]}"):
            rewrite_metadata(model_path, nodes={key: {"a": "b"}}, owned=ours, model={})
        assert model_path.read_bytes() == before

    def test_too_large(self, model_path, monkeypatch):
        """A result over protobuf's limit is refused before anything is written."""
        before = model_path.read_bytes()
        monkeypatch.setattr(rewriting, "MAX_MODEL_BYTES", len(before) + 10)
        monkeypatch.setattr(rewriting, "replacing", None)
        with pytest.raises(ModelTooLargeError, match="external data"):
            rewrite_metadata(model_path, nodes={}, owned=ours, model={"key": "a longer value"})
        assert model_path.read_bytes() == before


def add_weights(path: Path, size_bytes: int) -> None:
    """Makes a model longer than what is copied through memory."""
    model = onnx.load(path)
    content = random.Random(0).randbytes(size_bytes)
    model.graph.initializer.append(helper.make_tensor("big", TensorProto.UINT8, [size_bytes], content, raw=True))
    path.write_bytes(model.SerializeToString())


def fail(error: BaseException):
    def failing(*_args, **_kwargs):
        raise error

    return failing


class TestWriting:
    @pytest.mark.parametrize("function", ["replace", "fchmod", "write"])
    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), RuntimeError("x")])
    def test_failure_leaves_the_old_file(self, model_path, monkeypatch, function, error):
        """Whatever fails, the file stands and no other is left; a full disk is said in one line."""
        if not hasattr(os, function):
            pytest.skip(f"no os.{function} here")
        add_weights(model_path, 1 << 18)
        before = model_path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail(error))
            with pytest.raises(HtpError if isinstance(error, OSError) else type(error)) as raised:
                rewrite_metadata(model_path, nodes={}, owned=ours, model={"a": "b"})
        assert model_path.read_bytes() == before
        assert [p.name for p in model_path.parent.iterdir()] == [model_path.name]
        if isinstance(error, OSError):
            assert str(model_path) in str(raised.value)
            assert "free " in str(raised.value) and "\n" not in str(raised.value)

    def test_no_permission(self, model_path, monkeypatch):
        """The error says what to do."""
        monkeypatch.setattr(os, "replace", fail(PermissionError(errno.EACCES, "Permission denied")))
        with pytest.raises(HtpError, match="fix its permissions and those of its directory"):
            rewrite_metadata(model_path, nodes={}, owned=ours, model={"a": "b"})

    def test_short_writes(self, model_path, monkeypatch):
        """A system that writes only a part at a time loses nothing."""
        add_weights(model_path, 1 << 18)
        before = model_path.read_bytes()
        real = os.write
        monkeypatch.setattr(os, "write", lambda target, content: real(target, content[:1000]))
        rewrite_metadata(model_path, nodes={}, owned=ours, model={"pkg.optimum_htp.a": "b"})
        assert model_path.read_bytes()[: len(before)] == before

    def test_source_changes_meanwhile(self, model_path, monkeypatch):
        """A file that someone else writes to while it is copied is not replaced by a mixture."""
        before = model_path.read_bytes()
        real = rewriting.write_pieces

        def write_pieces(*args, **kwargs):
            real(*args, **kwargs)
            os.utime(model_path, ns=(0, 0))

        monkeypatch.setattr(rewriting, "write_pieces", write_pieces)
        with pytest.raises(OnnxFileError, match="changed while"):
            rewrite_metadata(model_path, nodes={}, owned=ours, model={"a": "b"})
        assert model_path.read_bytes() == before

    @pytest.mark.parametrize("mode", [0o640, 0o444])
    def test_permission_bits_stay(self, model_path, mode):
        """A file that only its owner's group may read stays so."""
        model_path.chmod(mode)
        rewrite_metadata(model_path, nodes={}, owned=ours, model={"a": "b"})
        assert stat.S_IMODE(model_path.stat().st_mode) == mode

    def test_a_link_is_replaced(self, model_path, tmp_path):
        """The file that it leads to stays as it is, in place and at a destination."""
        before = model_path.read_bytes()
        links = tmp_path / "elsewhere"
        links.mkdir()
        for name in ("in_place.onnx", "destination.onnx"):
            (links / name).symlink_to(Path("..") / model_path.name)
        rewrite_metadata(links / "in_place.onnx", nodes={}, owned=ours, model={"a": "b"})
        rewrite_metadata(model_path, nodes={}, owned=ours, model={"a": "b"}, destination=links / "destination.onnx")
        assert model_path.read_bytes() == before
        for link in links.iterdir():
            assert not link.is_symlink()
            assert read_model(link).metadata["a"] == "b"

    def test_bad_destination(self, model_path, tmp_path):
        """A directory, or a file in a directory that is not there."""
        for destination in (tmp_path, tmp_path / "none" / "model.onnx"):
            with pytest.raises(HtpError, match="cannot write"):
                rewrite_metadata(model_path, nodes={}, owned=ours, model={}, destination=destination)


def main_graph(content: bytes) -> bytes:
    return wire.encode_message(58, content)


def nested(depth: int, graph: bytes = b"") -> bytes:
    """A model with graphs in graphs."""
    for _ in range(depth):
        attribute = b"\x0a\x01b" + wire.encode_message(50, graph)
        graph = wire.encode_message(10, wire.encode_message(42, attribute))
    return main_graph(graph)


HOSTILE = {
    "truncated length": (b"\x3a", "ends in the middle"),
    "past the end": (b"\x3a\x7fabc", "124 bytes past the end"),
    "past the end of the message that it is in": (main_graph(b"\x0a\x05") + bytes(20), "past the end of the message"),
    "huge length": (b"\x3a" + b"\xff" * 9 + b"\x01", "past the end"),
    "graph of another wire type": (b"\x38\x01", "no graph"),
    "long varint": (b"\x08" + b"\xff" * 11 + b"\x01", "longer than ten bytes"),
    "open group": (main_graph(b"\x0b"), "without an end"),
    "group that ends as another": (main_graph(b"\x0b\x14"), "end of another group"),
    "end of no group": (main_graph(b"\x0c"), "has not begun"),
    "deep groups": (main_graph(b"\x0b" * 101 + b"\x0c" * 101), "deeper than 100"),
    "reserved wire type": (main_graph(b"\x0e"), "wire type 6"),
    "field 0": (main_graph(b"\x02\x00"), "field number 0"),
    "no graph": (b"\x08\x0a", "no graph"),
    "two graphs": (main_graph(b"") * 2, "second main graph"),
    "nesting bomb": (nested(onnxfile.limits.MAX_BODY_DEPTH + 1), "nested deeper than 100"),
    "deep nesting bomb": (nested(3000), "nested deeper than 100"),
    "two bodies of one name": (
        main_graph(wire.encode_message(10, wire.encode_message(42, b"\x0a\x01b\x32\x00") * 2)),
        "two attributes of the same name",
    ),
    "graph set twice": (
        main_graph(wire.encode_message(10, wire.encode_message(42, b"\x0a\x01b\x32\x00\x32\x00"))),
        "graph twice",
    ),
    "body without a name": (
        main_graph(wire.encode_message(10, wire.encode_message(42, b"\x32\x00"))),
        "cannot be the name of an attribute",
    ),
    "long name in a path": (main_graph(b"") + wire.encode_message(202, b"\x0a\x80\x10" + b"f" * 2048), "2048 bytes"),
    "two functions of one name": (main_graph(b"") + b"\xca\x01\x03\x0a\x01f" * 2, "second function ::f"),
    "dims past their end": (main_graph(b"\x2a\x04\x0a\x01\x80\x01"), "past the end of the list"),
    "many empty nodes": (main_graph(b"\x0a\x00" * 110_000), "more than .* nodes, tensors"),
    "many empty bodies": (
        main_graph(wire.encode_message(10, wire.encode_message(42, b"\x0a\x01b" + b"\x5a\x00" * 110_000))),
        "more than 10,000 graphs",
    ),
    "many functions": (
        main_graph(b"") + b"".join(wire.encode_message(202, b"\x0a\x06%06d" % at) for at in range(10_001)),
        "more than 10,000 functions",
    ),
    "many dimensions": (main_graph(wire.encode_message(42, b"\x08\x01" * 1001)), "1,000 dimensions"),
    "many packed dimensions": (
        main_graph(wire.encode_message(42, b"\x0a\xe9\x07" + b"\x01" * 1001)),
        "1,000 dimensions",
    ),
    "many names": (main_graph(wire.encode_message(10, b"\x0a\x00" * 1_300_000)), "more than .* names"),
    "many strings": (
        main_graph(wire.encode_message(10, b"".join(b"\x0a\x03" + i.to_bytes(3, "big") for i in range(240_000)))),
        "more than .* different strings",
    ),
    "external tensor without location": (main_graph(b"\x2a\x02\x70\x01"), "no valid location"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "JSON": (b'{"model": 1}', "JSON"),
    "HTML": (b"<!DOCTYPE html><html>", "HTML"),
    "ZIP": (b"PK\x03\x04" + bytes(60), "ZIP archive"),
    "text": (b"not a model at all", "but text"),
    "empty": (b"", "empty"),
}


class TestHostile:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_bad_bytes(self, tmp_path, kind):
        """Each is an error that names the file, what is wrong and where."""
        content, message = HOSTILE[kind]
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        with pytest.raises(OnnxFileError, match=message) as raised:
            read_model(path)
        assert str(raised.value).startswith(f"{path}, byte {raised.value.offset}: ")
        assert 0 <= raised.value.offset <= len(content)

    def test_bad_offset_is_exact(self, tmp_path):
        """The offset is that of the field."""
        path = tmp_path / "bad.onnx"
        path.write_bytes(b"\x08\x0a" + main_graph(b"\x12\x01g" + b"\x0f"))
        with pytest.raises(OnnxFileError) as raised:
            read_model(path)
        assert raised.value.offset == 7

    def test_deepest_bodies(self, tmp_path):
        """As deep as allowed works, for reading, rewriting and hashing."""
        path = tmp_path / "deep.onnx"
        path.write_bytes(nested(onnxfile.limits.MAX_BODY_DEPTH, b"\x0a\x05\x22\x03Abs"))
        model = read_model(path)
        graph_digest(model)
        rewrite_metadata(path, nodes=entries_for(model), owned=ours, model={})
        *_, (deepest, graph) = read_model(path).graphs()
        assert deepest == "/".join(["0.b"] * onnxfile.limits.MAX_BODY_DEPTH)
        assert graph.nodes[0].metadata["pkg.optimum_htp.tag"] == f"{deepest}|0|ž"

    def test_missing(self, tmp_path):
        """A file that is not there."""
        with pytest.raises(OnnxFileError, match="no such file"):
            read_model(tmp_path / "none.onnx")

    def test_directory(self, tmp_path):
        """A directory, with what to do."""
        with pytest.raises(OnnxFileError, match=r"directory: name the \.onnx file"):
            read_model(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_pipe(self, tmp_path):
        """A pipe is refused instead of waited for."""
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OnnxFileError, match="not a regular file"):
            read_model(tmp_path / "pipe")

    def attempt(self, path: Path, content: bytes) -> bool:
        """Whether reading succeeds; rewriting may succeed where reading does not, but fails in the same way only."""
        path.write_bytes(content)
        with_model = None
        try:
            with_model = read_model(path)
            graph_digest(with_model)
            external_data_files(with_model)
        except OnnxFileError:
            pass
        nodes = {} if with_model is None else entries_for(with_model)
        try:
            rewrite_metadata(path, nodes=nodes, owned=ours, model={"pkg.optimum_htp.a": "b"})
        except OnnxFileError:
            assert with_model is None
            return False
        if with_model is not None:
            assert graph_digest(read_model(path)) == graph_digest(with_model)
        return with_model is not None

    def test_every_truncation(self, odd_path, monkeypatch):
        """A file that ends too early is read or refused, and never anything else."""
        monkeypatch.setattr(os, "fsync", lambda _: None)
        content = odd_path.read_bytes()
        read = [self.attempt(odd_path, content[:length]) for length in range(len(content))]
        assert 0 < sum(read) < len(read) // 2


def test_element_types() -> None:
    """The table has every type of the installed onnx, with the size that onnx gives it."""
    for number in onnx.TensorProto.DataType.values():
        known = element_type(number)
        assert (known.number == number and known.kind != "unknown") or number == onnx.TensorProto.UNDEFINED
        if known.bits is not None and known.bits >= 8:
            theirs = onnx.helper.tensor_dtype_to_np_dtype(number)
            stands_in = theirs.name == "float32" != known.name  # numpy's, for what it lacks, before onnx 1.19
            assert stands_in or known.bits == 8 * theirs.itemsize
