"""Packing a package into its ONNX file and back: bytes, layouts, refusals, hostile files, failures half way."""

from __future__ import annotations

import base64
import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from odd_protobuf import Field, add_unknown, messages, put_together, repeat, shuffle, taken_apart
from onnx import TensorProto, helper, numpy_helper

from optimum_htp import (
    HtpError,
    ModelTooLargeError,
    OnnxFileError,
    PackageError,
    load_package,
    pack,
    project,
    strip,
    tag_package,
    unpack,
)
from optimum_htp.cli.main import main
from optimum_htp.package.archive import FILE_PREFIX, MANIFEST
from optimum_htp.package.node_metadata import strip_tags


def tiny_model() -> onnx.ModelProto:
    """`y = x @ w + b` in the branches of an If and outside, with metadata on nodes and model, and a Constant."""

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), name)

    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    branch = [helper.make_node("Add", ["h", name], [f"{name}_out"], f"add_{name}") for name in ("b1", "b2")]
    bodies = [
        helper.make_graph([node], "branch", [], [onnx.ValueInfoProto(name=node.output[0])], [weights(name, 4)])
        for node, name in zip(branch, ("b1", "b2"), strict=True)
    ]
    nodes = [
        helper.make_node("Constant", [], ["flag"], value=helper.make_tensor("flag", TensorProto.BOOL, [], [True])),
        helper.make_node("MatMul", ["x", "w"], ["h0"], "matmul"),
        helper.make_node("Constant", [], ["c"], "constant", value=weights("c_value", 4)),
        helper.make_node("Add", ["h0", "c"], ["h"], "add"),
        helper.make_node("If", ["flag"], ["y"], "if", then_branch=bodies[0], else_branch=bodies[1]),
    ]
    nodes[1].metadata_props.add(key="pkg.optimum_htp.tag", value="/Net/Linear.fc")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "main", [x], [y], [weights("w", 3, 4), weights("empty", 0)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    for key, value in (("pkg.optimum_htp.tagged.0", "{}"), ("author", "somebody")):
        model.metadata_props.add(key=key, value=value)
    return model


def write_package(directory: Path, model: onnx.ModelProto | None = None, *, external: str | None = None) -> Path:
    """A package; `external` puts the weights into `"one"` file or into `"many"`."""
    directory.mkdir(parents=True)
    model = tiny_model() if model is None else model
    if external is None:
        onnx.save(model, directory / "model.onnx")
    else:
        one = external == "one"
        options = {"location": "model.onnx_data"} if one else {}
        onnx.save(
            model,
            directory / "model.onnx",
            save_as_external_data=True,
            all_tensors_to_one_file=one,
            size_threshold=0,
            convert_attribute=True,
            **options,
        )
    (directory / "config.json").write_text(json.dumps({"model_type": "net", "architectures": ["Net"]}))
    (directory / "vocab.txt").write_bytes(b"\x00\xffnot text\r\n")
    (directory / "empty.txt").write_bytes(b"")
    (directory / "sub" / "deeper").mkdir(parents=True)
    (directory / "sub" / "deeper" / "ünïcode name.json").write_text("{}")
    return directory


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "package")


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def run_model(path: Path) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((2, 3), np.float32)})[0]


def with_entries(target: Path, entries: dict[str, str]) -> Path:
    """An ONNX file with metadata of somebody's choice."""
    model = tiny_model()
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, target)
    return target


def encoded(text: bytes = b"{}") -> str:
    return base64.b64encode(text).decode()


# --- Round trips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [None, "one", "many"])
def test_round_trip(external: str | None, tmp_path: Path) -> None:
    """Every file comes back byte for byte; the packed file is one valid model that computes the same."""
    package = write_package(tmp_path / "package", external=external)
    before = contents(package)
    packed = pack(package, tmp_path / "packed.onnx").file
    assert contents(package) == before
    written = unpack(packed, tmp_path / "again").files
    assert contents(tmp_path / "again") == before
    assert {path.relative_to(tmp_path / "again").as_posix() for path in written} == set(before)

    (tmp_path / "alone").mkdir()
    alone = packed.rename(tmp_path / "alone" / "any name.onnx")
    onnx.checker.check_model(str(alone), full_check=True)
    np.testing.assert_array_equal(run_model(alone), run_model(package / "model.onnx"))


def test_the_rest_of_the_metadata_is_left_alone(package: Path, tmp_path: Path) -> None:
    """What stands on nodes and what others put on the model is there before, in between and after."""
    model = onnx.load(pack(package, tmp_path / "packed.onnx").file)
    assert [entry.value for node in model.graph.node for entry in node.metadata_props] == ["/Net/Linear.fc"]
    keys = [entry.key for entry in model.metadata_props]
    assert keys[:2] == ["pkg.optimum_htp.tagged.0", "author"]
    assert [key for key in keys[2:] if not key.startswith(FILE_PREFIX)] == [MANIFEST]
    assert {key.removeprefix(FILE_PREFIX) for key in keys[2:-1]} == set(contents(package)) - {"model.onnx"}


def test_external_tensor_without_length_and_with_gaps(tmp_path: Path) -> None:
    """ONNX lets the length be left out; what lies between tensors is zeros afterwards."""
    package = write_package(tmp_path / "package", external="one")
    model = onnx.load(package / "model.onnx", load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "w")
    (package / "model.onnx_data").write_bytes(bytes(70_000) + np.arange(12, dtype=np.float32).tobytes())
    others = [item for item in model.graph.initializer if item.name == "w"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(others)
    tensor = model.graph.initializer[0]
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="model.onnx_data")
    tensor.external_data.add(key="offset", value="70000")
    for node in model.graph.node:
        for attribute in node.attribute:
            for inner in (attribute.t, *attribute.g.initializer):
                for entry in inner.external_data:
                    entry.value = {"offset": "70000"}.get(entry.key, entry.value)
    onnx.save(model, package / "model.onnx")
    before = contents(package)
    packed = pack(package, tmp_path / "packed.onnx").file
    stored = next(item for item in onnx.load(packed).graph.initializer if item.name == "w")
    np.testing.assert_array_equal(numpy_helper.to_array(stored), np.arange(12, dtype=np.float32).reshape(3, 4))
    unpack(packed, tmp_path / "again")
    assert contents(tmp_path / "again") == before


@pytest.mark.parametrize("seed", range(12))
def test_external_tensors_written_oddly(seed: int, tmp_path: Path) -> None:
    """Fields in any order, unknown ones among them, repeated keys, tags and lengths of any width: the same bytes again."""
    rng = random.Random(seed)
    package = write_package(tmp_path / "package", external="one")
    odd = taken_apart((package / "model.onnx").read_bytes(), onnx.ModelProto.DESCRIPTOR)
    for tensor in [message for message in messages(odd) if any(field.tag == 13 << 3 | 2 for field in message)]:
        shuffle(tensor, rng)
        for entry in [field.content for field in tensor if field.tag == 13 << 3 | 2]:
            shuffle(entry, rng)
        for change in rng.sample((repeat, add_unknown, add_empty_entry), rng.randrange(3)):
            change(tensor, rng)
    (package / "model.onnx").write_bytes(put_together(odd, lambda: rng.choice((1, 1, 2, 5))))
    before = contents(package)
    unpack(pack(package, tmp_path / "packed.onnx").file, tmp_path / "again")
    assert contents(tmp_path / "again") == before


def add_empty_entry(tensor: list[Field], rng: random.Random) -> None:
    tensor.insert(rng.randrange(len(tensor) + 1), Field(13 << 3 | 2, b""))


def test_onnx_file_in_a_subdirectory(tmp_path: Path) -> None:
    """The layout of many repositories: configs at the top, `onnx/model.onnx` with its weights below."""
    package = write_package(tmp_path / "package", external="one")
    (package / "onnx").mkdir()
    for name in ("model.onnx", "model.onnx_data"):
        (package / name).rename(package / "onnx" / name)
    before = contents(package)
    unpack(pack(package, tmp_path / "packed.onnx").file, tmp_path / "again")
    assert contents(tmp_path / "again") == before


def test_packed_file_that_a_tool_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its weights stay inside, and a warning says so: where they belong is no longer known."""
    package = write_package(tmp_path / "package", external="one")
    packed = pack(package, tmp_path / "packed.onnx").file
    model = onnx.load(packed)
    model.graph.initializer[0].name = model.graph.node[1].input[1] = "renamed"
    onnx.save(model, packed)
    unpack(packed, tmp_path / "again")
    assert "was changed since it was packed" in caplog.text
    assert not (tmp_path / "again" / "model.onnx_data").exists()
    np.testing.assert_array_equal(run_model(tmp_path / "again" / "model.onnx"), run_model(package / "model.onnx"))


def test_file_without_a_manifest(tmp_path: Path) -> None:
    """Entries by somebody who knows only the documented keys; the model is then called model.onnx."""
    packed = with_entries(tmp_path / "packed.onnx", {FILE_PREFIX + "config.json": encoded(b'{"a": 1}')})
    unpack(packed, tmp_path / "again")
    assert set(contents(tmp_path / "again")) == {"model.onnx", "config.json"}
    assert (tmp_path / "again" / "model.onnx").read_bytes() == tiny_model().SerializeToString()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_weights_are_not_held_in_memory(tmp_path: Path) -> None:
    """400 MB of external weights there and back, in a process that stays far below that."""
    package = write_package(tmp_path / "package")
    model = tiny_model()
    size = 400_000_000
    big = onnx.TensorProto(name="big", dims=[size], data_type=TensorProto.UINT8, data_location=1)
    for key, value in (("location", "big.bin"), ("offset", "0"), ("length", str(size))):
        big.external_data.add(key=key, value=value)
    model.graph.initializer.append(big)
    onnx.save(model, package / "model.onnx")
    with (package / "big.bin").open("wb") as stream:
        stream.truncate(size)
    code = (
        "import re, sys; from pathlib import Path; from optimum_htp import pack, unpack\n"
        "here = Path(sys.argv[1]); unpack(pack(here / 'package', here / 'p.onnx').file, here / 'again')\n"
        # getrusage would count what the process was forked from.
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again" / "big.bin").stat().st_size == size
    assert int(result.stdout) < 100, "MB at the peak"
    shutil.rmtree(tmp_path)


# --- What reads packed files --------------------------------------------------------------------------------------


def test_package_opens_a_packed_file(package: Path, tmp_path: Path) -> None:
    """Config and sidecar come from the file, whatever lies beside it."""
    packed = pack(package, tmp_path / "packed.onnx").file
    (tmp_path / "config.json").write_text('{"model_type": "somebody elses"}')
    (tmp_path / "export_metadata.json").write_text("not even JSON")
    opened = load_package(packed)
    assert opened.config == {"model_type": "net", "architectures": ["Net"]}
    assert opened.sidecar is None
    assert list(opened.files) == ["packed.onnx"]
    (tmp_path / "export_metadata.json").unlink()
    assert load_package(package / "model.onnx").packed is None


@pytest.mark.parametrize("write", [project, tag_package], ids=["project", "tag"])
def test_tags_are_not_written_into_a_packed_file(write: Callable[..., Any], package: Path, tmp_path: Path) -> None:
    """The sidecar inside it could not be kept in step: whoever writes tags refuses, and says what to do."""
    packed = pack(package, tmp_path / "packed.onnx").file
    with pytest.raises(PackageError, match="a packed file; unpack it first: optimum-cli htp unpack"):
        write(packed)


def test_strip_refuses_a_packed_file(package: Path, tmp_path: Path) -> None:
    """It would have to touch what is packed; what writes or removes tags alone leaves the packed files there."""
    packed = pack(package, tmp_path / "packed.onnx").file
    before = packed.read_bytes()
    with pytest.raises(PackageError, match="unpack it first"):
        strip(packed)
    assert packed.read_bytes() == before
    assert strip_tags(packed)
    unpack(packed, tmp_path / "again")
    assert set(contents(tmp_path / "again")) == set(contents(package))


# --- What is not packed -------------------------------------------------------------------------------------------


def remove_config(package: Path) -> None:
    (package / "config.json").unlink()


def add_onnx(package: Path) -> None:
    shutil.copy(package / "model.onnx", package / "decoder_model.onnx")


def add_link(package: Path) -> None:
    (package / "merges.txt").symlink_to("/etc/passwd")


def add_link_to_directory(package: Path) -> None:
    (package / "more").symlink_to("/etc")


def add_pipe(package: Path) -> None:
    os.mkfifo(package / "pipe")


def add_other_case(package: Path) -> None:
    (package / "CONFIG.json").write_text("{}")


def add_windows_name(package: Path) -> None:
    (package / "a:b.json").write_text("{}")


def lose_weights(package: Path) -> None:
    shutil.rmtree(package)
    write_package(package, external="one")
    (package / "model.onnx_data").unlink()


def shorten_weights(package: Path) -> None:
    shutil.rmtree(package)
    write_package(package, external="one")
    os.truncate(package / "model.onnx_data", 10)


def weights_elsewhere(package: Path) -> None:
    shutil.rmtree(package)
    write_package(package, external="one")
    model = onnx.load(package / "model.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = "../secret.bin" if entry.key == "location" else entry.value
    (package.parent / "secret.bin").write_bytes(bytes(1000))
    onnx.save(model, package / "model.onnx")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (remove_config, "no config.json in it, .*optimum-cli htp tag .* --model MODEL"),
        (add_onnx, "2 ONNX files"),
        (add_link, r"merges.txt: a link to .*, outside the package, whose content is not copied"),
        (add_link_to_directory, "more: a link to .*, outside the package"),
        (add_pipe, "pipe: not a regular file"),
        (add_other_case, "the same on some file systems"),
        (add_windows_name, "has a drive"),
        (lose_weights, "its weights are in 'model.onnx_data', not a file of the package"),
        (shorten_weights, "ends after 'model.onnx_data' does"),
        (weights_elsewhere, r"its weights are in '\.\./secret.bin', not a file of the package"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_packages_that_cannot_be_packed(
    change: Callable[[Path], None], complaint: str, package: Path, tmp_path: Path
) -> None:
    """Each with its reason, and nothing is written."""
    change(package)
    with pytest.raises(HtpError, match=complaint):
        pack(package, tmp_path / "packed.onnx")
    assert not (tmp_path / "packed.onnx").exists()


def test_hidden_directories_and_caches_are_left_out(package: Path, tmp_path: Path) -> None:
    """What Git, the Hub's client and Python leave behind is no part of a package."""
    before = contents(package)
    for name in (".git/hooks/pre-commit", ".cache/huggingface/x", "__pycache__/x.pyc", "sub/.DS_Store"):
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    unpack(pack(package, tmp_path / "packed.onnx").file, tmp_path / "again")
    assert contents(tmp_path / "again") == before


def test_snapshot_of_the_hub(package: Path, tmp_path: Path) -> None:
    """A snapshot consists of links into `blobs/` of its repository: those are files like others."""
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    before = contents(package)
    for number, (name, content) in enumerate(before.items()):
        (repository / "blobs" / str(number)).write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(repository / "blobs" / str(number))
    unpack(pack(snapshot, tmp_path / "packed.onnx").file, tmp_path / "again")
    assert contents(tmp_path / "again") == before
    assert not any(path.is_symlink() for path in (tmp_path / "again").rglob("*"))


def test_files_that_are_too_long(package: Path, tmp_path: Path) -> None:
    """A checkpoint that lies beside the model, for one."""
    with (package / "model.safetensors").open("wb") as stream:
        stream.truncate(300_000_000)
    with pytest.raises(PackageError, match=r"'model.safetensors' has 300,000,000 bytes"):
        pack(package, tmp_path / "packed.onnx")


@pytest.mark.parametrize("size", [2_147_400_000, 5_000_000_000])
def test_weights_above_2_gb(size: int, package: Path, tmp_path: Path) -> None:
    """Nothing is written or even read: the sizes say it."""
    model = tiny_model()
    big = onnx.TensorProto(name="big", dims=[size], data_type=TensorProto.UINT8, data_location=1)
    for key, value in (("location", "big.bin"), ("length", str(size))):
        big.external_data.add(key=key, value=value)
    model.graph.initializer.append(big)
    onnx.save(model, package / "model.onnx")
    with (package / "big.bin").open("wb") as stream:
        stream.truncate(size)
    (package / "tokenizer.json").write_bytes(bytes(100_000))
    with pytest.raises(ModelTooLargeError, match="more than protobuf's 2,147,483,647"):
        pack(package, tmp_path / "packed.onnx")
    assert not (tmp_path / "packed.onnx").exists()


def test_destinations_that_are_refused(package: Path, tmp_path: Path) -> None:
    """Nothing of the user's is replaced unless they say so, and the package itself never."""
    packed = pack(package, tmp_path / "packed.onnx").file
    before = packed.read_bytes()
    with pytest.raises(PackageError, match="exists already; give --overwrite"):
        pack(package, packed)
    (package / "extra.txt").write_text("more")
    pack(package, packed, overwrite=True)
    assert packed.read_bytes() != before
    for destination, complaint in (
        (package / "model.onnx", "inside the package"),
        (package / "packed.onnx", "inside the package"),
        (tmp_path / "packed.bin", "ends in .onnx"),
        (tmp_path / "nowhere" / "packed.onnx", "its directory does not exist"),
        (package, "ends in .onnx"),
    ):
        with pytest.raises(PackageError, match=complaint):
            pack(package, destination, overwrite=True)
    with pytest.raises(PackageError, match="a file; give the directory"):
        pack(packed, tmp_path / "twice.onnx")
    with pytest.raises(PackageError, match="no such package"):
        pack(tmp_path / "nowhere", tmp_path / "twice.onnx")
    shutil.copy(packed, package / "model.onnx")
    with pytest.raises(PackageError, match="packed already"):
        pack(package, tmp_path / "twice.onnx")


# --- Hostile and damaged files ------------------------------------------------------------------------------------

BAD_NAMES = [
    "../evil", "a/../../evil", "/etc/evil", "//host/evil", "\\\\host\\evil", "C:evil", "C:/evil", "a\\..\\evil",
    "", ".", "..", "a//b", "a/./b", "a/", "a\0b", "a\nb", "a\x1b[31m", "a\x85b", ".git/hooks/post-checkout",
    "a/.ssh/authorized_keys", "model.onnx", "MODEL.ONNX", "model.onnx/x", "CON", "aux.json", "nul .txt", "dot.",
    "space ", "x" * 300, "/".join(["d"] * 40), "stream.txt:hidden", ".bashrc", "sub/.netrc", ".optimum-htp/moves",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    """On the way out, and nothing is written: not even the directory."""
    entries = {FILE_PREFIX + "config.json": encoded(), FILE_PREFIX + name: encoded(b"evil")}
    packed = with_entries(tmp_path / "packed.onnx", entries)
    with pytest.raises(PackageError, match="nothing was written"):
        unpack(packed, tmp_path / "again" / "deeper")
    assert [path.name for path in tmp_path.iterdir()] == ["packed.onnx"]
    with pytest.raises(PackageError):
        load_package(packed)


def manifest(**changes: Any) -> str:
    tensor = {"position": 2, "name": "w", "bytes": 48, "data": {"location": "w.bin", "offset": "0", "length": "48"}}
    tensor.update(changes.pop("tensor", {}))
    document = {"version": 1, "onnx": "model.onnx", "external_files": {"w.bin": 48}, "external_tensors": [tensor]}
    return json.dumps({**document, **changes})


BAD_MANIFESTS = {
    "no JSON": "{",
    "no object": "[]",
    "nested": "[" * 100_000,
    "newer": manifest(version=2),
    "name of a type": manifest(onnx=["model.onnx"]),
    "no ONNX file": manifest(onnx="config.json"),
    "absolute": manifest(onnx="/tmp/evil.onnx"),
    "traversal": manifest(onnx="../evil.onnx"),
    "weights outside": manifest(external_files={"../evil": 48}, tensor={"data": {"location": "../evil"}}),
    "weights in the model": manifest(external_files={"model.onnx": 48}, tensor={"data": {"location": "model.onnx"}}),
    "weights in the config": manifest(
        external_files={"config.json": 48}, tensor={"data": {"location": "config.json"}}
    ),
    "gigantic file": manifest(external_files={"w.bin": 10**15}),
    "negative size": manifest(external_files={"w.bin": -1}),
    "boolean size": manifest(external_files={"w.bin": True}),
    "infinite size": manifest().replace('{"w.bin": 48}', '{"w.bin": Infinity}'),
    "gigantic offset": manifest(tensor={"data": {"location": "w.bin", "offset": "9" * 5000}}),
    "offset past the end": manifest(tensor={"data": {"location": "w.bin", "offset": "40"}}),
    "other file": manifest(tensor={"data": {"location": "v.bin"}}),
    "no location": manifest(tensor={"data": {}}),
    "no list": manifest(external_tensors=7),
}


@pytest.mark.parametrize("text", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_manifests_that_are_refused(text: str, tmp_path: Path) -> None:
    """What a file says of itself is checked before anything is made of it."""
    packed = with_entries(tmp_path / "packed.onnx", {FILE_PREFIX + "config.json": encoded(), MANIFEST: text})
    with pytest.raises(PackageError):
        unpack(packed, tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["packed.onnx"]


@pytest.mark.parametrize("value", ["!!!!", "e30", "e30=\n", "ü", "e30=e30="])
def test_what_is_no_base64(value: str, tmp_path: Path) -> None:
    """The other files are not written either."""
    entries = {FILE_PREFIX + "config.json": encoded(), FILE_PREFIX + "vocab.txt": value}
    packed = with_entries(tmp_path / "packed.onnx", entries)
    with pytest.raises(PackageError, match=r"'vocab.txt' is not base64"):
        unpack(packed, tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["packed.onnx"]


def test_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits on the number of files, on each and on all together."""
    entries = {FILE_PREFIX + name: encoded(bytes(60)) for name in ("config.json", "a.txt", "b.txt")}
    packed = with_entries(tmp_path / "packed.onnx", entries)
    for limit, complaint in (
        ("MAX_PACKED_FILES", "3 files"),
        ("MAX_PACKED_FILE_BYTES", "60 bytes"),
        ("MAX_SMALL_BYTES", "180 "),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"optimum_htp.package.archive.{limit}", 2)
            with pytest.raises(PackageError, match=complaint):
                unpack(packed, tmp_path / "again")


def test_files_that_are_no_packed_files(package: Path, tmp_path: Path) -> None:
    """A plain model, no model at all, a packed file that was cut off."""
    with pytest.raises(PackageError, match="not a packed file"):
        unpack(package / "model.onnx", tmp_path / "again")
    with pytest.raises(OnnxFileError):
        unpack(package / "config.json", tmp_path / "again")
    packed = pack(package, tmp_path / "packed.onnx").file
    os.truncate(packed, packed.stat().st_size - 10)
    with pytest.raises(OnnxFileError):
        unpack(packed, tmp_path / "again")
    assert not (tmp_path / "again").exists()


# --- The user's files, and failures -------------------------------------------------------------------------------


def test_files_in_the_way(package: Path, tmp_path: Path) -> None:
    """They are only replaced by whoever asks for it; others stay."""
    packed = pack(package, tmp_path / "packed.onnx").file
    target = tmp_path / "again"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    (target / "config.json").write_text("mine too")
    before = contents(target)
    with pytest.raises(PackageError, match="exists already, nothing was written; give --overwrite"):
        unpack(packed, target)
    assert contents(target) == before
    unpack(packed, target, overwrite=True)
    assert contents(target) == {**contents(package), "mine.txt": b"mine"}


def test_links_in_the_way(package: Path, tmp_path: Path) -> None:
    """Nothing is written through a link: a link to a file is replaced, one to a directory refused."""
    packed = pack(package, tmp_path / "packed.onnx").file
    target, elsewhere = tmp_path / "again", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.mkdir()
    (target / "sub").symlink_to(elsewhere)
    with pytest.raises(PackageError, match="sub: a link, and nothing is written through one"):
        unpack(packed, target, overwrite=True)
    assert contents(elsewhere) == {}
    (target / "sub").unlink()
    (elsewhere / "config.json").write_text("mine")
    (target / "config.json").symlink_to(elsewhere / "config.json")
    with pytest.raises(PackageError, match="exists already"):
        unpack(packed, target)
    unpack(packed, target, overwrite=True)
    assert contents(elsewhere) == {"config.json": b"mine"}
    assert contents(target) == contents(package)


def test_file_where_the_directory_should_be(package: Path, tmp_path: Path) -> None:
    """And a directory where a file should be."""
    packed = pack(package, tmp_path / "packed.onnx").file
    (tmp_path / "again").write_text("mine")
    with pytest.raises(HtpError, match="a file is in the way"):
        unpack(packed, tmp_path / "again")
    assert (tmp_path / "again").read_text() == "mine"
    (tmp_path / "other" / "config.json").mkdir(parents=True)
    with pytest.raises(HtpError, match=r"config.json"):
        unpack(packed, tmp_path / "other", overwrite=True)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["config.json"]


def fail(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["replace", "fsync", "write"])
def test_packing_that_fails_half_way(
    function: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination is what it was, and nothing else is left."""
    (tmp_path / "packed.onnx").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        if function == "replace":
            patch.setattr(Path, function, fail)  # Python 3.10's has the function of before
        with pytest.raises(HtpError, match=r"cannot write .*: No space left .* on that disk"):
            pack(package, tmp_path / "packed.onnx", overwrite=True)
    assert (tmp_path / "packed.onnx").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"package", "packed.onnx"}


@pytest.mark.parametrize("function", ["fsync", "write", "ftruncate"])
def test_unpacking_that_fails_half_way(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left, also not the directory."""
    package = write_package(tmp_path / "package", external="one")
    packed = pack(package, tmp_path / "packed.onnx").file
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(HtpError, match="No space left"):
            unpack(packed, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"package", "packed.onnx"}


def test_interrupted_unpacking(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C."""
    packed = pack(package, tmp_path / "packed.onnx").file

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unpack(packed, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"package", "packed.onnx"}


# --- The command line ---------------------------------------------------------------------------------------------


def test_commands(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There and back; 2 and one line on stderr where it can't be done."""
    packed, again = tmp_path / "packed.onnx", tmp_path / "again"
    assert main(["pack", str(package), str(packed)]) == 0
    assert main(["unpack", str(packed), str(again), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert sorted(report["files"]) == sorted(str(again / name) for name in contents(package))
    assert contents(again) == contents(package)
    for arguments in (["pack", str(package), str(packed)], ["unpack", str(packed), str(again)]):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "--overwrite" in err
        assert main([*arguments, "--overwrite"]) == 0
        capsys.readouterr()


def test_nothing_heavy_is_imported(package: Path, tmp_path: Path) -> None:
    """Packing needs neither onnx nor numpy, nor anything bigger."""
    code = (
        "import sys; from optimum_htp import pack, unpack, load_package\n"
        "package, packed, again = sys.argv[1:]\n"
        "unpack(pack(package, packed).file, again); load_package(packed).config\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'optimum'} & set(sys.modules)))"
    )
    arguments = [str(package), str(tmp_path / "packed.onnx"), str(tmp_path / "again")]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
