"""Hostile sizes: each limit refuses in one line that names it, before what is large is made."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError, OnnxFileError, PackageError
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.models.claims import GraphSize, TooManyModulesError
from optimum_htp.models.inputs import read_arrays
from optimum_htp.onnxfile.model import Graph, Initializer, Node, OnnxModel, Value
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.onnxfile.running import data_bytes, is_abandoned, limited, run_limits
from optimum_htp.onnxfile.soundness import check_sound
from optimum_htp.onnxfile.wire import encode_message, encode_varint
from optimum_htp.package.archive import check_external_sizes
from optimum_htp.package.json_files import parse_json
from optimum_htp.package.node_metadata import SOURCE, TAG
from optimum_htp.package.package import onnx_files
from optimum_htp.package.skeleton import unpack_skeleton
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.projection.steps import project

CORPUS = Path(__file__).parent / "fixtures" / "fuzz"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system limits memory on Linux only")


def package(directory: Path, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto] = []) -> Path:  # noqa: B006
    """A package whose graph takes `x` and gives `y`, all of it the root module's."""
    ends = [helper.make_tensor_value_info(name, FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for node in model.graph.node:
        for key, value in ((TAG, "/Net"), (SOURCE, "scope")):
            node.metadata_props.add(key=key, value=value)
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    (directory / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    return directory


def endless(directory: Path) -> Path:
    """A loop of 2**62 rounds."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [value("i", INT64, []), value("c", TensorProto.BOOL, []), value("v", FLOAT, [1])],
        [value("c2", TensorProto.BOOL, []), value("v2", FLOAT, [1])],
    )
    tensors = [
        helper.make_tensor("n", INT64, [], [2**62]),
        helper.make_tensor("t", TensorProto.BOOL, [], [True]),
        helper.make_tensor("z", FLOAT, [1], [0.0]),
    ]
    loop = helper.make_node("Loop", ["n", "t", "z"], ["o"], body=body)
    return package(directory, [loop, helper.make_node("Add", ["x", "o"], ["y"])], tensors)


def greedy(directory: Path) -> Path:
    """Three gigabytes of zeros."""
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    return package(directory, nodes, [helper.make_tensor("s", INT64, [1], [750_000_000])])


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line of an error with exit code 2."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


class TestRunning:
    """What ONNX Runtime may take with a stranger's graph."""

    @pytest.mark.parametrize("options", [["--timeout", "0.3"]])
    def test_endless_graph_ends_with_its_time(self, tmp_path, capsys, options):
        error = one_line(capsys, "profile", str(endless(tmp_path)), "--runs", "1", *options)
        assert "was not done after 0.3 s" in error
        assert "--timeout" in error
        assert not is_abandoned()

    def test_ctrl_c_ends_an_endless_graph(self, tmp_path, capsys):
        directory = endless(tmp_path)
        timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        assert main(["profile", str(directory), "--runs", "1"]) == 130
        timer.join()
        assert capsys.readouterr().err == "interrupted\n"

    @on_linux
    def test_greedy_graph_gets_no_more_memory_than_it_may_have(self, tmp_path, capsys):
        error = one_line(capsys, "profile", str(greedy(tmp_path)), "--runs", "1")
        assert "needs more memory than the 2,147,4" in error
        assert "--max-memory" in error

    @on_linux
    def test_limit_is_put_back(self):
        import resource

        before = resource.getrlimit(resource.RLIMIT_DATA)
        inside = []
        with run_limits(memory_bytes=1 << 30):
            limited(lambda: inside.append(resource.getrlimit(resource.RLIMIT_DATA)[0]), lambda: None, name="it")
        assert (data_bytes() or 0) < inside[0] < (data_bytes() or 0) + (2 << 30)
        assert resource.getrlimit(resource.RLIMIT_DATA) == before

    def test_call_that_does_not_give_up_is_left(self, monkeypatch):
        monkeypatch.setattr("optimum_htp.onnxfile.running._GRACE_S", 0.01)
        release = threading.Event()
        with run_limits(seconds=0.01), pytest.raises(HtpError, match="it: ONNX Runtime was not done"):
            limited(release.wait, lambda: None, name="it")
        assert is_abandoned()
        release.set()
        for _ in range(1000):
            if not is_abandoned():
                break
            time.sleep(0.001)
        assert not is_abandoned()

    def test_limits_are_for_what_runs(self, capsys):
        assert "give --load or --model" in one_line(capsys, "validate", str(CORPUS / "package"), "--timeout", "5")


class TestFiles:
    """Sizes and numbers in files."""

    @pytest.mark.parametrize("dims", [17, 1000])
    def test_sizes_of_external_tensors_have_a_bound(self, dims, tmp_path, capsys):
        tensor = (encode_varint(8) + encode_varint(1 << 62)) * dims + b"\x10\x01" + encode_message(66, b"w")
        tensor += encode_message(106, encode_message(10, b"location") + encode_message(18, b"w.bin")) + b"\x70\x01"
        node = encode_message(34, b"Relu") + encode_message(10, b"w") + encode_message(18, b"y")
        graph = encode_message(10, node) + encode_message(42, tensor) + encode_message(98, encode_message(10, b"y"))
        (tmp_path / "model.onnx").write_bytes(
            b"\x08\x08" + encode_message(66, b"\x10\x11") + encode_message(58, graph)
        )
        (tmp_path / "w.bin").write_text("x")
        assert main(["validate", str(tmp_path), "--json"]) == 1
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
        assert "the tensors in it need 36,893,488,147,419,103,232" in checks["external-data"]["reason"]

    @pytest.mark.parametrize("text", ["[" + "[]," * 600_000 + "[]]", '{"a":' * 3 + "[0" + ",0" * 700_000 + "]}}}"])
    def test_json_of_many_values(self, text):
        with pytest.raises(ValueError, match=r"more than .* values"):
            parse_json(text)

    def test_sidecar_of_many_values(self, tmp_path, capsys):
        directory = package(tmp_path, [helper.make_node("Relu", ["x"], ["y"])])
        (directory / "export_metadata.json").write_text("[" + "[]," * 700_000 + "[]]")
        assert "not JSON (more than" in one_line(capsys, "tree", str(directory))

    def test_skeleton_is_not_larger_than_its_text_says(self):
        content = b"[" + b"[]," * 5_000_000 + b"[]]"
        with pytest.raises(HtpError, match=r"more than .* bytes unpacked"):
            unpack_skeleton(base64.b85encode(zlib.compress(content, 9)).decode())

    def test_skeleton_of_a_deep_tree(self):
        count = 12_000
        columns = {
            "parent": [-1, *range(499), *[498] * (count - 500)],
            "name": [[], *["a"] * (count - 1)],
            "class": [0] * count,
        }
        tree = {
            **columns,
            "calls": [1] * count,
            "parameters": [0] * count,
            "classes": [["A", "A"]],
            "containers": [],
            "aliases": [],
        }
        document = {
            "v": 1,
            "graphs": [["", 0, [], [], []]],
            **{key: [] for key in ("op", "ni", "no", "io", "tag", "ops", "names", "tensors", "tags")},
        }
        content = json.dumps(document | {"roots": [["", tree, []]]}).encode()
        with pytest.raises(HtpError, match="the module tree is deeper than any"):
            unpack_skeleton(base64.b85encode(zlib.compress(content, 1)).decode())

    def test_packed_inputs(self, tmp_path):
        np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(80_000_000, np.uint8))
        with pytest.raises(HtpError, match=r"80,000,128 bytes unpacked, and 6\d,\d{3},\d{3} may be"):
            read_arrays(tmp_path / "bomb.npz")
        np.savez(tmp_path / "plain.npz", x=np.zeros(100, np.uint8))
        assert read_arrays(tmp_path / "plain.npz")["x"].shape == (100,)

    def test_unpacked_weights(self):
        check_external_sizes({"a": 3 << 20, "b": 0}, 2, packed_bytes=200_000, source="p.onnx")
        with pytest.raises(PackageError, match=r"p.onnx: its external weights would have 21,474,836,480,000 bytes"):
            check_external_sizes({f"f{at}": 1 << 32 for at in range(5000)}, 1, packed_bytes=94_000, source="p.onnx")

    @pytest.mark.parametrize("hidden", [False, True])
    def test_deep_directories(self, tmp_path, capsys, hidden):
        directory = package(tmp_path / "deep", [helper.make_node("Relu", ["x"], ["y"])])
        before = Path.cwd()
        start = directory / (".optimum-htp/new" if hidden else "")
        start.mkdir(parents=True, exist_ok=True)
        os.chdir(start)
        try:
            for _ in range(1000):
                os.mkdir("a")  # noqa: PTH102 (the path is too long for the system)
                os.chdir("a")
        finally:
            os.chdir(before)
        if hidden:  # what looks like ours is passed over
            assert main(["tree", str(directory)]) == 0
            assert main(["validate", str(directory)]) == 0
            os.system(f"rm -rf {directory}")
            return
        with pytest.raises(PackageError, match="nested deeper than 100"):
            onnx_files(directory)
        for verb in (["tree"], ["validate"], ["strip"], ["pack", str(tmp_path / "p.onnx")]):
            assert "nested deeper than 100" in one_line(capsys, verb[0], str(directory), *verb[1:])
        os.system(f"rm -rf {directory}")  # pytest's own way down is Python's


class TestSoundness:
    """What protobuf, or every tool, refuses."""

    @pytest.mark.parametrize(
        ("graph", "message"),
        [
            (encode_message(106, b"\x12\x05\x0a\xff\xff\xff\xff"), "middle of a field"),
            (encode_message(10, encode_message(42, encode_message(66, b"\x80"))), "packed numbers"),
            (encode_message(42, encode_message(34, b"abc")), "packed numbers of 4 bytes have 3"),
            (encode_message(42, b"\x08" + encode_varint((1 << 64) - 5)), r"a size below 0: \[-5\]"),
        ],
    )
    def test_file_that_no_tool_reads(self, graph, message, tmp_path, capsys):
        directory = package(tmp_path, [helper.make_node("Relu", ["x"], ["y"])])
        path = directory / "model.onnx"
        proto = onnx.load(path)
        content = proto.graph.SerializeToString() + graph
        proto.ClearField("graph")
        path.write_bytes(proto.SerializeToString() + encode_message(58, content))
        with pytest.raises(OnnxFileError, match=message):
            check_sound(read_model(path))
        assert main(["validate", str(directory)]) == 1
        capsys.readouterr()
        one_line(capsys, "extract", str(directory), "", str(tmp_path / "part.onnx"))


class TestClaims:
    """A config that describes another model than the graph."""

    @pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "encoder_layers", "depths", "num_labels"])
    def test_config_claims_no_more_than_the_graph_has(self, key):
        config = {"decoder": {key: [2, 20_000_000] if key == "depths" else 20_000_000}}
        with pytest.raises(
            PackageError, match=rf"config.json: {key} is 20,000,000, and the graph has (21 nodes|no axis)"
        ):
            GraphSize(21, 8).check(config, where="config.json")

    def test_config_of_a_real_model(self):
        config = {
            "num_hidden_layers": 12,
            "num_labels": 21843,
            "vocab_size": 250_000,
            "n_positions": 1 << 20,
            "depths": [2, 18],
        }
        GraphSize(300, 768).check(config, where="config.json")

    def test_modules_are_counted_while_they_are_built(self):
        import torch

        with GraphSize(21, 8).limiting(where="config.json"), torch.device("meta"), pytest.raises(TooManyModulesError):
            torch.nn.Sequential(*(torch.nn.Identity() for _ in range(11_000)))
        torch.nn.Sequential(*(torch.nn.Identity() for _ in range(11_000)))

    def test_tag(self, tmp_path, capsys):
        directory = package(tmp_path, [helper.make_node("Relu", ["x"], ["y"])])
        (directory / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 20000}')
        assert "num_hidden_layers is 20,000" in one_line(capsys, "tag", str(directory), "--force")


def test_thousands_of_siblings_are_all_told_apart() -> None:
    """Alike siblings whose names are all new get the tags of their twins, in order, however many there are."""
    count = 3_000
    tree = ModuleTree([ModuleInfo((), "Net", "Net"), *(ModuleInfo((f"l{at}",), "Block", "Block") for at in range(7))])

    def model(prefix: str) -> OnnxModel:
        names = [f"{prefix}{at}" for at in range(count)]
        nodes = [Node("", "Relu", "", ("x",), (name,)) for name in names] + [Node("", "Sum", "", tuple(names), ("y",))]
        return OnnxModel(
            path=Path("m.onnx"), graph=Graph("g", nodes, (Value("x"),), (Value("y"),), (Initializer("w"),))
        )

    before = model("a")
    tags = {key: NodeTag(tree.tag((f"l{key[1] % 7}",)), "scope") for key, _ in before.nodes()}
    after = project([TaggedGraph(before, tags, Roots([Root(tree, "", ())]))], model("b"))
    assert {key: tag.tag for key, tag in after.tags.items()} == {key: tag.tag for key, tag in tags.items()}
