"""Validation of the structure: sound packages pass, and each way to break one fails just the check that is meant."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import zoo

import optimum_htp
from optimum_htp import PackageError, load_package, main_export, pack, strip, validate, validate_optimum_compatibility
from optimum_htp.cli.main import main
from optimum_htp.package.limits import MAX_JSON_DEPTH
from optimum_htp.verbs.validate import file_checks
from optimum_htp.verbs.validate.report import Check, Finding, combine, failed, good, skipped, warning
from optimum_htp.verbs.validate.shape_checks import vocabulary_sizes

QUICK = ("bert", "gpt2", "t5", "vit")
STRUCTURE = ("config", "labels", "generation", "preprocessors", "code", "files", "onnx", "versions", "external-data",
             "paths", "dimensions", "tags", "keys", "sidecar")  # fmt: skip


@pytest.fixture
def package(exported: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A function from a zoo name to a copy of its package, which a test may break."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(exported(name), tmp_path / name))

    return copy


def edit(path: Path, **changes: Any) -> None:
    """Changes members of a JSON file; None takes one out."""
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def edit_onnx(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(str(path), load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())


def externalize(path: Path) -> None:
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="model.onnx_data", size_threshold=0)


def relocate(package: Path, location: str) -> None:
    """Gives the external weights another place."""
    externalize(package / "model.onnx")

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    edit_onnx(package / "model.onnx", change)


def statuses(report: optimum_htp.ValidationReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


# --- Sound packages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_exports_are_valid(exported: Callable[[str], Path], name: str) -> None:
    """No check fails or warns, and all of them are there, in order."""
    report = validate(exported(name))
    assert [check for check in report.checks if check.status in ("failed", "warning")] == []
    assert tuple(check.name for check in report.checks) == STRUCTURE
    assert report.ok
    assert validate_optimum_compatibility(exported(name))


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_every_export_is_valid(exported: Callable[[str], Path], name: str) -> None:
    """The same over the whole zoo: no failed check."""
    if not zoo.ZOO[name].available:
        pytest.skip(f"{name} needs {', '.join(zoo.ZOO[name].needs)}")
    report = validate(exported(name))
    assert report.failed == ()


def test_what_is_found(exported: Callable[[str], Path]) -> None:
    """Sizes are held against the graph where both say them."""
    assert validate(exported("bert"))["labels"].reason == "3 labels, as many as the logits have"
    assert (
        validate(exported("t5"))["dimensions"].reason == "vocabulary 96, 2 layers of past key values, hidden size 16"
    )
    assert statuses(validate(exported("vit")))["generation"] == "skipped"
    with pytest.raises(KeyError):
        validate(exported("vit"))["load"]


def test_packed_file(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """A packed file has its config, tokenizer and sidecar in it."""
    packed = pack(exported("bert"), tmp_path / "bert.onnx").file
    report = validate(packed)
    assert report.ok
    assert report["labels"].reason == "3 labels, as many as the logits have"
    assert report["sidecar"].status == "ok"


def test_packed_file_that_cannot_be_unpacked(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """One of the files in it is damaged."""
    packed = pack(exported("bert"), tmp_path / "bert.onnx").file
    edit_onnx(packed, lambda model: model.metadata_props.add(key="pkg.optimum_htp.file.notes.txt", value="?"))
    report = validate(packed)
    assert [found.name for found in report.failed] == ["files"]
    assert "'notes.txt' is not base64" in report["files"].reason


def test_file_in_a_package(exported: Callable[[str], Path]) -> None:
    """An ONNX file is validated with what lies beside it."""
    assert statuses(validate(exported("t5") / "encoder_model.onnx"))["sidecar"] == "ok"
    assert validate(exported("t5") / "encoder_model.onnx").ok


def test_snapshot_of_the_hub(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """Its files are links into `blobs` of the same repository, and only those are fine."""
    repository = tmp_path / "models--org--name"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(exported("bert").iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    assert validate(snapshot).ok
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    (snapshot / "preprocessor_config.json").symlink_to(outside)
    assert [check.name for check in validate(snapshot).failed] == ["paths"]


def test_package_of_plain_optimum(package: Callable[[str], Path]) -> None:
    """Optimum can load it, and it is not tagged: both are said."""
    bert = package("bert")
    strip(bert)
    report = validate(bert)
    assert [check.name for check in report.failed] == ["tags"]
    assert report["tags"].reason == "model.onnx: no node is tagged"
    assert report["tags"].advice == f"tag it: optimum-cli htp tag {bert}"
    assert report["sidecar"].status == "warning"
    assert report["labels"].reason == "3 labels, as many as the logits have"  # the task is known from the class
    assert validate_optimum_compatibility(bert)


@pytest.mark.parametrize(("name", "task"), [("bert", "text-classification"), ("gpt2", "text-generation-with-past")])
def test_task_of_plain_optimum(package: Callable[[str], Path], name: str, task: str) -> None:
    """Without a sidecar, the class in config.json and the graph say it."""
    plain = package(name)
    strip(plain)
    assert load_package(plain).task == task


# --- Broken packages ----------------------------------------------------------------------------------------------


def _drop(name: str) -> Callable[[Path], None]:
    return lambda package: (package / name).unlink()


def _pipe(name: str) -> Callable[[Path], None]:
    def replace(package: Path) -> None:
        (package / name).unlink()
        os.mkfifo(package / name)

    return replace


def _write(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda package: (
        (package / name).write_bytes(content.encode() if isinstance(content, str) else content) and None
    )


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda package: edit(package / "config.json", **changes)


def _cut(name: str) -> Callable[[Path], None]:
    def cut(package: Path) -> None:
        content = (package / name).read_bytes()
        (package / name).write_bytes(content[: len(content) // 2])

    return cut


def _external(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def run(package: Path) -> None:
        externalize(package / "model.onnx")
        change(package / "model.onnx_data")

    return run


def _onnx(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    return lambda package: edit_onnx(package / "model.onnx", change)


def _escaping_link(package: Path) -> None:
    outside = package.parent / "outside.json"
    shutil.move(package / "tokenizer.json", outside)
    (package / "tokenizer.json").symlink_to(outside)


def _untag_one(model: onnx.ModelProto) -> None:
    del model.graph.node[3].metadata_props[:]


def _untag_all(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        del node.metadata_props[:]


def _repeat_key(model: onnx.ModelProto) -> None:
    for value in ("a", "b"):
        model.graph.node[3].metadata_props.add(key="someone.else", value=value)


def _rename_tensor(model: onnx.ModelProto) -> None:
    old = model.graph.node[0].output[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = "renamed"


def _other_tag(model: onnx.ModelProto) -> None:
    entry = next(entry for entry in model.graph.node[3].metadata_props if entry.key == "pkg.optimum_htp.tag")
    entry.value = "/SomeoneElse"


def _opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def _without_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]
    del model.graph.node[:]


# What is done to a package of a zoo model, the one check that has to fail, and a part of its reason.
BREAKS: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "no config": ("bert", _drop("config.json"), "config", "there is no config.json"),
    "config cut off": ("bert", _cut("config.json"), "config", "not JSON"),
    "config is a list": ("bert", _write("config.json", "[]"), "config", "not a JSON object"),
    "config is no text": ("bert", _write("config.json", b"\xff\xfe\x00"), "config", "not JSON"),
    "config too deep to parse": ("bert", _write("config.json", '{"a":' * 100_000), "config", "nested deeper than"),
    "config too deep": (
        "bert",
        _write("config.json", '{"a":' * (MAX_JSON_DEPTH + 1) + "1" + "}" * (MAX_JSON_DEPTH + 1)),
        "config",
        f"nested deeper than {MAX_JSON_DEPTH} levels",
    ),
    "no model type": ("bert", _config(model_type=None), "config", "has no `model_type`"),
    "model type is a number": ("bert", _config(model_type=7), "config", "`model_type` is not a string but 7"),
    "architectures is text": ("bert", _config(architectures="Bert"), "config", "not a list of class names"),
    "more labels than logits": (
        "bert",
        _config(id2label={str(i): f"L{i}" for i in range(4)}, label2id={f"L{i}": i for i in range(4)}),
        "labels",
        "config.json has 4 labels, but the logits of model.onnx have 3",
    ),
    "labels left at two": ("bert", _config(id2label=None, label2id=None), "labels", "has 2 labels"),
    "label2id of another model": ("bert", _config(label2id={"cat": 0}), "labels", "`label2id` has 'cat': 0"),
    "label2id lacks a label": ("bert", _config(label2id={"LABEL_0": 0}), "labels", "`label2id` lacks 'LABEL_1'"),
    "num_labels disagrees": ("bert", _config(num_labels=5), "labels", "`num_labels` is 5"),
    "num_labels is text": ("bert", _config(num_labels="3"), "labels", "not a count but '3'"),
    "id2label is a list": ("bert", _config(id2label=["a", "b", "c"]), "labels", "`id2label` is not an object"),
    "id2label without numbers": ("bert", _config(id2label={"a": "b"}), "labels", "keys that are not numbers"),
    "image labels": ("vit", _config(id2label={"0": "a"}, label2id={"a": 0}), "labels", "have 4"),
    "other vocabulary": ("bert", _config(vocab_size=97), "dimensions", "the vocabulary is 97 in config.json, 96 in"),
    "other vocabulary of a decoder": ("gpt2", _config(vocab_size=95), "dimensions", "the vocabulary is 95"),
    "other hidden size": ("bert", _config(hidden_size=24), "dimensions", "the hidden size is 24"),
    "other layers": ("gpt2", _config(n_layer=3), "dimensions", "has 3 layers, but model.onnx takes past key values for 2"),
    "other layers of a decoder": ("t5", _config(num_decoder_layers=4), "dimensions", "has 4 layers"),
    "generation config cut off": ("gpt2", _cut("generation_config.json"), "generation", "not JSON"),
    "tokenizer config cut off": ("bert", _cut("tokenizer_config.json"), "preprocessors", "not JSON"),
    "tokenizer cut off": ("bert", _cut("tokenizer.json"), "preprocessors", "tokenizer.json: not JSON"),
    "long tokenizer cut off": (
        "bert",
        _write("tokenizer.json", '{"a": "' + "x" * 300_000),
        "preprocessors",
        "tokenizer.json is not a JSON object, or is cut off",
    ),
    "processor config is no object": ("vit", _write("preprocessor_config.json", "3"), "preprocessors", "not a JSON object"),
    "no tokenizer": (
        "bert",
        lambda package: [(package / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "preprocessors",
        "there is no tokenizer: the model loads, but `pipeline` needs a tokenizer",
    ),
    "no image processor": ("vit", _drop("preprocessor_config.json"), "preprocessors", "there is no image processor"),
    "no feature extractor": (
        "wav2vec2",
        _drop("preprocessor_config.json"),
        "preprocessors",
        "there is no feature extractor: the model loads, but `pipeline` needs a feature extractor",
    ),
    "tokenizer is a pipe": ("bert", _pipe("tokenizer.json"), "preprocessors", "not a regular file"),
    "sidecar is a pipe": ("bert", _pipe("export_metadata.json"), "sidecar", "not a regular file"),
    "onnx is a pipe": ("bert", _pipe("model.onnx"), "onnx", "not a regular file"),
    "no decoder": (
        "t5",
        lambda package: [file.unlink() for file in package.glob("decoder*.onnx")],
        "files",
        "there is encoder_model.onnx, but no decoder",
    ),
    "no encoder": ("t5", _drop("encoder_model.onnx"), "files", "but no encoder"),
    "onnx cut off": ("bert", _cut("model.onnx"), "onnx", "model.onnx, byte"),
    "onnx is empty": ("bert", _write("model.onnx", b""), "onnx", "the file is empty"),
    "onnx is a pointer": ("bert", _write("model.onnx", "version https://git-lfs.github.com/spec/v1\n"), "onnx", "Git LFS"),
    "graph is empty": ("bert", _onnx(_without_outputs), "onnx", "the graph is empty"),
    "IR of the future": ("bert", _onnx(lambda model: setattr(model, "ir_version", 99)), "versions", "IR version 99, and"),
    "opset of the future": ("bert", _onnx(_opset(99)), "versions", "opset 99, and ONNX Runtime"),
    "no opset": ("bert", _onnx(lambda model: model.ClearField("opset_import")), "versions", "which opset"),
    "no IR": ("bert", _onnx(lambda model: model.ClearField("ir_version")), "versions", "no IR version"),
    "external data gone": ("bert", _external(Path.unlink), "external-data", "model.onnx_data is not there"),
    "external data cut off": (
        "bert",
        _external(lambda path: os.truncate(path, path.stat().st_size - 1)),
        "external-data",
        "and the tensors in it need",
    ),
    "link out of the package": ("bert", _escaping_link, "paths", "tokenizer.json is a link to"),
    "link to nothing": (
        "bert",
        lambda package: (package / "extra.json").symlink_to("nothing.json"),
        "paths",
        "which is not there",
    ),
    "a node is not tagged": ("bert", _onnx(_untag_one), "tags", "1 of 233 nodes are not tagged, such as"),
    "a key twice": ("bert", _onnx(_repeat_key), "keys", "has the metadata key 'someone.else' twice"),
    "another graph": ("bert", _onnx(_rename_tensor), "sidecar", "model.onnx was changed after"),
    "another tag": ("bert", _onnx(_other_tag), "sidecar", "1 nodes have other tags than in export_metadata.json, or none"),
    "a tag that only the sidecar has": ("bert", _onnx(_untag_one), "sidecar", "1 nodes have other tags than in"),
    "sidecar cut off": ("bert", _cut("export_metadata.json"), "sidecar", "not JSON"),
    "sidecar of another package": ("bert", lambda package: edit(package / "export_metadata.json", files={}), "sidecar",
                                   "does not know model.onnx"),
    "sidecar of more files": ("t5", _drop("decoder_with_past_model.onnx"), "sidecar", "which is not there"),
}  # fmt: skip

# What else has to fail, because it is true as well: then the sidecar describes another graph, or files that are gone.
ALSO = {case: ["sidecar"] for case in ("graph is empty", "no decoder", "no encoder")}


@pytest.mark.parametrize("case", sorted(BREAKS))
def test_broken_package(package: Callable[[str], Path], case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that is meant fails, with its reason, and no other does."""
    name, damage, check, reason = BREAKS[case]
    monkeypatch.setattr(file_checks, "installed_runtime", lambda: (1, 31))  # one whose limits are known
    broken = package(name)
    if case == "a node is not tagged":  # the sidecar would still know it
        (broken / "export_metadata.json").unlink()
    damage(broken)
    report = validate(broken)
    assert [found.name for found in report.failed] == [check, *ALSO.get(case, [])]
    assert reason in report[check].reason
    assert not report.ok
    optimum_loads_it = check in ("tags", "keys", "sidecar")
    assert validate_optimum_compatibility(broken) is optimum_loads_it


@pytest.mark.parametrize("location", ["../outside", "/etc/passwd", "a/../../outside", "C:\\data", "..\\outside"])
def test_external_data_outside(package: Callable[[str], Path], location: str) -> None:
    """Weights are never looked for outside the package, wherever the file says they are, and what is there is not told."""
    bert = package("bert")
    relocate(bert, location)
    shutil.copyfile(bert / "model.onnx_data", bert.parent / "outside")
    report = validate(bert)
    assert [check.name for check in report.failed] == ["paths"]
    assert f"reads its weights from {location!r}, outside the package" in report["paths"].reason


def test_external_data_through_a_link(package: Callable[[str], Path]) -> None:
    """A link with an innocent name leads out as well."""
    bert = package("bert")
    relocate(bert, "weights/data")
    outside = bert.parent / "outside"
    outside.mkdir()
    shutil.move(bert / "model.onnx_data", outside / "data")
    (bert / "weights").symlink_to(outside)
    assert [check.name for check in validate(bert).failed] == ["paths"]


def test_external_data(package: Callable[[str], Path]) -> None:
    """Weights outside the ONNX file are fine where they are all there."""
    bert = package("bert")
    externalize(bert / "model.onnx")
    report = validate(bert)
    assert report.ok
    assert report["external-data"].reason.endswith("bytes in 1 file")


def test_missing_config_says_how_to_repair_it(package: Callable[[str], Path]) -> None:
    """What is missing, and the command."""
    bert = package("bert")
    (bert / "config.json").unlink()
    check = validate(bert)["config"]
    assert check.reason == "there is no config.json, which says what kind of model this is"
    assert check.advice == f"write it: optimum-cli htp tag {bert} --model MODEL"


# What is done to a package, the check that warns, and a part of its reason: it still loads.
WARNINGS: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "no generation config": ("gpt2", _drop("generation_config.json"), "generation", "there is no generation_config"),
    "no architectures": ("bert", _config(architectures=None), "config", "has no `architectures`"),
    "gap in the labels": (
        "bert",
        _config(id2label={"0": "a", "1": "b", "5": "c"}, label2id={"a": 0, "b": 1, "c": 5}),
        "labels",
        "does not number its 3 labels from 0 on",
    ),
    "code is missing": ("bert", _config(auto_map={"AutoModel": "modeling_x.Model"}), "code", "names modeling_x.py"),
    "sidecar is missing": ("bert", _drop("export_metadata.json"), "sidecar", "there is no export_metadata.json"),
    "tags in the sidecar only": ("bert", _onnx(_untag_all), "tags", "0 of 233 nodes carry their tags"),
    "old opset": ("bert", _onnx(_opset(6)), "versions", "promises nothing below 7"),
}


@pytest.mark.parametrize("case", sorted(WARNINGS))
def test_incomplete_package(package: Callable[[str], Path], case: str) -> None:
    """What can still be loaded is no failure."""
    name, damage, check, reason = WARNINGS[case]
    incomplete = package(name)
    damage(incomplete)
    report = validate(incomplete)
    assert [found.name for found in report.warnings] == [check]
    assert reason in report[check].reason
    assert report.ok


REPAIRED = ("no config", "tags in the sidecar only", "config cut off", "no model type", "no tokenizer", "another tag", "a tag that only the sidecar has", "sidecar cut off",
            "sidecar is a pipe", "another graph", "sidecar is missing")  # fmt: skip


@pytest.mark.parametrize("case", REPAIRED)
def test_the_advice_repairs_the_package(
    package: Callable[[str], Path], zoo_model: Callable[[str], Path], case: str
) -> None:
    """The command that a check names fixes what it complains of."""
    name, damage, check, _ = BREAKS[case] if case in BREAKS else WARNINGS[case]
    broken = package(name)
    damage(broken)
    advice = validate(broken)[check].advice
    if "delete it" in advice:
        (broken / ("config.json" if check == "config" else "export_metadata.json")).unlink()
    words = advice.replace("MODEL", str(zoo_model(name))).partition("optimum-cli htp ")[2].split()
    assert main(words) == 0
    assert {
        found.name: found.reason for found in validate(broken).checks if found.status in ("failed", "warning")
    } == {}


def test_labels_that_share_a_name(package: Callable[[str], Path]) -> None:
    """ImageNet has two classes `crane`: `label2id` then has fewer entries, and that is right."""
    vit = package("vit")
    edit(vit / "config.json", id2label={"0": "crane", "1": "cat", "2": "crane", "3": "dog"},
         label2id={"crane": 2, "cat": 1, "dog": 3})  # fmt: skip
    assert validate(vit)["labels"].status == "ok"


def test_nothing_is_read_through_a_pipe(package: Callable[[str], Path]) -> None:
    """A config that is a named pipe would block for ever."""
    bert = package("bert")
    (bert / "config.json").unlink()
    os.mkfifo(bert / "config.json")
    assert "not a regular file" in validate(bert)["config"].reason


@pytest.mark.parametrize(("runtime", "status"), [((1, 18), "ok"), ((1, 24), "ok"), ((9, 0), "ok"), (None, "skipped")])
def test_installed_runtime(
    exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, runtime: Any, status: str
) -> None:
    """IR 8 and opset 18 run on every version that Optimum takes."""
    monkeypatch.setattr(file_checks, "installed_runtime", lambda: runtime)
    assert validate(exported("bert"))["versions"].status == status


def test_runtime_newer_than_the_table(package: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes beyond the last known version can't be known."""
    bert = package("bert")
    edit_onnx(bert / "model.onnx", _opset(40))
    monkeypatch.setattr(file_checks, "installed_runtime", lambda: (9, 0))
    assert validate(bert)["versions"].status == "warning"


def test_limits_are_those_of_the_installed_runtime() -> None:
    """The table against ONNX Runtime itself: the highest it says is taken, one more is not."""
    import onnxruntime

    version = file_checks.installed_runtime()
    assert version is not None
    highest_ir, highest_opset = file_checks._RUNTIME_LIMITS[
        max(known for known in file_checks._RUNTIME_LIMITS if known <= version)
    ]
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])

    def taken(ir: int, opset: int) -> bool:
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        model.ir_version = ir
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:
            return False
        return True

    assert taken(highest_ir, highest_opset)
    if version <= max(file_checks._RUNTIME_LIMITS):
        assert not taken(highest_ir + 1, 13)
        assert not taken(8, highest_opset + 1)


def test_source_without_a_tokenizer(zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """The package has all that there was: said, but no failure."""
    source = Path(shutil.copytree(zoo_model("bert"), tmp_path / "source"))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (source / name).unlink()
    main_export(str(source), tmp_path / "package", task="text-classification", do_validation=False)
    report = validate(tmp_path / "package")
    assert report.ok
    assert report["preprocessors"].status == "warning"
    assert report["preprocessors"].reason.endswith("the source model had none")
    assert validate_optimum_compatibility(tmp_path / "package")


# --- What is no package -------------------------------------------------------------------------------------------


def test_no_permission(package: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that may not be looked into is not taken for an empty one."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PackageError, match="fix its permissions"):
        validate(package("bert"))


def test_no_package(tmp_path: Path) -> None:
    """A path that is none, and a directory without ONNX files."""
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(PackageError):
            validate(path)
        assert not validate_optimum_compatibility(path)


# --- The command --------------------------------------------------------------------------------------------------


def test_command(package: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """0 where nothing failed, 1 where a check did, 2 for what is no package."""
    bert = package("bert")
    assert main(["validate", str(bert)]) == 0
    assert "14 checks: nothing failed" in capsys.readouterr().out
    (bert / "config.json").unlink()
    assert main(["validate", str(bert)]) == 1
    shown = capsys.readouterr().out
    assert "config         failed   there is no config.json" in shown
    assert f"-> write it: optimum-cli htp tag {bert} --model MODEL" in shown
    assert main(["validate", str(bert / "nothing")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")


def test_command_json(package: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The same for machines."""
    bert = package("bert")
    (bert / "config.json").unlink()
    assert main(["validate", str(bert), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["task"]) == (False, "text-classification")
    assert document["counts"]["failed"] == 1
    assert {"name", "status", "reason", "advice"} == document["checks"][0].keys()


@pytest.mark.parametrize("option", [["--task", "fill-mask"], ["--shape", "batch_size=2"], ["--tolerance", "0.1"]])
def test_options_of_what_is_not_asked_for(
    exported: Callable[[str], Path], option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is for `--load` or `--model` is not ignored without them."""
    assert main(["validate", str(exported("bert")), *option]) == 2
    assert "--model MODEL" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--tolerance", "-1"], ["--tolerance", "x"], ["--shape", "a"], ["--shape", "a=0"]])
def test_command_refuses(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Options that say nothing."""
    with pytest.raises(SystemExit) as stopped:
        main(["validate", "x", *option])
    assert stopped.value.code == 2
    assert "is n" in capsys.readouterr().err


def test_names_cannot_reach_the_terminal(package: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """What a file says is escaped."""
    bert = package("bert")
    edit(bert / "config.json", label2id={"\x1b[2Jevil": 0})
    assert main(["validate", str(bert)]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_structure_imports_nothing_heavy(exported: Callable[[str], Path]) -> None:
    """Neither torch nor onnx nor onnxruntime nor numpy, also for what the command shows in a pipe."""
    code = (
        "import sys; from optimum_htp.cli.main import main; "
        f"code = main(['validate', {str(exported('t5'))!r}]); "
        "print(code, sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'transformers', 'optimum', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0 []"


# --- The report ---------------------------------------------------------------------------------------------------


def test_combine() -> None:
    """As bad as the worst finding, with the reasons of those that are as bad, each once."""

    def findings() -> Iterator[Finding]:
        yield good("fine")
        yield warning("odd", "look")
        yield failed("bad", "mend it")
        yield failed("bad", "mend it")
        yield failed("worse", "mend it")

    assert combine("x", findings(), ok="well") == Check("x", "failed", "bad; worse", "mend it")
    assert combine("x", [], ok="well") == Check("x", "ok", "well")
    assert combine("x", [skipped("no"), good("yes")], ok="well") == Check("x", "ok", "yes")
    many = combine("x", [failed(str(number)) for number in range(8)], ok="")
    assert many.reason == "0; 1; 2; 3; 4; and 3 more"


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"vocab_size": 96}, {96}),
        ({"n_words": 96, "type_vocab_size": 2}, {96}),
        ({"text_config": {"vocab_size": 96}, "vision_config": {"hidden_size": 8}}, {96}),
        ({"encoder": {"model_type": "bert", "vocab_size": 96}, "decoder": {"model_type": "bert"}}, None),
        ({"model_type": "musicgen", "vocab_size": 96}, None),
        ({"model_type": "vit"}, None),
    ],
)
def test_vocabulary_sizes(config: dict[str, Any], sizes: set[int] | None) -> None:
    """A nested config leaves out what is its type's default: then nothing is known."""
    assert vocabulary_sizes(config) == sizes


ODD_VALUES = (None, 3, -1, 1.5, True, "x", "", [], {}, [1], ["a"], {"a": 1}, {"0": None}, 10**30, [[]], "\ud800")

# By members of config.json: the check that looks at them, what that says of an odd value, and of those that are less
# odd than others, and the words that a failure has to name it by. What no structural check looks at changes nothing.
ODD_CONFIGS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "model_type": ("config", "failed", {'"x"': "ok", '"\\ud800"': "ok"}, "`model_type`"),
    "architectures": ("config", "failed", {"null": "warning", '["a"]': "ok"}, "`architectures`"),
    "auto_map": ("code", "ok", {}, ""),
    "id2label": ("labels", "failed", {}, "`id2label`|has 2 labels"),
    "label2id": ("labels", "failed", {"null": "ok"}, "`label2id`"),
    "num_labels": ("labels", "failed", {"null": "ok", "3": "ok"}, "`num_labels`"),
    "vocab_size": ("dimensions", "skipped", dict.fromkeys(["3", "-1", "true", str(10**30)], "failed"), "vocabulary"),
    "hidden_size": ("dimensions", "ok", dict.fromkeys(["3", "-1", "true", str(10**30)], "failed"), "hidden size"),
    "text_config decoder num_hidden_layers is_encoder_decoder pretrained_cfg architecture": ("config", "ok", {}, ""),
}


@pytest.mark.parametrize("members", ODD_CONFIGS)
def test_odd_configs(package: Callable[[str], Path], members: str) -> None:
    """Whatever a config says, the answer is a report: the check that it concerns says so, and no other changes."""
    bert = package("bert")
    document = json.loads((bert / "config.json").read_text())
    sound = statuses(validate(bert))
    check, usual, others, words = ODD_CONFIGS[members]
    for value in ODD_VALUES:
        (bert / "config.json").write_text(json.dumps({**document, **dict.fromkeys(members.split(), value)}))
        report = validate(bert)
        status = others.get(json.dumps(value), usual)
        assert statuses(report) == {**sound, check: status}, value
        if status == "failed":
            assert re.search(words, report[check].reason), value
            assert report[check].advice, value
