"""Exports that can't be: one line that says what to do, exit code 2 or 130, and nothing left but the user's own files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import optimum_htp
from optimum_htp import HtpError, main_export
from optimum_htp.cli.faults import explain
from optimum_htp.cli.main import main

ZooModel = Callable[[str], Path]


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every file below a directory, and every directory (None)."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An output directory with files of the user's, one of a name that an export writes."""
    directory = tmp_path / "own"
    (directory / "notes").mkdir(parents=True)
    (directory / "notes" / "mine.txt").write_text("mine")
    (directory / "config.json").write_text("mine too")
    return directory


def assert_refused(arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """One line with these words, exit code 2, no file more or less."""
    before = contents(own.parent)
    assert main(["export", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert ".optimum-htp" not in shown.err
    assert [words for words in said if words not in shown.err] == []
    assert contents(own.parent) == before


# --- The model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nobody/no-such-model", ["no model 'nobody/no-such-model'", "HF_HUB_OFFLINE", "give a model directory"]),
        ("no such model!", ["no model 'no such model!'", "give a model directory"]),
        ("/no/such/directory", ["no model '/no/such/directory'", "give a model directory"]),
        (__file__, ["test_cli_bad_input.py is a file", "give the model's directory"]),
    ],
    ids=["no such id", "no possible id", "no such directory", "a file"],
)
@pytest.mark.parametrize("task", ["auto", "fill-mask"])
def test_no_such_model(model: str, said: list[str], task: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["-m", model, "--task", task, str(own)], said, capsys, own)


def without_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def without_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def cut_weights(directory: Path) -> None:
    with (directory / "model.safetensors").open("r+b") as file:
        file.truncate(1000)


def broken_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def changed_config(**changes: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return change


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (without_config, [], ["has no config.json", "save_pretrained"]),
        (without_config, ["--library-name", "transformers", "--task", "fill-mask"], ["has no config.json"]),
        (without_weights, [], ["cannot load", "model.safetensors"]),
        (cut_weights, [], ["cannot load", "SafetensorError"]),
        (broken_config, [], ["config.json' is not a valid JSON file"]),
        (changed_config(model_type="bertx"), [], ["'bertx'", "upgrade transformers"]),
        (changed_config(model_type=None), [], ["no `model_type`: add it"]),
        (changed_config(architectures=None), [], ["task", "is unknown", "--task"]),
        (changed_config(num_hidden_layers="two"), [], ["cannot load", "TypeError"]),
    ],
    ids=[
        *("no config", "no config, task given", "no weights", "cut weights", "broken config"),
        *("unknown model type", "no model type", "no architectures", "nonsense in the config"),
    ],
)
def test_spoilt_model(
    spoil: Callable[[Path], None],
    arguments: list[str],
    said: list[str],
    zoo_model: ZooModel,
    own: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line names the directory, and what is wrong in it."""
    model = own.parent / "model"
    shutil.copytree(zoo_model("bert"), model)
    spoil(model)
    assert_refused(["-m", str(model), *arguments, str(own)], [str(model), *said], capsys, own)


def test_unsupported_architecture(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that transformers has and Optimum exports nowhere."""
    from transformers import FNetConfig, FNetForMaskedLM

    config = FNetConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, intermediate_size=16, max_position_embeddings=16
    )
    model = own.parent / "model"
    FNetForMaskedLM(config).save_pretrained(model)
    assert_refused(["-m", str(model), str(own)], ["no ONNX export", "'fnet'", "custom_onnx_configs"], capsys, own)


@pytest.mark.filterwarnings("ignore:Exporting to ONNX opset", "ignore:Setting 'keep_initializers_as_inputs")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--task", "text-generation"],
            ["no 'bert' model for the task 'text-generation'", "one of feature-extraction"],
        ),
        (["--task", "nonsense"], ["no 'bert' model for the task 'nonsense'", "one of feature-extraction"]),
        (["--task", "fill-mask-with-past", "--monolith"], ["--monolith"]),
        (["--optimize", "O4"], ["--device cuda"]),
        (["--device", "nonsense"], ["cpu, cuda"]),
        (["--variant", "nonsense"], ["variant nonsense is not supported"]),
        (["--opset", "99"], ["Unsupported onnx_opset_version: 99"]),
        (["--opset", "5"], ["Unsupported: ONNX export of"]),
        (["--sequence_length", "100000"], ["100000"]),
        (["--model-kwargs", '{"nonsense": 1}'], ["'nonsense'", "--model-kwargs"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_options_that_do_not_fit(
    arguments: list[str], said: list[str], zoo_model: ZooModel, own: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Read from the file descriptors, for torch would print its graph there."""
    assert_refused(["-m", str(zoo_model("bert")), *arguments, str(own)], said, capfd, own)


def test_remote_code_that_is_not_trusted(
    zoo_model: ZooModel, own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked, and none of it is run."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    model = zoo_model("remote-code")
    said = [str(model), "configuration_tiny.py", "--trust-remote-code"]
    assert_refused(["-m", str(model), str(own)], said, capsys, own)


# --- The output ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("notes/mine.txt", ["mine.txt", "a file is in the way", "write elsewhere"]),
        ("notes/mine.txt/deep/below", ["mine.txt", "a file is in the way", "write elsewhere"]),
        ("/proc/optimum-htp-test", ["/proc/optimum-htp-test", "write elsewhere"]),
    ],
    ids=["a file", "below a file", "not writable"],
)
def test_output_that_cannot_be(
    output: str, said: list[str], zoo_model: ZooModel, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(["-m", str(zoo_model("bert")), str(own / output)], said, capsys, own)


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write anywhere")
def test_output_without_permission(zoo_model: ZooModel, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own.chmod(0o555)
    said = ["Permission denied", "write elsewhere"]
    assert_refused(["-m", str(zoo_model("bert")), str(own / "out")], said, capsys, own)


@contextlib.contextmanager
def little_space(limit_bytes: int) -> Iterator[None]:
    """No file may become longer: the system's answer is that of a full disk, but for its number."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("output", ["own", "own/new/deep"])
def test_no_space(output: str, zoo_model: ZooModel, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written before the disk was full is removed, made directories too."""
    model = zoo_model("bert")
    with little_space(10_000):
        assert_refused(["-m", str(model), str(own.parent / output)], ["No space left", "free some space"], capsys, own)


# --- Interrupts ---------------------------------------------------------------------------------------------------

WAIT_WHILE_TRACING = """
import functools, signal, sys
from transformers.models.bert.modeling_bert import BertModel

def forward(self, *args, **kwargs):
    print("tracing", flush=True)
    signal.pause()

BertModel.forward = functools.wraps(BertModel.forward)(forward)
from optimum.commands.optimum_cli import main
sys.argv[0] = "optimum-cli"
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.sweep)])
def test_interrupted(number: signal.Signals, zoo_model: ZooModel, own: Path) -> None:
    """A signal in the middle of the trace, below torch's C++."""
    before = contents(own)
    output = own / "new" / "deep"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WAIT_WHILE_TRACING, "export", "htp", "-m", zoo_model("bert"), output],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "tracing\n"
    assert list(output.iterdir())
    process.send_signal(number)
    _, errors = process.communicate()
    assert errors == "interrupted\n"
    assert process.returncode == 130
    assert contents(own) == before


def test_interrupt_that_comes_out_as_something_else(
    zoo_model: ZooModel, own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that makes another exception of it does not hide that it was an interrupt."""
    import diffusers  # noqa: F401 (what it says when it is imported is not what this is about)

    before = contents(own)

    def attempt(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("something went wrong") from None

    monkeypatch.setattr("optimum_htp.export.HtpExporter.attempt", attempt)
    assert main(["export", "-m", str(zoo_model("bert")), str(own)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert contents(own) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- Faults and bugs ----------------------------------------------------------------------------------------------

OURS = str(Path(optimum_htp.__file__).parent / "export.py")
THEIRS = str(Path(sys.prefix) / "lib" / "site-packages" / "optimum" / "exporters" / "onnx" / "convert.py")


@pytest.fixture
def explained(tmp_path: Path) -> Callable[..., str | None]:
    """A function that says what is said of an error that was raised in a function of a file."""
    (tmp_path / "config.json").write_text("{}")

    def say(error: Exception, *, file: str = THEIRS, function: str = "work") -> str | None:
        namespace: dict[str, Callable[[Exception], None]] = {}
        exec(compile(f"def {function}(error):\n    raise error", file, "exec"), namespace)
        try:
            namespace[function](error)
        except Exception as raised:
            message = explain(raised, model=str(tmp_path), output="out")
        return message and message.replace(str(tmp_path), "MODEL")

    return say


Explained = Callable[..., "str | None"]


@pytest.mark.parametrize("error", [AttributeError, TypeError, AssertionError, IndexError, NameError, RecursionError])
def test_bugs_of_others_are_bugs(error: type[Exception], explained: Explained) -> None:
    assert explained(error("a bug")) is None


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, TypeError])
def test_bugs_of_ours_are_bugs(error: type[Exception], explained: Explained) -> None:
    """What would be the user's fault from Optimum is our own fault from us."""
    assert explained(error("a bug"), file=OURS) is None


def test_a_part_of_ours_that_is_missing_is_a_bug(explained: Explained) -> None:
    assert explained(ImportError("no", name="optimum_htp.nothing")) is None


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def attempt(*_: object, **__: object) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr("optimum_htp.export.HtpExporter.attempt", attempt)
    assert main(["export", "-m", "model", "out"]) == 70
    assert capsys.readouterr().err.endswith("AttributeError: a bug\n")


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, ImportError, OSError, NotImplementedError])
def test_what_others_refuse_is_a_fault(error: type[Exception], explained: Explained) -> None:
    assert explained(error("what they say")) == "cannot export MODEL: what they say"


def test_what_comes_up_while_loading_is_the_models_fault(explained: Explained) -> None:
    message = explained(TypeError("an int is needed"), function="from_pretrained")
    assert message == "cannot load MODEL: TypeError: an int is needed"


def test_a_type_that_the_device_has_no_kernels_for(explained: Explained) -> None:
    error = RuntimeError(
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Add(14) node"
    )
    said = explained(error)
    assert said is not None
    assert said.startswith("MODEL: Optimum runs what it has exported, and ONNX Runtime has no Add of that type")


def test_a_model_that_is_cached_in_part(tmp_path: Path) -> None:
    """It is not said that there is none: the cache has it."""
    snapshot = tmp_path / "models--acme--tiny" / "snapshots" / "r1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")

    def said(error: Exception) -> str | None:
        return explain(error, model="acme/tiny", output="out", cache_dir=str(tmp_path))

    assert said(OSError("no weights")) == (
        "'acme/tiny' is in the Hub's cache without its weights: download them once, or give a model directory"
    )
    (snapshot / "model.safetensors").write_bytes(b"")
    offline = type("OfflineModeIsEnabled", (ConnectionError,), {})("some file is missing")
    assert said(offline) == "'acme/tiny' is in the Hub's cache, but not all that is needed of it: some file is missing"


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    """PEFT's `save_pretrained` wrote it: to say that some `save_pretrained` has to would be no help."""
    (tmp_path / "adapter_config.json").write_text("{}")
    message = explain(OSError("no config.json"), model=str(tmp_path), output="out")
    assert message is not None
    assert "is a PEFT adapter" in message
    assert "merge_and_unload" in message


def test_output_that_is_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HtpError, match=r"out is a link that leads nowhere; remove it"):
        main_export("model", tmp_path / "out" / "below")


@pytest.mark.parametrize("model", [3, None, ["bert"]], ids=repr)
def test_a_model_that_is_no_name(model: Any, tmp_path: Path) -> None:
    with pytest.raises(HtpError, match=r"can't export a \w+: give its id .* `export_module`"):
        main_export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failed_post_processing(explained: Explained) -> None:
    """Optimum's own message names an option of its, and not what went wrong."""
    error = RuntimeError("The post-processing of the ONNX export failed. The export can still be performed by passing")
    error.__cause__ = ValueError("shapes differ")
    assert explained(error) == "cannot export MODEL: its post-processing failed: shapes differ"


def test_staging_path_is_not_shown(explained: Explained) -> None:
    error = RuntimeError("cannot open out/.optimum-htp/new/model.onnx")
    assert explained(error) == "cannot export MODEL: cannot open out/model.onnx"


def test_full_disk_by_whatever_name(explained: Explained) -> None:
    error = RuntimeError("onnxruntime: write failed: No space left on device")
    assert str(explained(error)).startswith("cannot write out: No space left on device; free some space on that disk")
