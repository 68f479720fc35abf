"""Links in packages: one rule for every verb, as SECURITY.md and `package/links.py` say it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from optimum_htp import extract
from optimum_htp.cli.main import main
from optimum_htp.errors import PackageError
from optimum_htp.models.auto import AutoModelForONNX
from optimum_htp.models.inputs import InputSizes, phases
from optimum_htp.models.part_values import part_inputs
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.extracted import cut_from
from optimum_htp.package.links import external_file, package_files
from optimum_htp.verbs.validate import worker

Layout = Callable[[Path, Path], Path]

# Each with its arguments, for the package PKG and its source model MODEL, and the files that it changes.
IN_PLACE = {
    "tag": ("PKG --force --model MODEL --no-namespace", {"model.onnx", "export_metadata.json"}),
    "strip": ("PKG", {"model.onnx"}),
    "select": ("PKG LayerNorm --write-layer-annotations", {"model.onnx"}),
    "params": ("PKG --model MODEL --rename", {"model.onnx", "export_metadata.json"}),
    "project": ("PKG --reference REFERENCE", {"model.onnx", "export_metadata.json"}),
}
ELSEWHERE = {
    "project": "PKG --output OUT",
    "extract": "PKG bert.encoder OUT",
    "expose": "PKG BertLayer --output OUT",
    "functions": "PKG --output OUT",
    "pack": "PKG OUT.onnx",
}


@pytest.fixture(scope="module")
def external(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with external weights; treat it as read-only."""
    package = tmp_path_factory.mktemp("external") / "package"
    shutil.copytree(exported("bert"), package)
    path = package / "model.onnx"
    model = onnx.load(path)
    path.unlink()
    onnx.save(model, path, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    return package


def hub(package: Path, place: Path) -> Path:
    """As `huggingface_hub` lays it out: a snapshot of links to blobs."""
    snapshot, blobs = place / "models--acme--tiny" / "snapshots" / ("a" * 40), place / "models--acme--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(package.iterdir())):
        shutil.copyfile(file, blobs / f"{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def farm(package: Path, place: Path) -> Path:
    """Links to the files of another package."""
    shutil.copytree(package, place / "original")
    (place / "farm").mkdir()
    for file in (place / "original").iterdir():
        (place / "farm" / file.name).symlink_to(file)
    return place / "farm"


def behind(package: Path) -> dict[Path, bytes]:
    """What the links of a package lead to."""
    return {path.resolve(): path.read_bytes() for path in package.iterdir() if path.is_symlink()}


def filled(arguments: str, **values: Path) -> list[str]:
    named = dict(zip(("PKG", "MODEL", "REFERENCE", "OUT"), ("package", "model", "reference", "out"), strict=True))
    for word, key in named.items():
        if key in values:
            arguments = arguments.replace(word, str(values[key]))
    return arguments.split()


@pytest.mark.parametrize("layout", [hub, farm])
@pytest.mark.parametrize("verb", IN_PLACE)
def test_in_place(
    verb: str,
    layout: Layout,
    exported: Callable[..., Path],
    zoo_model: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a verb changes becomes a file where a link was; what the links led to stays, byte for byte."""
    package = layout(exported("bert"), tmp_path)
    if verb == "project":  # a tool dropped the tags
        model = onnx.load(package / "model.onnx")
        for node in model.graph.node:
            del node.metadata_props[:]
        onnx.save(model, (package / "model.onnx").resolve())
    before = behind(package)
    arguments, changed = IN_PLACE[verb]
    given = filled(arguments, package=package, model=zoo_model("bert"), reference=exported("bert"))
    assert main([verb, *given]) == 0, capsys.readouterr().err
    for path, content in before.items():
        assert path.read_bytes() == content, path
    assert {path.name for path in package.iterdir() if not path.is_symlink()} == changed
    assert not list(package.glob(".*"))


@pytest.mark.parametrize("verb", ELSEWHERE)
def test_snapshot_of_the_hub(verb: str, external: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blobs of its own repository are the package's files: what is written has their content, and no link."""
    package = hub(external, tmp_path)
    assert main([verb, *filled(ELSEWHERE[verb], package=package, out=tmp_path / "out")]) == 0, capsys.readouterr().err
    written = tmp_path / "out" if verb != "pack" else tmp_path / "out.onnx"
    files = list(written.rglob("*")) if written.is_dir() else [written]
    assert not any(path.is_symlink() for path in files)
    if verb == "project":
        assert (written / "model.onnx_data").read_bytes() == (external / "model.onnx_data").read_bytes()


@pytest.mark.parametrize("verb", ["compare", "profile", "params"])
def test_reading_a_snapshot_of_the_hub(
    verb: str, external: Path, zoo_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """External weights are looked for beside the link, not beside what it leads to."""
    arguments = {
        "compare": "PKG --model MODEL --threads 1",
        "profile": "PKG --runs 1 --warmup 0",
        "params": "PKG --model MODEL --no-save",
    }
    given = filled(arguments[verb], package=hub(external, tmp_path), model=zoo_model("bert"))
    assert main([verb, *given]) == 0, capsys.readouterr()


@pytest.mark.parametrize("name", ["", "model.onnx"], ids=["package", "file"])
def test_part_of_a_snapshot_of_the_hub(name: str, external: Path, tmp_path: Path) -> None:
    """A part knows the snapshot and not the blob, and runs on what the weights behind the links give it."""
    snapshot, part = hub(external, tmp_path), tmp_path / "part.onnx"
    extract(snapshot / name, "bert.encoder.layer.1", output=part)
    record = cut_from(read_model(part))
    assert record is not None
    _, file = record.source(part)
    assert file.path.absolute() == snapshot / "model.onnx"
    sources = read_model(file.path), read_model(external / "model.onnx")
    of_links, of_files = (
        part_inputs(
            read_model(part),
            record,
            source,
            None,
            phase=phases(source)[0],
            sizes=InputSizes(batch_size=1, sequence_length=3),
        )
        for source in sources
    )
    assert of_links and of_links.keys() == of_files.keys()
    for tensor, array in of_links.items():
        np.testing.assert_array_equal(array, of_files[tensor], err_msg=tensor)


def test_snapshot_of_the_hub_is_loaded(external: Path, tmp_path: Path) -> None:
    """And checked by `validate --load`, though onnx's checker takes no links."""
    snapshot = hub(external, tmp_path)
    assert AutoModelForONNX.from_pretrained(snapshot).config.model_type == "bert"
    status, *_ = worker._Run({"files": [str(snapshot / "model.onnx")]}).checker()
    assert status == "ok"


def leads_out(package: Path, outside: Path) -> None:
    (package / "notes.txt").symlink_to(outside / "secret")


def leads_out_by_two(package: Path, outside: Path) -> None:
    (package / "notes.txt").symlink_to("more.txt")
    (package / "more.txt").symlink_to(outside / "secret")


def directory_outside(package: Path, outside: Path) -> None:
    (package / "more").symlink_to(outside)


def endless_file(package: Path, outside: Path) -> None:
    (package / "weights.bin").symlink_to("/dev/zero")


def loops(package: Path, outside: Path) -> None:
    (package / "a").symlink_to(".")
    (package / "b").symlink_to(".")


def broken(package: Path, outside: Path) -> None:
    (package / "notes.txt").symlink_to("nothing")


def pipe(package: Path, outside: Path) -> None:
    os.mkfifo(package / "pipe")


def weights_outside(package: Path, outside: Path) -> None:
    shutil.move(package / "model.onnx_data", outside / "weights")
    (package / "model.onnx_data").symlink_to(outside / "weights")


def graph_outside(package: Path, outside: Path) -> None:
    shutil.move(package / "model.onnx", outside / "model.onnx")
    (package / "model.onnx").symlink_to(outside / "model.onnx")


def another_repository(package: Path, outside: Path) -> None:
    """Of the Hub's cache."""
    blob = outside / "models--acme--private" / "blobs" / "1"
    blob.parent.mkdir(parents=True)
    blob.write_text("TOP SECRET")
    (package / "notes.txt").symlink_to(blob)


TRAPS = [
    leads_out, leads_out_by_two, directory_outside, endless_file, loops, broken, pipe, weights_outside, graph_outside,
    another_repository,
]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
@pytest.mark.parametrize("verb", ELSEWHERE)
def test_nothing_outside_is_copied(
    verb: str, trap: Callable[[Path, Path], None], external: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says which link it is; nothing is written. `extract` copies the ONNX file and its weights only."""
    package, outside = tmp_path / "package", tmp_path / "outside"
    shutil.copytree(external, package)
    outside.mkdir()
    (outside / "secret").write_text("TOP SECRET")
    trap(package, outside)
    code = main([verb, *filled(ELSEWHERE[verb], package=package, out=tmp_path / "out")])
    error = capsys.readouterr().err
    if verb == "extract" and trap not in (weights_outside, graph_outside):
        assert code == 0
        return
    assert code == 2
    assert error.count("\n") == 1
    assert "link" in error or "not a regular file" in error
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.onnx").exists()


def test_links_within_a_package(external: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They stand for the files that they lead to."""
    package = tmp_path / "package"
    shutil.copytree(external, package)
    (package / "notes.txt").symlink_to("config.json")
    (package / "model.onnx_data").rename(package / "weights")
    (package / "model.onnx_data").symlink_to("weights")
    assert main(["project", str(package), "--output", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    for name in ("notes.txt", "model.onnx_data"):
        assert not (tmp_path / "out" / name).is_symlink()
        assert (tmp_path / "out" / name).read_bytes() == (package / name).read_bytes()


def test_a_link_that_the_user_names(external: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is what it leads to: the user knows. External weights are looked for beside the link."""
    (tmp_path / "link").symlink_to(external)
    assert main(["project", str(tmp_path / "link"), "--output", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    place = tmp_path / "place"
    place.mkdir()
    (place / "model.onnx").symlink_to(external / "model.onnx")
    assert main(["extract", str(place / "model.onnx"), "bert.encoder", str(tmp_path / "part")]) == 2
    assert "there is no such file in the package" in capsys.readouterr().err
    shutil.copy(external / "model.onnx_data", place)
    given = [str(place / "model.onnx"), "bert.encoder", str(tmp_path / "part")]
    assert main(["extract", *given]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pack", "extract", "expose", "functions", "project"])
def test_output_that_is_a_link(
    verb: str, exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The link is replaced, what it leads to stays."""
    package = tmp_path / "package"
    shutil.copytree(exported("bert"), package)
    (tmp_path / "theirs.onnx").write_text("theirs")
    output = tmp_path / "out.onnx"
    output.symlink_to("theirs.onnx")
    source = [str(package)] if verb == "pack" else [str(package / "model.onnx")]
    arguments = {
        "pack": [str(output)],
        "extract": ["bert.encoder", str(output)],
        "expose": ["BertLayer", "--output", str(output)],
        "functions": ["--output", str(output)],
        "project": ["--output", str(output)],
    }
    assert main([verb, *source, *arguments[verb]]) == 2, "without --overwrite"
    assert main([verb, *source, *arguments[verb], "--overwrite"]) == 0, capsys.readouterr().err
    assert not output.is_symlink()
    assert read_model(output).graph.nodes
    assert (tmp_path / "theirs.onnx").read_text() == "theirs"


def test_external_file(tmp_path: Path) -> None:
    """Names that lead out, links that do, and what is not there."""
    (tmp_path / "package" / "onnx").mkdir(parents=True)
    file = tmp_path / "package" / "onnx" / "model.onnx"
    (tmp_path / "package" / "weights").write_text("")
    (file.parent / "inside").symlink_to("../weights")
    (file.parent / "outside").symlink_to(tmp_path)
    (tmp_path / "theirs").write_text("")
    assert external_file(file, "inside", package=tmp_path / "package").name == "inside"
    for location, words in {
        "../weights": "leads out",
        "outside": "a link that leads out of the package",
        "outside/theirs": "no such file in the package",
        "nothing": "no such file in the package",
        "/etc/passwd": "absolute",
    }.items():
        with pytest.raises(PackageError, match=words):
            external_file(file, location, package=tmp_path / "package")


def test_files_of_a_package(tmp_path: Path) -> None:
    """What is hidden, what is staged and Python's caches are not of it."""
    for name in ("a.onnx", ".gitattributes", "sub/b.json", ".git/config", ".optimum-htp/new/c", "x/__pycache__/d.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert sorted(name for name, _ in package_files(tmp_path)) == ["a.onnx", "sub/b.json"]


@pytest.mark.parametrize("verb", ["project", "extract", "unpack"])
def test_what_a_kill_left_is_not_a_strangers_file(
    verb: str, exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output counts as empty, without --overwrite."""
    package, packed, out = exported("bert"), tmp_path / "packed.onnx", tmp_path / "out"
    assert main(["pack", str(package), str(packed)]) == 0
    (out / ".optimum-htp" / "new").mkdir(parents=True)
    (out / ".optimum-htp" / "new" / "model.onnx").write_text("half of")
    arguments = {
        "project": [str(package), "--output", str(out)],
        "extract": [str(package), "bert.encoder", str(out)],
        "unpack": [str(packed), str(out)],
    }
    assert main([verb, *arguments[verb]]) == 0, capsys.readouterr().err
    assert not (out / ".optimum-htp").exists()
    assert read_model(out / "model.onnx").graph.nodes
