"""What an export leaves where something fails after it, and where its tokenizer and processor are from."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from optimum.exporters.error_utils import AtolError, ShapeError
from optimum.exporters.onnx import __main__ as optimum_main, convert
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from optimum_htp import AutoModelForONNX, HtpExporter, HtpPackage, export_module, main_export, strip, validate
from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError, TaggingError
from optimum_htp.export.optimum_run import _read_from, _Seen, _watch_validation
from optimum_htp.models.hub_cache import source_files
from optimum_htp.models.local_first import local_models
from optimum_htp.models.trust import refuse_named_code
from optimum_htp.package.sentence_modules import add_sentence_modules
from optimum_htp.verbs.validate.worker import _Run

ZooModel = Callable[[str], Path]

# --- Optimum's validation -----------------------------------------------------------------------------------------


def failing(error: Exception) -> Callable[..., None]:
    """A validation that says something of the file that it is given."""

    def validate_model_outputs(*, onnx_model: Path, **_: Any) -> None:
        error.args = (f"{error.args[0]} in {onnx_model}",)
        raise error

    return validate_model_outputs


@pytest.mark.parametrize(
    ("error", "raised"), [(ShapeError("shapes differ"), ShapeError), (TypeError("none"), RuntimeError)], ids=repr
)
def test_failed_validation_keeps_the_package(
    error: Exception, raised: type[Exception], zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Optimum keeps it: the error is Optimum's, the package is whole and tagged, and the paths are true."""
    monkeypatch.setattr(convert, "validate_model_outputs", failing(error))
    with pytest.raises(raised) as caught:
        main_export(str(zoo_model("bert")), tmp_path / "out")
    said = f"{caught.value} {caught.value.__cause__}"
    assert str(tmp_path / "out") in said
    assert ".optimum-htp" not in said
    package = HtpPackage(tmp_path / "out")
    counts = package.files["model.onnx"].counts
    assert counts.nodes == counts.tagged
    assert validate(package).ok


def test_failed_validation_in_the_command_line(
    zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, a verdict: the package is there. `--no-validation` does not ask, and leaves nothing to --atol."""
    monkeypatch.setattr(convert, "validate_model_outputs", failing(ShapeError("shapes differ")))
    command = ["export", "-m", str(zoo_model("bert")), str(tmp_path / "out")]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "model.onnx" in printed.out
    said = (
        f"error: Optimum's validation failed: ShapeError: shapes differ in {tmp_path}/out/model.onnx; the package is"
    )
    assert said in printed.err
    assert main([*command, "--no-validation"]) == 0
    assert "validation" not in capsys.readouterr().err
    assert main([*command, "--no-validation", "--atol", "1"]) == 2
    assert "--atol" in capsys.readouterr().err


def test_tolerance_is_a_warning(zoo_model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Optimum only warns of is in the report."""
    monkeypatch.setattr(convert, "validate_model_outputs", failing(AtolError("off by 1")))
    report, failure = HtpExporter().attempt(str(zoo_model("bert")), tmp_path / "out")
    assert failure is None
    assert report.doubt == f"AtolError: off by 1 in {tmp_path}/out/model.onnx"
    assert report.to_dict()["doubt"] == report.doubt


def test_three_models_that_fail_validation() -> None:
    """Optimum stumbles over the third; what it means to raise is what the last one raised."""
    errors = [AtolError(str(number)) for number in range(3)]

    def validate_models_outputs() -> None:
        pairs = []
        for error in errors:
            try:
                module.validate_model_outputs(error)
            except AtolError as raised:
                pairs.append(("a.onnx", raised))
        for index, pair in enumerate(pairs[:-1]):
            _ = pair[index + 1]
        raise pairs[-1][1]

    def validate_model_outputs(error: Exception) -> None:
        raise error

    module = SimpleNamespace(
        validate_models_outputs=validate_models_outputs, validate_model_outputs=validate_model_outputs
    )
    seen = _Seen(tap=None)  # type: ignore[arg-type]
    with ExitStack() as stack:
        _watch_validation(stack, module, seen)
        with pytest.raises(AtolError, match="2"):
            module.validate_models_outputs()
    assert seen.doubt is errors[2]
    assert module.validate_model_outputs is validate_model_outputs


def test_failed_tags_leave_an_older_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full while tags are written costs nothing that was there, whichever file is the first to not fit."""
    from torch import nn, ones

    from optimum_htp.package.sidecar.sidecar import Sidecar

    export_module(nn.Linear(2, 2), ones(1, 2), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sidecar, "write", full)
    with pytest.raises(OSError, match="No space"):
        export_module(nn.Linear(2, 3), ones(1, 2), tmp_path / "out")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    monkeypatch.setattr(HtpExporter, "tag_content", lambda *_: None)
    monkeypatch.setattr(HtpExporter, "tag_file", full)
    with pytest.raises(TaggingError, match=r"No space left on device; .*out is as it was$"):
        export_module(nn.Linear(2, 3), ones(1, 2), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


# --- Tokenizer and processor --------------------------------------------------------------------------------------


def write_tokenizer(directory: Path, words: str) -> None:
    """A tokenizer that knows some words."""
    vocabulary = {word: index for index, word in enumerate(f"[PAD] [UNK] {words}".split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        directory
    )


@pytest.fixture
def cache(zoo_model: ZooModel, tmp_path: Path) -> Path:
    """A cache of the Hub with a model in two revisions: `main` knows red and green, `v2` green and red."""
    repository = tmp_path / "cache" / "models--acme--tiny"
    for commit, name, words in (("a" * 40, "main", "red green"), ("b" * 40, "v2", "green red")):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(zoo_model("bert") / file, snapshot)
        write_tokenizer(snapshot, words)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    return tmp_path / "cache"


def snapshot_of(cache: Path, commit: str) -> Path:
    return cache / "models--acme--tiny" / "snapshots" / (commit * 40)


def words_of(directory: Path) -> dict[str, int]:
    document = json.loads((directory / "tokenizer.json").read_text())
    return dict(document["model"]["vocab"])


def test_tokenizer_is_of_the_revision_of_the_weights(cache: Path, tmp_path: Path) -> None:
    """And of the cache that was named; offline, the task is read from the cached config."""
    main_export("acme/tiny", tmp_path / "out", revision="v2", cache_dir=str(cache), do_validation=False)
    assert words_of(tmp_path / "out")["red"] == 3
    sidecar = HtpPackage(tmp_path / "out").sidecar
    assert sidecar is not None
    assert sidecar.source["revision"] == "b" * 40
    assert sidecar.source["tokenizer"] is True
    assert "processor" not in sidecar.source  # the cache may have only a part of the repository
    assert HtpPackage(tmp_path / "out").task == "text-classification"
    (tmp_path / "out" / "tokenizer.json").unlink()
    (tmp_path / "out" / "tokenizer_config.json").unlink()
    check = validate(tmp_path / "out")["preprocessors"]
    assert (check.status, check.reason.endswith("the source model had one")) == ("failed", True)


def test_source_that_is_not_wholly_known(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a model has no tokenizer is said only if all of its files are here."""
    snapshot = snapshot_of(cache, "a")
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer_config.json").unlink()
    where = {"cache_dir": str(cache)}
    files = source_files("acme/tiny", **where)
    assert files is not None
    assert files.preprocessors() == {}

    def listed(names: list[str]) -> Any:
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: names)
        known = source_files("acme/tiny", **where)
        assert known is not None
        return known.preprocessors()

    assert listed(["config.json", "model.safetensors"]) == {"tokenizer": False, "processor": False}
    assert listed(["config.json", "vocab.txt"]) == {}
    assert source_files("acme/other", **where) is None


def test_tokenizer_in_a_subfolder(cache: Path, tmp_path: Path) -> None:
    """What is in the subfolder comes before what is at the top; a directory here is no id, whatever its name."""
    snapshot = snapshot_of(cache, "a")
    write_tokenizer(snapshot / "sub", "blue red")
    for model, where in (("acme/tiny", {"cache_dir": str(cache)}), (str(snapshot), {})):
        for subfolder, index in (("sub", 3), ("", 2)):
            files = source_files(model, subfolder=subfolder, **where)
            assert files is not None
            with _read_from(files):
                (tokenizer, *_) = optimum_main.maybe_load_preprocessors(model, subfolder=subfolder)
                convert.maybe_save_preprocessors(model, tmp_path / "saved")
                assert optimum_main.AutoTokenizer.from_pretrained(model).get_vocab()["red"] == index
            assert tokenizer.get_vocab()["red"] == words_of(tmp_path / "saved")["red"] == index


def test_no_tokenizer_that_says_the_padding(cache: Path) -> None:
    """One line that says what to give, and not what a tokenizer library lacks."""
    for file in snapshot_of(cache, "a").glob("*token*"):
        file.unlink()
    files = source_files("acme/tiny", cache_dir=str(cache))
    with _read_from(files), pytest.raises(HtpError, match=r"acme/tiny: .*give --pad_token_id N"):
        optimum_main.AutoTokenizer.from_pretrained("acme/tiny")
    assert not hasattr(optimum_main.AutoTokenizer, "__wrapped__")


def test_modules_behind_a_sentence_models_transformer(zoo_model: ZooModel, tmp_path: Path) -> None:
    """With them sentence-transformers gives the package's embeddings as it does the source's."""
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    shutil.copytree(zoo_model("bert"), tmp_path / "bert")
    parts = [Transformer(str(tmp_path / "bert")), Pooling(16, pooling_mode="cls"), Dense(16, 8), Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "source"))
    expected = SentenceTransformer(str(tmp_path / "source"), device="cpu").encode(["a b", "c"])
    for library, names in (("transformers", 4), (None, 1)):  # the modules themselves; one that all of them are in
        main_export(str(tmp_path / "source"), tmp_path / "out", library_name=library, do_validation=False)
        loaded = SentenceTransformer(str(tmp_path / "out"), backend="onnx", device="cpu")
        np.testing.assert_allclose(loaded.encode(["a b", "c"]), expected, atol=1e-5)
        assert (len(loaded), loaded.get_embedding_dimension()) == (names, 8)
        assert validate(tmp_path / "out").ok
        refuse_named_code(tmp_path / "out")
        strip(tmp_path / "out")
        assert (tmp_path / "out" / "modules.json").exists() == (library is not None)  # that one is ours
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("path", ["../1_Pooling", "/etc", 3, None])
def test_modules_that_lead_out_are_not_brought_along(path: Any, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "source" / "modules.json").write_text(json.dumps([{"path": ""}, {"path": path}]))
    assert add_sentence_modules(tmp_path / "out", tmp_path / "source") == []


def test_output_of_any_type_of_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`os.DirEntry` is a path of the standard library that nothing else can be made into; Optimum takes it."""
    seen: dict[str, Any] = {}

    def stub(model_name_or_path: str, output: Path) -> None:
        seen.update(model=model_name_or_path, output=output)

    monkeypatch.setattr(optimum_main, "main_export", stub)
    (tmp_path / "out").mkdir()
    (entry,) = os.scandir(tmp_path)
    main_export(entry, entry)
    assert seen["model"] == str(tmp_path / "out")
    assert Path(seen["output"]).is_relative_to(tmp_path / "out")


# --- What is run ----------------------------------------------------------------------------------------------------


def test_a_package_without_a_task_is_run_at_two_sizes(tmp_path: Path) -> None:
    """The graph says what it takes; an axis that was traced as a constant shows."""
    from torch import Tensor, nn, ones

    class Reshaped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            """As many rows as the example had, whatever `x` has."""
            return x.reshape(2, 4) * 2

    names = {"input": {0: "rows"}, "x": {0: "rows"}}
    for net, status in ((Reshaped(), "failed"), (nn.Linear(4, 4), "ok")):
        package = tmp_path / status
        first = "x" if status == "failed" else "input"
        export_module(net, ones(2, 4), package, dynamic_axes={first: names[first]})
        run = _Run({"path": str(package), "task": None})
        run.model = AutoModelForONNX.from_pretrained(package)
        result = run.run()
        assert result[0] == status
        assert "at other sizes" in result[1]


def test_timm_takes_a_directory_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an id it gets the revision and the cache that are meant."""
    from optimum.exporters.tasks import TasksManager

    made: list[tuple[str, dict[str, Any]]] = []

    def create_model(name: str, *, cache_dir: Any = None, **options: Any) -> None:
        made.append((name, {"cache_dir": cache_dir, **options}))

    original = TasksManager.__dict__["get_model_class_for_task"]
    signature = inspect.signature(TasksManager.get_model_class_for_task)

    def class_for_task(*args: Any, **kwargs: Any) -> Any:
        signature.bind(*args, **kwargs)
        return create_model

    class_for_task.__signature__ = signature  # type: ignore[attr-defined]
    monkeypatch.setattr(TasksManager, "get_model_class_for_task", staticmethod(class_for_task))
    replaced = TasksManager.__dict__["get_model_class_for_task"]
    (tmp_path / "timm" / "mine" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for where in ({}, {"subfolder": "sub"}, {"revision": "v2", "cache_dir": "there"}):
        with local_models(**where):
            create = TasksManager.get_model_class_for_task("image-classification", "pt", library="timm")
            create("hf_hub:timm/mine", pretrained=True)
            create("hf_hub:timm/other", pretrained=True)
    assert [name for name, _ in made] == [
        "local-dir:timm/mine", "hf_hub:timm/other",
        "local-dir:timm/mine/sub", "hf_hub:timm/other",
        "local-dir:timm/mine", "hf_hub:timm/other@v2",
    ]  # fmt: skip
    assert made[-1][1] == {"cache_dir": "there", "pretrained": True}
    assert TasksManager.__dict__["get_model_class_for_task"] is replaced
    assert original is not replaced


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """What stood in for parts of Optimum is gone."""
    kept = convert.validate_models_outputs, optimum_main.AutoTokenizer, optimum_main.maybe_load_preprocessors
    yield
    assert kept == (
        convert.validate_models_outputs,
        optimum_main.AutoTokenizer,
        optimum_main.maybe_load_preprocessors,
    )
