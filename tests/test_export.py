"""`main_export`: Optimum's arguments, Optimum's package, Optimum's bytes, and a tag on every node."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import zoo
from oracle import seed_everything

import optimum_htp
from optimum_htp.errors import HtpError, PackageError, TaggingError
from optimum_htp.export import exporter as export_module
from optimum_htp.export.exporter import HtpExporter, main_export
from optimum_htp.onnxfile.stamp import FileStamp
from optimum_htp.package.node_metadata import NAME_SCOPES, NAMESPACE, SOURCE, TAG, Annotations, HtpOptions
from optimum_htp.package.package import HtpPackage
from optimum_htp.package.sidecar.sidecar import SIDECAR, Sidecar
from optimum_htp.tagging.tracing.tap import ModuleTap, place_in_model
from optimum_htp.verbs.strip import strip

ZooModel = Callable[[str], Path]
SCHEMA = Path(optimum_htp.__file__).parent / "schemas" / "export_metadata.schema.json"


def digests(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file below a directory."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def export(model: Path, output: Path, **kwargs: Any) -> export_module.ExportReport:
    """A seeded export without Optimum's validation."""
    seed_everything()
    return main_export(str(model), output, do_validation=False, **kwargs)


def plain_export(model: Path, output: Path, **kwargs: Any) -> None:
    """The same by Optimum."""
    from optimum.exporters.onnx import main_export as optimum_export

    seed_everything()
    optimum_export(str(model), output, do_validation=False, **kwargs)


@pytest.fixture(scope="module")
def plain_t5(zoo_model: ZooModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Optimum's own export of T5 consists of."""
    output = tmp_path_factory.mktemp("plain") / "t5"
    plain_export(zoo_model("t5"), output, task=zoo.ZOO["t5"].task)
    return digests(output)


@pytest.fixture(scope="module")
def bert(zoo_model: ZooModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagged package of a tiny BERT; read-only."""
    output = tmp_path_factory.mktemp("bert") / "package"
    export(zoo_model("bert"), output)
    return output


# --- The signature ------------------------------------------------------------------------------------------------


def test_signature_is_optimums() -> None:
    """The same parameters in the same order with the same defaults, and one of ours, by keyword only."""
    from optimum.exporters.onnx import main_export as optimum_export

    ours = dict(inspect.signature(main_export).parameters)
    extra = ours.pop("htp_options")
    assert extra.kind is inspect.Parameter.KEYWORD_ONLY
    theirs = inspect.signature(optimum_export).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert inspect.signature(HtpExporter().export) == inspect.signature(main_export)


def test_options_for_one_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They stand in for those of the exporter, which keeps its own."""
    used: list[HtpOptions] = []
    monkeypatch.setattr(HtpExporter, "attempt", lambda self, *_: (used.append(self.options), None))
    exporter = HtpExporter(HtpOptions(namespace=False))
    exporter.export("model", tmp_path, htp_options=HtpOptions(skeleton=False))
    exporter.export("model", tmp_path)
    assert used == [HtpOptions(skeleton=False), HtpOptions(namespace=False)]


def test_arguments_reach_optimum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every parameter by position, and unknown keyword arguments, arrive as Optimum's own would get them."""
    from optimum.exporters.onnx import __main__ as optimum_main

    original, seen = optimum_main.main_export, {}

    def stub(*args: Any, **kwargs: Any) -> None:
        seen.update(inspect.signature(original).bind(*args, **kwargs).arguments)

    stub.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    monkeypatch.setattr(optimum_main, "main_export", stub)
    names = [
        p.name for p in inspect.signature(original).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    ]  # fmt: skip
    values = {name: object() for name in names} | {"model_name_or_path": "model", "output": tmp_path / "out"}
    main_export(*values.values(), dynamo=True, batch_size=3)
    assert Path(seen.pop("output")).is_relative_to(tmp_path / "out")
    assert seen.pop("kwargs_shapes") == {"dynamo": True, "batch_size": 3}
    assert seen == {name: value for name, value in values.items() if name != "output"}


# --- The package --------------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("bert", {"task": "text-classification", "no_dynamic_axes": True}),
    "fp16": ("bert", {"task": "text-classification", "dtype": "fp16"}),
    "opset": ("vit", {"task": "image-classification", "opset": 14}),
    "unfolded": ("resnet", {"task": "image-classification", "do_constant_folding": False}),
    "monolith": ("t5", {"task": "text2text-generation", "monolith": True}),
    "no post-processing": ("t5", {"task": "text2text-generation-with-past", "no_post_process": True}),
    "merged": ("t5", {}),
    "with past": ("gpt2", {}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_strip_gives_back_optimums_bytes(shape: str, zoo_model: ZooModel, tmp_path: Path) -> None:
    """Stripped, a package is what a plain export in the same process writes, byte for byte; every node was tagged."""
    name, kwargs = SHAPES[shape]
    plain_export(zoo_model(name), tmp_path / "plain", **({"task": zoo.ZOO[name].task} | kwargs))
    result = export(zoo_model(name), tmp_path / "tagged", **kwargs)
    assert all(counts.nodes == counts.tagged > 0 and counts.unresolved == 0 for counts in result.files.values())
    assert set(digests(tmp_path / "tagged")) == set(digests(tmp_path / "plain")) | {SIDECAR}
    strip(tmp_path / "tagged")
    assert digests(tmp_path / "tagged") == digests(tmp_path / "plain")


@pytest.mark.parametrize("name", ["bert", pytest.param("t5", marks=pytest.mark.sweep)])
def test_external_data(name: str, zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its weights in external files, a package is tagged, loads, and strips to Optimum's bytes."""
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
    task = zoo.ZOO[name].task
    plain_export(zoo_model(name), tmp_path / "plain", task=task)
    result = export(zoo_model(name), tmp_path / "tagged", task=task)
    assert any(path.name.endswith(".onnx_data") for path in (tmp_path / "tagged").iterdir())
    assert sum(counts.unresolved for counts in result.files.values()) == 0
    for file in (tmp_path / "tagged").glob("*.onnx"):
        onnx.checker.check_model(str(file))
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    strip(tmp_path / "tagged")
    assert digests(tmp_path / "tagged") == digests(tmp_path / "plain")


@pytest.mark.parametrize(
    "kwargs",
    [{"optimize": "O1"}, {"optimize": "O2"}, {"optimize": "O3"}, {"slim": True}],
    ids=lambda kwargs: "-".join(map(str, kwargs.items())),
)
def test_optimized_in_the_export(kwargs: dict[str, Any], zoo_model: ZooModel, tmp_path: Path) -> None:
    """A package that Optimum optimizes is loadable, and each node has a tag; fused ones list their origins."""
    result = export(zoo_model("bert"), tmp_path / "out", task="text-classification", **kwargs)
    (file,) = HtpPackage(tmp_path / "out").files.values()
    assert len(file.tags) == len(file.model.graph.nodes) == result.files["model.onnx"].nodes
    assert result.files["model.onnx"].unresolved == 0
    assert all(len(tag.origins) != 1 for tag in file.tags.values())
    assert file.evidence == "sidecar"
    onnxruntime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"])


@pytest.mark.sweep
def test_external_data_beyond_two_gigabytes(zoo_model: ZooModel, tmp_path: Path) -> None:
    """A model past protobuf's limit is exported with external data, and tagged."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=1_100_000, hidden_size=512, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path / "model")
    result = main_export(str(tmp_path / "model"), tmp_path / "out", task="feature-extraction", do_validation=False)
    assert result.files["model.onnx"].unresolved == 0
    assert (tmp_path / "out" / "model.onnx_data").stat().st_size > 2**31
    onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])


def test_timm(tmp_path: Path) -> None:
    """A timm model, in a process that has timm; visibly skipped where `make test` did not put it there."""
    apart = Path(sys.prefix, "timm")
    if not apart.is_dir():
        pytest.skip("timm is not there: make test installs it")
    script = Path(__file__).with_name("timm_export.py")
    environment = os.environ | {"PYTHONPATH": str(apart)}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    package = HtpPackage(tmp_path / "out")
    counts = package.files["model.onnx"].counts
    assert counts.nodes == counts.tagged > 300
    assert counts.by_source["scope"] > 300
    assert package.sidecar is not None
    assert {"library": "timm", "dtype": "fp32"}.items() <= package.sidecar.source.items()
    assert package.files["model.onnx"].hierarchy.module("blocks.5").class_name == "Block"
    onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])


def test_package_is_optimums(zoo_model: ZooModel, bert: Path, tmp_path: Path) -> None:
    """Without stripping: the checker passes, weights and interface are the same, and ORT gives the same outputs."""
    plain_export(zoo_model("bert"), tmp_path / "plain", task="text-classification")
    onnx.checker.check_model(str(bert / "model.onnx"))
    ours, theirs = onnx.load(bert / "model.onnx").graph, onnx.load(tmp_path / "plain" / "model.onnx").graph
    assert list(ours.initializer) == list(theirs.initializer)
    assert (list(ours.input), list(ours.output)) == (list(theirs.input), list(theirs.output))
    assert [node.name for node in ours.node] == [node.name for node in theirs.node]
    outputs = []
    for directory in (bert, tmp_path / "plain"):
        session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
        ids = np.arange(8, dtype=np.int64).reshape(2, 4)
        feeds = {value.name: ids if value.name == "input_ids" else np.ones_like(ids) for value in session.get_inputs()}
        outputs.append(session.run(None, {**feeds, "token_type_ids": np.zeros_like(ids)}))
    assert all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))


def test_package_loads_in_a_pipeline(bert: Path) -> None:
    """`ORTModelForX.from_pretrained` and `pipeline` load the directory as it is."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    model = ORTModelForSequenceClassification.from_pretrained(bert)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    (found,) = pipeline("text-classification", model=model, tokenizer=tokenizer)("hello")
    logits = model(**tokenizer("hello", return_tensors="np")).logits[0]
    assert found["label"] == model.config.id2label[int(np.argmax(logits))]
    assert found["score"] == pytest.approx(float(np.exp(logits.max()) / np.exp(logits).sum()), rel=1e-4)


def test_keys_on_the_nodes(bert: Path, zoo_model: ZooModel, tmp_path: Path) -> None:
    """Tag, source and namespace by default; torch's own formats on request, each the length of the other."""
    for node in onnx.load(bert / "model.onnx").graph.node:
        keys = [prop.key for prop in node.metadata_props]
        assert len(keys) == len(set(keys))
        assert {TAG, SOURCE, NAMESPACE} <= set(keys)
        assert NAME_SCOPES not in keys
    export(zoo_model("bert"), tmp_path / "out", htp_options=HtpOptions(namespace=False, torch_metadata=True))
    for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node:
        props = {prop.key: prop.value for prop in node.metadata_props}
        scopes, classes = (eval(props[f"pkg.torch.onnx.{key}"]) for key in ("name_scopes", "class_hierarchy"))
        assert NAMESPACE not in props
        assert (scopes[0], scopes[-1], classes[-1]) == ("", node.name, f"{node.domain}::{node.op_type}")
        assert len(scopes) == len(classes)
        assert classes[0].endswith("BertForSequenceClassification")


def test_strip_leaves_the_keys_of_others(zoo_model: ZooModel, tmp_path: Path) -> None:
    """Where a tool dropped the list of our keys, `namespace` goes if it is ours, and torch's keys stay."""
    plain_export(zoo_model("bert"), tmp_path / "out", task=zoo.ZOO["bert"].task)
    file = tmp_path / "out" / "model.onnx"
    model = onnx.load(file)
    for node in model.graph.node:
        node.metadata_props.add(key=NAME_SCOPES, value=repr(["", node.name]))
    onnx.save(model, file)
    before = file.read_bytes()
    optimum_htp.tag_package(tmp_path / "out")
    tagged = onnx.load(file)
    assert all({NAMESPACE, NAME_SCOPES} <= {prop.key for prop in node.metadata_props} for node in tagged.graph.node)
    del tagged.metadata_props[:]
    onnx.save(tagged, file)
    strip(tmp_path / "out")
    assert file.read_bytes() == before


def test_namespace_of_a_node(bert: Path) -> None:
    """A box for each module around the node, none for the root: what Model Explorer draws."""
    graph = onnx.load(bert / "model.onnx").graph
    node = next(node for node in graph.node if node.name.endswith("layer.1/attention/self/query/MatMul"))
    props = {prop.key: prop.value for prop in node.metadata_props}
    boxes = ["bert: BertModel", "encoder: BertEncoder", "layer.1: BertLayer", "attention: BertAttention"]
    assert props[NAMESPACE] == "/".join([*boxes, "self: BertSdpaSelfAttention", "query: Linear"])
    assert props[TAG] == (
        "/BertForSequenceClassification/BertModel.bert/BertEncoder.encoder/BertLayer.layer.1/BertAttention.attention"
        "/BertSdpaSelfAttention.self/Linear.query"
    )


@pytest.mark.parametrize("name", ["bert", "t5", "albert", "deberta-v2", "clip"])
def test_sidecar(name: str, zoo_model: ZooModel, tmp_path: Path) -> None:
    """The sidecar is valid against its schema, agrees with the nodes, and comes back as it was written."""
    result = export(zoo_model(name), tmp_path / "out")
    document = json.loads((tmp_path / "out" / SIDECAR).read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)
    sidecar = Sidecar.read(tmp_path / "out")
    assert sidecar is not None
    assert sidecar.versions["torch"] == metadata.version("torch")
    assert sidecar.source["model"] == str(zoo_model(name))
    assert {"library": "transformers", "dtype": "fp32"}.items() <= sidecar.source.items()
    for file_name, file in HtpPackage(tmp_path / "out").files.items():
        assert file.evidence == "sidecar"
        assert file.tags == export_module_tags(file.path)
        assert file.counts == result.files[file_name] == sidecar.files[file_name].counts
        assert document["files"][file_name]["root_in_model"] in ("", "encoder")


def export_module_tags(path: Path) -> dict[tuple[str, int], Any]:
    """The tags on the nodes of a file."""
    from optimum_htp.onnxfile.reading import read_model
    from optimum_htp.package.node_metadata import read_tags

    return read_tags(read_model(path))


def test_roots_of_submodels(zoo_model: ZooModel, tmp_path: Path) -> None:
    """The sidecar says where an exported encoder sits in the model; a decoder is exported as the whole model."""
    export(zoo_model("t5"), tmp_path / "out")
    files = HtpPackage(tmp_path / "out").files
    roots = {name: tuple(root.in_model for root in file.tagged.roots) for name, file in files.items()}
    assert roots["encoder_model.onnx"] == ("encoder",)
    assert roots["decoder_model_merged.onnx"] == ("",)
    embedding = next(tag for tag in files["decoder_model.onnx"].tags.values() if "Embedding" in tag.tag)
    assert embedding.tag == "/T5ForConditionalGeneration/T5Stack.decoder/Embedding.embed_tokens"


# --- The task -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("bert", "text-classification"),
        ("distilbert", "question-answering"),
        ("roberta", "fill-mask"),
        ("gpt2", "text-generation-with-past"),
        ("t5", "text2text-generation-with-past"),
        ("vit", "image-classification"),
        ("wav2vec2", "automatic-speech-recognition"),
        ("whisper", "automatic-speech-recognition-with-past"),
        ("clip", "zero-shot-image-classification"),
        ("sentence-transformers", "feature-extraction"),
        ("stable-diffusion", "text-to-image"),
    ],
)
def test_auto_task_of_a_local_directory(
    name: str, task: str, zoo_model: ZooModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`task="auto"` on a directory is what it is for a Hub id, the with-past default included."""
    from optimum.exporters.onnx import __main__ as optimum_main

    seen: dict[str, Any] = {}
    monkeypatch.setattr(optimum_main, "onnx_export_from_model", lambda model, **kwargs: seen.update(kwargs))
    main_export(str(zoo_model(name)), tmp_path / "out", **zoo.ZOO[name].shapes)
    assert seen["task"] == task


def test_auto_task_that_cannot_be_known(zoo_model: ZooModel, tmp_path: Path) -> None:
    """Where the directory does not say its task, Optimum's own error stands."""
    shutil.copytree(zoo_model("bert"), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="Cannot infer the task"):
        main_export(str(tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- What goes wrong ----------------------------------------------------------------------------------------------


class LateExporter(HtpExporter):
    """Leaves the files as the exporter writes them, so that all tags are written when the package is complete."""

    def tag_content(self, content: bytes, export: Any) -> None:
        """Nothing while the file is written."""


class FailingExporter(LateExporter):
    """Fails on the last file of a package."""

    error: Exception

    def tag_file(self, model: Any, exports: Any) -> Any:
        """Fails on the encoder, which comes after the decoders."""
        if model.path.name == "encoder_model.onnx":
            raise self.error
        return super().tag_file(model, exports)


@pytest.mark.parametrize("error", [HtpError("planted"), OSError("planted"), KeyError("planted")], ids=repr)
def test_failed_pass_leaves_optimums_package(
    error: Exception, plain_t5: dict[str, str], zoo_model: ZooModel, tmp_path: Path
) -> None:
    """If the HTP pass fails for a file, the package stands untouched, without sidecar, and the error names the file.

    A bug keeps its type and its traceback; it leaves no tags either.
    """
    seed_everything()
    exporter = FailingExporter()
    exporter.error = error
    with pytest.raises((TaggingError, KeyError)) as raised:
        exporter.export(str(zoo_model("t5")), tmp_path / "out", do_validation=False)
    if isinstance(error, KeyError):
        assert raised.value is error
        assert raised.traceback[-1].name == "tag_file"
    else:
        assert str(raised.value).startswith("encoder_model.onnx could not be tagged: planted; ")
        assert str(raised.value).endswith("out has the package without tags, as Optimum wrote it")
    assert digests(tmp_path / "out") == plain_t5


def test_failed_writing_takes_back_what_was_written(
    plain_t5: dict[str, str], zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that can't be written leaves none of the package's files tagged."""
    write = Annotations.write

    def failing(self: Annotations, path: Path, destination: Path | None = None) -> None:
        if path.name == "encoder_model.onnx":
            raise HtpError(f"cannot write {destination}: No space left on device")
        write(self, path, destination)

    monkeypatch.setattr(Annotations, "write", failing)
    seed_everything()
    said = f"encoder_model.onnx could not be tagged: cannot write {tmp_path}/out/encoder_model.onnx: No space left"
    with pytest.raises(TaggingError, match=re.escape(said)):
        LateExporter().export(str(zoo_model("t5")), tmp_path / "out", do_validation=False)
    assert digests(tmp_path / "out") == plain_t5


@pytest.mark.parametrize("name", ["bert", "t5", "resnet", "clip"])
def test_tags_written_while_exporting_are_those_written_later(name: str, zoo_model: ZooModel, tmp_path: Path) -> None:
    """It makes no difference when the tags are written; what the exporter can write at once is not copied again."""
    for exporter, output in ((HtpExporter(), tmp_path / "at once"), (LateExporter(), tmp_path / "late")):
        seed_everything()
        exporter.export(str(zoo_model(name)), output, do_validation=False)
    at_once, late = digests(tmp_path / "at once"), digests(tmp_path / "late")
    del at_once[SIDECAR], late[SIDECAR]  # the seconds that were spent are in it
    assert at_once == late


# What reads, decides and writes, where it is used.
WORK = {
    "reads a file": ("optimum_htp.export.exporter.read_model", "optimum_htp.tagging.tracing.tap.read_model"),
    "reads what is in memory": ("optimum_htp.tagging.tracing.tap.read_content",),
    "decides tags": ("optimum_htp.tagging.rules.order.tag_model",),
    "packs a skeleton": ("optimum_htp.package.node_metadata.pack_skeleton",),
    "makes annotations": ("optimum_htp.package.node_metadata.Annotations.of",),
    "writes a tagged file": ("optimum_htp.package.node_metadata.rewrite_metadata",),
    "takes a digest": ("optimum_htp.export.exporter.graph_digest", "optimum_htp.package.sidecar.record.graph_digest"),
    "stages": ("optimum_htp.package.staging.StagedDirectory.__enter__",),
}


@pytest.mark.parametrize(("name", "files", "changed"), [("bert", 1, 0), ("t5", 3, 2)])
def test_everything_is_done_once(
    name: str, files: int, changed: int, zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that Optimum leaves alone is parsed, tagged and written once, while the exporter writes it.

    This fails where the fast path silently stops working. Of T5's exports Optimum changes two, and merges them.
    """
    counts: Counter[str] = Counter()

    def counted(what: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return function(*args, **kwargs)

        return call

    for what, places in WORK.items():
        for place in places:
            monkeypatch.setattr(place, counted(what, pkgutil.resolve_name(place)))
    report = export(zoo_model(name), tmp_path / "out")
    merged = int(changed > 0)
    assert report.late == {}
    assert [file.unresolved for file in report.files.values()] == [0] * (files + merged)
    assert counts == Counter(
        {
            "reads a file": changed + merged,
            "reads what is in memory": files,
            "decides tags": files,
            "packs a skeleton": files + changed + merged,
            "makes annotations": files + changed + merged,
            "writes a tagged file": changed + merged,
            "takes a digest": files + merged + 2 * changed,
            "stages": 1,
        }
    )


def test_a_stamp_tells_of_any_writing(tmp_path: Path) -> None:
    """Also of one that comes at once, and leaves the size as it was; a file that takes its place is another."""
    file, other = tmp_path / "a", tmp_path / "b"
    for change in (
        lambda: file.write_bytes(b"two"),
        lambda: file.open("r+b").write(b"t"),
        lambda: shutil.copyfile(other, file),
        lambda: other.replace(file),
        lambda: shutil.copy2(file, other) and other.replace(file),
        file.unlink,
    ):
        file.write_bytes(b"one")
        other.write_bytes(b"one")
        stamp = FileStamp.put(file)
        assert stamp is not None
        assert stamp.holds(file)
        change()
        assert not stamp.holds(file)


@pytest.mark.parametrize("error", [ValueError("planted"), MemoryError()])
def test_failing_while_the_file_is_written_is_made_up_for(
    error: Exception, zoo_model: ZooModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while the exporter writes does not stop Optimum's export; the tags are written later, and it is told."""

    class Failing(HtpExporter):
        def tag_content(self, content: bytes, export: Any) -> None:
            raise error

    result = Failing().export(str(zoo_model("bert")), tmp_path / "out", do_validation=False)
    assert result.files["model.onnx"].unresolved == 0
    assert result.late == {"model.onnx": f"{type(error).__name__}: {error}".removesuffix(": ")}
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "optimum_htp.tagging.tracing.tap"]
    assert "model.onnx is tagged when the export is done" in warning
    assert HtpPackage(tmp_path / "out").files["model.onnx"].evidence == "sidecar"


@pytest.mark.parametrize("error", [RuntimeError("planted"), KeyboardInterrupt()])
def test_failed_export_leaves_nothing_of_ours(
    error: BaseException, zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception or an interrupt removes what this run wrote and leaves the user's own files as they were."""
    from optimum.exporters.onnx import convert

    def failing(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(convert, "export_models", failing)
    for output in (tmp_path / "new" / "deep", tmp_path / "old"):
        if output.name == "old":
            output.mkdir()
            (output / "config.json").write_text("mine")
            (output / SIDECAR).write_text("mine too")
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            main_export(str(zoo_model("bert")), output)
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_text() for path in (tmp_path / "old").iterdir()} == {
        "config.json": "mine", SIDECAR: "mine too",
    }  # fmt: skip


def test_an_unreadable_file_leaves_the_others_untagged(zoo_model: ZooModel, tmp_path: Path) -> None:
    """What was tagged while it was exported is taken back, also where another file of the package is broken."""

    class WithBrokenFile(HtpExporter):
        def tag_content(self, content: bytes, export: Any) -> Any:
            export.file.with_name("zz.onnx").write_bytes(b"\x08")
            return super().tag_content(content, export)

    plain_export(zoo_model("bert"), tmp_path / "plain", task=zoo.ZOO["bert"].task)
    seed_everything()
    with pytest.raises(TaggingError, match=r"zz.onnx could not be tagged"):
        WithBrokenFile().export(str(zoo_model("bert")), tmp_path / "out", do_validation=False)
    assert digests(tmp_path / "out") == digests(tmp_path / "plain") | {
        "zz.onnx": hashlib.sha256(b"\x08").hexdigest()
    }  # fmt: skip


def test_failed_sidecar_leaves_optimums_package(
    zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the sidecar can't be written, the package stands without tags."""

    def failing(self: Sidecar, directory: Path) -> Path:
        raise PackageError("no space")

    plain_export(zoo_model("bert"), tmp_path / "plain", task=zoo.ZOO["bert"].task)
    monkeypatch.setattr(Sidecar, "write", failing)
    with pytest.raises(PackageError, match="no space"):
        export(zoo_model("bert"), tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")


def test_the_model_is_let_go_before_the_pass(tmp_path: Path) -> None:
    """A closed tap holds on to no weights."""
    net = torch.nn.Linear(2, 2)
    with ModuleTap(place=lambda module, whole=net: place_in_model(module, whole)) as tap:
        torch.onnx.export(net, (torch.ones(1, 2),), str(tmp_path / "n.onnx"), dynamo=False)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    assert tap.exports[0].in_model == ""


def test_failed_move_puts_back_what_was_there(
    zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the finished package can't be moved into place, the output is as it was before."""
    output = tmp_path / "out"
    (output / "model.onnx").mkdir(parents=True)
    (output / "config.json").write_text("mine")
    with pytest.raises(HtpError, match="is a directory there"):
        export(zoo_model("bert"), output)
    assert (output / "config.json").read_text() == "mine"
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "model.onnx"]


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_output_that_is_a_file(output: str, zoo_model: ZooModel, tmp_path: Path) -> None:
    """A file where the output, or a directory above it, should be is told of in one line, before anything runs."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(HtpError, match="a file is in the way: write elsewhere"):
        main_export(str(zoo_model("bert")), tmp_path / output)
    assert (tmp_path / "file").read_text() == "mine"


def test_exporting_again_replaces_the_package(zoo_model: ZooModel, tmp_path: Path) -> None:
    """A second export into the same directory gives what the first gave, and keeps the user's own files."""
    export(zoo_model("bert"), tmp_path / "out")
    first = digests(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    export(zoo_model("bert"), tmp_path / "out")
    second = digests(tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert {k: v for k, v in second.items() if k not in (SIDECAR, "notes.txt")} == {
        k: v for k, v in first.items() if k != SIDECAR
    }  # fmt: skip


# --- The tap ------------------------------------------------------------------------------------------------------


def test_tap_restores_what_it_found() -> None:
    """torch's functions are put back when an export raises."""
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    def patched() -> tuple[Any, ...]:
        passes = (torch._C._jit_pass_onnx_assign_scoped_names_for_node_and_value, torch._C._jit_pass_inline)
        return torch.onnx.export, onnx_proto_utils._export_file, *passes

    before = patched()

    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("planted")

    net = Broken()
    with pytest.raises(ValueError, match="planted"), ModuleTap(lambda content, export: None):
        torch.onnx.export(net, (torch.ones(1),), "unused.onnx", dynamo=False)
    assert patched() == before
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_exports_of_several_threads_take_turns(zoo_model: ZooModel, tmp_path: Path) -> None:
    """Two exports at once give each its own, whole package."""
    models = {name: zoo_model(name) for name in ("bert", "vit")}
    errors: list[BaseException] = []

    def run(name: str) -> None:
        try:
            main_export(str(models[name]), tmp_path / name, do_validation=False)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    roots = {name: HtpPackage(tmp_path / name).files["model.onnx"].hierarchy.roots for name in models}
    assert roots == {"bert": ["/BertForSequenceClassification"], "vit": ["/ViTForImageClassification"]}


class Twice(torch.nn.Module):
    """Runs one module twice, and slowly enough for somebody else to run it meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.act = torch.nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(40):
            x = self.act(x)
        return x


def test_forwards_of_other_threads_are_no_calls_of_the_export(tmp_path: Path) -> None:
    """A model that another thread runs while it is exported has the calls of the export alone."""
    net, done = Twice(), threading.Event()

    def run() -> None:
        while not done.is_set():
            net(torch.ones(2))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(5):
            with ModuleTap() as tap:
                torch.onnx.export(net, (torch.ones(2),), str(tmp_path / "n.onnx"), dynamo=False)
            calls = [call.index for call in tap.exports[0].trace.calls if call.path]
            assert calls == list(range(40))
    finally:
        done.set()
        thread.join()


def test_a_hook_that_raises_keeps_the_calls_in_step(tmp_path: Path) -> None:
    """A call that somebody's hook ends before it begins is over for us too."""

    class Catching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = torch.nn.Sigmoid(), torch.nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with contextlib.suppress(ValueError):
                self.bad(x)
            return self.good(x)

    def refuse(*_: Any) -> None:
        raise ValueError("planted")

    net = torch.nn.Sequential(Catching(), torch.nn.ReLU())
    net[0].bad.register_forward_pre_hook(refuse)
    with ModuleTap() as tap:
        torch.onnx.export(net, (torch.ones(2),), str(tmp_path / "n.onnx"), dynamo=False)
    calls = tap.exports[0].trace.calls
    parents = {call.path: None if call.parent is None else calls[call.parent].path for call in calls}
    assert parents == {(): None, ("0",): (), ("0", "bad"): ("0",), ("0", "good"): ("0",), ("1",): ()}


def test_exports_of_other_threads_pass_through(tmp_path: Path) -> None:
    """A tap records the exports of its own thread only."""
    net = torch.nn.Linear(2, 2)
    with ModuleTap() as tap:
        thread = threading.Thread(
            target=lambda: torch.onnx.export(net, (torch.ones(1, 2),), str(tmp_path / "n.onnx"), dynamo=False)
        )
        thread.start()
        thread.join()
    assert (tmp_path / "n.onnx").is_file()
    assert tap.exports == []
