"""Packages that transformers 5 exports by itself, and files of torch's dynamo exporter that others made.

The packages are kept in `fixtures/transformers5`, whose `make.py` says how they were made: no transformers 5 is needed.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from optimum_htp import HtpPackage, compare, diff, extract, pack, profile, project, select, strip, tag, tree, validate
from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.models import instantiate_on_meta, load_source_model
from optimum_htp.package import cache_leaf
from optimum_htp.package.components import Components
from optimum_htp.tagging import CLASS_HIERARCHY, NAME_SCOPES
from optimum_htp.verbs.validate.component_steps import run_components
from optimum_htp.verbs.validate.contents import Contents

FIXTURES = Path(__file__).parent / "fixtures" / "transformers5"
pytestmark = pytest.mark.xdist_group("transformers5")


def unpacked(name: str, target: Path) -> Path:
    with zipfile.ZipFile(FIXTURES / f"{name}.zip") as packed:
        packed.extractall(target)
    return target


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The packages, tagged once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = unpacked(name, tmp_path_factory.mktemp(name) / "package")
            tag(made[name])
        return made[name]

    return get


def short(tag_: str) -> str:
    return ".".join(segment.partition(".")[2] for segment in tag_.split("/")[2:]) or "(root)"


def change_nodes(file: Path, change: Callable[[int, onnx.NodeProto], dict[str, str] | None]) -> None:
    """Writes other values for keys of nodes' metadata."""
    model = onnx.load(file, load_external_data=False)
    for index, node in enumerate(model.graph.node):
        for key, value in (change(index, node) or {}).items():
            for entry in node.metadata_props:
                if entry.key == key:
                    entry.value = value
    onnx.save(model, file)


def said(file: Path, output: str) -> dict[str, str]:
    """What the node that makes a tensor says."""
    (node,) = (node for node in onnx.load(file, load_external_data=False).graph.node if output in node.output)
    return {entry.key: entry.value for entry in node.metadata_props if entry.key in (NAME_SCOPES, CLASS_HIERARCHY)}


# --- What nodes say of themselves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "llama_fused", "albert", "t5"])
def test_every_node_has_its_module(name: str, tagged: Callable[[str], Path], tmp_path: Path) -> None:
    """Through fusions too; and `strip` leaves what the exporter wrote."""
    package = HtpPackage(tagged(name))
    for file in package.files.values():
        assert not any(found.source == "unresolved" for found in file.tags.values())
        assert len(file.tags) == len(list(file.model.nodes()))
    copy = tmp_path / "copy"
    shutil.copytree(tagged(name), copy)
    strip(copy)
    with zipfile.ZipFile(FIXTURES / f"{name}.zip") as packed:
        assert {file.name: file.read_bytes() for file in copy.iterdir()} == {
            entry: packed.read(entry) for entry in packed.namelist()
        }


def test_fusions_do_the_work_of_several(tagged: Callable[[str], Path]) -> None:
    """Packed projections are of all of them, as what takes them apart; a norm that adds is of the sum's module too."""
    pytest.importorskip("transformers", minversion="4.57", reason="the modules of an older one are of other classes")
    file = HtpPackage(tagged("llama_fused")).files["prefill.onnx"]
    found = {
        (node.op_type, short(file.tags[key].tag)): {short(origin) for origin in file.tags[key].origins}
        for key, node in file.model.nodes()
        if file.tags[key].origins
    }
    for layer in ("model.layers.0", "model.layers.1"):
        projections = {f"{layer}.self_attn.{part}_proj" for part in "qkv"}
        assert found["MatMul", f"{layer}.self_attn"] == found["Split", f"{layer}.self_attn"] == projections
        assert found["MatMul", f"{layer}.mlp"] == {f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"}
        norms = {layer, f"{layer}.post_attention_layernorm"}
        assert found["SkipSimplifiedLayerNormalization", layer] == norms


def test_a_layer_that_runs_three_times(tagged: Callable[[str], Path]) -> None:
    """The graph proves the calls: values leave the layer and come back, and each call leaves one of some operation."""
    file = HtpPackage(tagged("albert")).files["model.onnx"]
    query = [tag for tag in file.tags.values() if tag.tag.endswith("/Linear.query")]
    assert Counter(tag.call for tag in query) == {0: 2, 1: 2, 2: 2}
    assert {tag.call for tag in file.tags.values() if tag.tag.endswith("Linear.classifier")} == {None}
    assert file.tagged.calls(query[0].tag) == 3


@pytest.mark.parametrize("change", ["without", "other"])
def test_a_config_says_nothing_against_the_nodes(change: str, tagged: Callable[[str], Path], tmp_path: Path) -> None:
    """The modules are what the nodes say; what a model would have in addition is not known."""
    package = unpacked("albert", tmp_path / "package")
    config = package / "config.json"
    (package / "export.json").unlink()
    if change == "without":
        config.unlink()
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "bert", "hidden_act": "gelu"}))
    report = tag(package)
    assert report.files["model.onnx"].unresolved == 0
    ours, known = (HtpPackage(path).files["model.onnx"].tags for path in (package, tagged("albert")))
    assert ours == known


QUERY = "linear_1"  # of the first call: it adds the bias `...attention.query.bias`


def test_statements_that_the_weights_contradict(tmp_path: Path) -> None:
    """A node that reads the bias of `query` and says that it is of `key`."""
    package = unpacked("albert", tmp_path / "package")
    file = package / "model.onnx"
    lie = said(file, QUERY)[NAME_SCOPES].replace("attention.query", "attention.key")
    assert lie != said(file, QUERY)[NAME_SCOPES]
    change_nodes(file, lambda _, node: {NAME_SCOPES: lie} if QUERY in node.output else None)
    assert tag(package).files["model.onnx"].unresolved == 1
    opened = HtpPackage(package).files["model.onnx"]
    (key,) = (key for key, node in opened.model.nodes() if QUERY in node.outputs)
    assert opened.tags[key].source == "unresolved"


def test_statements_that_the_data_contradict(tmp_path: Path) -> None:
    """A node in the middle of the first layer that says it is of the second: both would be left and come back to."""
    package = unpacked("llama", tmp_path / "package")
    file = package / "prefill.onnx"
    honest = said(file, "view")
    lie = {key: value.replace("model.layers.0", "model.layers.1") for key, value in honest.items()}
    assert lie != honest
    change_nodes(file, lambda _, node: lie if "view" in node.output else None)
    assert tag(package).files["prefill.onnx"].unresolved == 1


def test_of_two_classes_of_a_module_most_nodes_say_which(tmp_path: Path) -> None:
    package = unpacked("llama", tmp_path / "package")
    file = package / "prefill.onnx"
    lie = said(file, "view")[CLASS_HIERARCHY].replace("LlamaDecoderLayer", "Other")
    change_nodes(file, lambda _, node: {CLASS_HIERARCHY: lie} if "view" in node.output else None)
    assert tag(package).files["prefill.onnx"].unresolved == 1
    check = validate(package)["tags"]
    assert check.status == "failed"
    assert "1 nodes say" in check.reason


GARBLED = {
    "no literal": "['', __import__('os').system('true'), 'x']",
    "a number": "['', 3, 'x']",
    "one name": "['']",
    "deep": "[" * 5_000 + "]" * 5_000,
    "deep names": repr(["", ".".join(["a"] * 1_000), "x"]),
    "many": repr(["", *(f"m.{i}" for i in range(1_000)), "x"]),
    "empty names": "['', 'a..b', 'x']",
}


@pytest.mark.parametrize("value", GARBLED.values(), ids=list(GARBLED))
def test_statements_that_say_nothing(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and nothing is written; where a single node's can't be read, the others are tagged."""
    package = unpacked("albert", tmp_path / "package")
    before = {file.name: file.read_bytes() for file in package.iterdir()}
    file = package / "model.onnx"
    change_nodes(file, lambda _, node: {NAME_SCOPES: value} if QUERY in node.output else None)
    assert tag(package).files["model.onnx"].unresolved == 1
    (package / "export_metadata.json").unlink()
    file.write_bytes(before[file.name])
    change_nodes(file, lambda *_: {NAME_SCOPES: value})
    changed = file.read_bytes()
    assert main(["tag", str(package)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert NAME_SCOPES in error
    assert {file.name: file.read_bytes() for file in package.iterdir()} == before | {file.name: changed}


# --- Packages ------------------------------------------------------------------------------------------------------


def test_they_open_everywhere(tagged: Callable[[str], Path], tmp_path: Path) -> None:
    """Every verb that reads."""
    plain, fused = tagged("llama"), tagged("llama_fused")
    package = HtpPackage(plain)
    assert list(package.files) == ["prefill.onnx", "decode.onnx"]  # in the order of generation
    assert [(one.name, one.architecture) for one in package.components] == [
        ("prefill", "LlamaForCausalLM"),
        ("decode", "LlamaForCausalLM"),
    ]
    assert package.task == "text-generation-with-past"
    assert len(tree(package).files) == 2
    assert select(fused, "*.mlp").files
    assert {file.before for file in diff(fused, plain).files} == {"prefill.onnx", "decode.onnx"}
    part = extract(plain / "prefill.onnx", "model.layers.0", output=tmp_path / "part")
    assert part.modules
    assert HtpPackage(tmp_path / "part").files
    pack(tagged("albert"), tmp_path / "albert.onnx")
    assert HtpPackage(tmp_path / "albert.onnx").task == "text-classification"
    report = profile(fused, runs=1, warmup=0, batch_size=2, sequence_length=4)
    assert [phase.phase for phase in report.phases] == ["prefill", "decode"]


def test_package_against_package(tagged: Callable[[str], Path], tmp_path: Path) -> None:
    """Fused against not fused, by numbers, and by the tags that are carried over."""
    report = compare(tagged("llama_fused"), reference=tagged("llama"), sequence_length=4)
    assert [part.file for part in report.parts] == ["prefill.onnx", "decode.onnx"]
    assert not any(part.culprits for part in report.parts)
    copy = unpacked("llama_fused", tmp_path / "copy")
    project(copy, reference=tagged("llama"))
    for file in HtpPackage(copy).files.values():
        assert file.tagged.complete
        assert not any(found.source == "unresolved" for found in file.tags.values())
    other = unpacked("albert", tmp_path / "albert")
    with pytest.raises(HtpError, match="not made from the tagged graph"):
        project(other, reference=tagged("t5"))


def test_pytorch_needs_transformers_5(
    tagged: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers.exporters", None)
    with pytest.raises(HtpError, match=r"transformers 5 exported it.*--reference OTHER"):
        compare(tagged("llama"), model=tmp_path)


def steps(package: Path) -> tuple[str, str, str]:
    import onnxruntime

    contents = Contents(package)
    files = contents.files.items()
    return run_components(
        contents,
        {name: onnxruntime.InferenceSession(file.path, providers=["CPUExecutionProvider"]) for name, file in files},
    )


def test_the_steps_of_generation_run(tagged: Callable[[str], Path]) -> None:
    """Prefill, then two steps on what is in the cache; T5's decoder was exported for a past of one token."""
    for name in ("llama", "llama_fused"):
        status, what, _ = steps(tagged(name))
        assert (status, what.endswith("2 steps of decode.onnx on its 4 caches")) == ("ok", True)
    assert steps(tagged("albert"))[:2] == ("ok", "model.onnx gave logits [2, 3]")
    status, what, advice = steps(tagged("t5"))
    assert status == "failed"
    assert "self_attention_cache.layers.0.keys of the shape ['s" in what
    assert "longer prompt" in advice


def test_the_structure_is_checked(tagged: Callable[[str], Path], tmp_path: Path) -> None:
    """By export.json; what is missing for pipelines is a warning with the command that adds it."""
    report = validate(tagged("llama"))
    assert report.ok
    assert report["files"].reason == "prefill.onnx, decode.onnx: as export.json names them"
    assert report["config"].status == "ok"
    assert report["preprocessors"].status == "warning"
    assert f"htp tag {tagged('llama')} --model MODEL" in report["preprocessors"].advice
    package = unpacked("llama", tmp_path / "package")
    (package / "decode.onnx.data").unlink()
    shutil.copy(package / "prefill.onnx", package / "another.onnx")
    report = validate(package)
    assert "decode.onnx.data is not there" in report["external-data"].reason
    assert "does not name another.onnx" in report["files"].reason


def test_tokenizers_are_added(tmp_path: Path) -> None:
    """By the command that `validate` says."""
    package, source = unpacked("llama", tmp_path / "package"), tmp_path / "source"
    source.mkdir()
    shutil.copy(package / "config.json", source)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (source / name).write_text("{}")
    assert set(tag(package, model=source).written) >= {"tokenizer.json", "tokenizer_config.json"}
    assert validate(package)["preprocessors"].status == "ok"


BROKEN: dict[str, tuple[Any, str]] = {
    "outside": ({"a": {"file": "../a.onnx"}}, "'../a.onnx', outside the package"),
    "absolute": ({"a": {"file": "/a.onnx"}}, "outside the package"),
    "windows": ({"a": {"file": "..\\a.onnx"}}, "outside the package"),
    "not there": ({"a": {"file": "a.onnx"}}, "names a.onnx (a), which is not there"),
    "not ONNX": ({"a": {"file": "config.json"}}, "not an ONNX file"),
    "no file": ({"a": {}}, "None is not a string"),
    "no object": ({"a": 3}, "3 is not an object"),
    "twice": ({"a": {"file": "model.onnx"}, "b": {"file": "model.onnx"}}, "the file of two components"),
    "too many": ({str(i): {"file": f"{i}.onnx"} for i in range(2_000)}, "2,000 components"),
    "none": ({}, "0 components"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_export_json_is_not_trusted(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2 and nothing written; a failed check of `validate`."""
    components, problem = BROKEN[name]
    package = unpacked("albert", tmp_path / "package")
    (package / "export.json").write_text(json.dumps({"export_format": "onnx", "components": components}))
    before = {file.name: file.read_bytes() for file in package.iterdir()}
    assert main(["tag", str(package)]) == 2
    error = capsys.readouterr().err.strip()
    assert problem in error
    assert "\n" not in error
    assert {file.name: file.read_bytes() for file in package.iterdir()} == before
    check = validate(package)["files"]
    assert (check.status, problem in check.reason) == ("failed", True)


@pytest.mark.parametrize(
    "content", ['{"components": []}', '{"export_format": "openvino", "components": {"a": {"file": "a"}}}']
)
def test_an_export_json_of_others(content: str, tmp_path: Path) -> None:
    """Other tools have files of that name, and transformers exports to other formats."""
    package = unpacked("albert", tmp_path / "package")
    (package / "export.json").write_text(content)
    assert HtpPackage(package).components == Components()


def test_a_file_without_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = unpacked("llama", tmp_path / "package")
    (package / "decode.onnx.data").unlink()
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    assert main(["tag", str(package)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'decode.onnx.data': there is no such file in the package; get the whole package" in line
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before


def test_a_link_out_of_the_package(tmp_path: Path) -> None:
    package = unpacked("albert", tmp_path / "package")
    (package / "model.onnx").rename(tmp_path / "model.onnx")
    (package / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(PackageError, match="leads out of the package"):
        HtpPackage(package)


def test_arguments_of_a_module() -> None:
    """By the names of a graph's inputs, which are the paths of tensors."""
    import torch

    from optimum_htp.models.component_parts import module_arguments

    pytest.importorskip("transformers", minversion="4.57", reason="the caches of an older one have no layers")
    keys = [torch.full((1, 2, 3, 4), float(value)) for value in range(4)]
    halves = {"self_attention_cache": keys[:2], "cross_attention_cache": keys[2:]}
    given = {
        "decoder_input_ids": torch.zeros(1, 1),
        "encoder_outputs.last_hidden_state": torch.ones(1, 2, 3),
        **{
            f"input.cache.{half}.layers.0.{name}": tensor
            for half, tensors in halves.items()
            for name, tensor in zip(("keys", "values"), tensors, strict=True)
        },
    }
    arguments = module_arguments(given)
    assert arguments["encoder_outputs"].last_hidden_state is given["encoder_outputs.last_hidden_state"]
    assert arguments["cache"].cross_attention_cache.layers[0].values.equal(keys[3])
    assert arguments["cache"].self_attention_cache.layers[0].keys.equal(keys[0])
    for name in ("input.cache.layers.0.conv_states", "input.cache.layers.1.keys", "cache.other"):
        with pytest.raises(HtpError, match="the cache has"):
            module_arguments({name: keys[0]})


def test_names_of_caches() -> None:
    """What a step returns goes into the next by the same leaf."""
    pairs = [
        ("cache.layers.0.keys", "input.cache.layers.0.keys"),
        ("output.cache.cross_attention_cache.layers.1.values", "input.cache.cross_attention_cache.layers.1.values"),
        ("present.0.key", "past_key_values.0.key"),
    ]
    assert all(cache_leaf(left) == cache_leaf(right) is not None for left, right in pairs)
    for name in ("input_ids", "use_cache_branch", "cache_position", "encoder_outputs.last_hidden_state", "logits"):
        assert cache_leaf(name) is None


# --- Other versions ------------------------------------------------------------------------------------------------


def test_what_needs_optimum_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optimum.exporters.tasks", None)
    with pytest.raises(HtpError, match="needs Optimum, which can't be imported here"):
        load_source_model(tmp_path)


def test_models_without_weights_in_transformers_5(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`no_init_weights` is elsewhere there, and nothing of Optimum is needed."""
    try:
        from transformers.initialization import no_init_weights as original
    except ImportError:
        from transformers.modeling_utils import no_init_weights as original

    used: list[str] = []

    def no_init_weights() -> Any:
        used.append("transformers.initialization")
        return original()

    moved = ModuleType("transformers.initialization")
    moved.no_init_weights = no_init_weights  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, moved.__name__, moved)
    monkeypatch.setitem(sys.modules, "optimum.exporters.tasks", None)
    package = unpacked("albert", tmp_path / "package")
    model = next(instantiate_on_meta(package, tasks=True, exported=["AlbertForSequenceClassification"]))
    assert type(model).__name__ == "AlbertForSequenceClassification"
    assert used
