"""An option that can't act is an error, in one line with exit code 2; and one rule for what exists already."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optimum_htp import HtpError, HtpPackage, compare, export_module, params, profile, project, strip, validate
from optimum_htp.cli.main import main
from optimum_htp.models.task_names import SYNONYMS, check_task
from optimum_htp.package.node_metadata import HtpOptions

Exported = Callable[..., Path]

# What is said of a command line; PKG is a package, SRC a directory that could be a model.
REFUSED = {
    "validate PKG --model SRC --shape foo=3": "no axis of the inputs is called foo",
    "validate PKG --model SRC --height 3": "no axis of the inputs is called height; their axes are batch_size",
    "validate PKG --model /no/such/model": "no such model directory",
    "validate PKG --load --task fill-mask": "exported for text-classification, so it can't do 'fill-mask'",
    "validate PKG --load --task nonsense": "so it can't do 'nonsense'",
    "validate PKG --task text-classification": "give --load or --model",
    "validate PKG --trust-remote-code": "give --load or --model",
    "validate PKG --tolerance 1": "give --model",
    "compare PKG --model SRC --dim foo=3": "no axis of the inputs is called foo",
    "compare PKG --model SRC --task fill-mask": "so it can't do 'fill-mask'",
    "compare PKG --reference PKG --task text-classification": "--task is for a source model",
    "compare PKG --reference PKG --trust-remote-code": "--trust-remote-code is for a source model",
    "compare PKG --reference PKG --inputs x.npz --batch-size 2": "leave out batch_size, or --inputs",
    "compare PKG --reference PKG --json --top 3": "--top: for the table only",
    "compare PKG --reference PKG --json --metric mean --all": "--metric, --all: for the table only",
    "compare PKG --reference PKG --all --top 3": "--top: --all shows every module call",
    "profile PKG --dim nope=3": "no axis of the inputs is called nope",
    "profile PKG --width 3": "no axis of the inputs is called width",
    "profile PKG --inputs x.npz --sequence-length 3": "leave out sequence_length, or --inputs",
    "profile PKG --json --by class --sort self": "--by, --sort: for the table only",
    "profile PKG --by class --depth 2": "--depth: there are no levels by class",
    "profile PKG --overwrite": "--overwrite: for --speedscope and --chrome-trace",
    "profile PKG --speedscope PKG/config.json": "exists already; give --overwrite",
    "profile PKG --map a=b": "--map tells how --reference calls",
    "select PKG LayerNorm --device npu": "--device: only --format layer-ann and layer-name name a device",
    "select PKG LayerNorm --json --format olive": "--format: --json prints everything as JSON",
    "params PKG --model SRC --rename --no-save": "give one of them",
    "params PKG --model /no/such/model": "no such model directory",
    "tag PKG --model /no/such/model": "no such model directory",
    "project PKG --overwrite": "--overwrite is for --output",
    "project PKG --reference OTHER --output OTHER --overwrite": "what the tags are from",
    "diff PKG PKG --map a=b": "a",
}


@pytest.mark.parametrize("command", REFUSED)
def test_options_that_cannot_act(
    command: str, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before anything is done, and the package stays as it is."""
    package = Path(shutil.copytree(exported("bert"), tmp_path / "package"))
    other = Path(shutil.copytree(package, tmp_path / "other")) if "OTHER" in command else package
    (tmp_path / "source").mkdir()
    before = {path: path.read_bytes() for path in package.iterdir()}
    places = {"PKG": package, "SRC": tmp_path / "source", "OTHER": other}
    words = [word if word not in places else str(places[word]) for word in command.split()]
    words = [word.replace("PKG/", f"{package}/") for word in words]
    capsys.readouterr()  # what an export said
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert REFUSED[command] in line
    assert {path: path.read_bytes() for path in package.iterdir()} == before


def test_functions_refuse_what_the_command_line_does(exported: Exported, tmp_path: Path) -> None:
    package = exported("bert")
    for call in (
        lambda: validate(package, trust_remote_code=True),
        lambda: validate(package, model=tmp_path, dims={"foo": 3}),
        lambda: compare(package, reference=package, task="fill-mask"),
        lambda: profile(package, inputs="x.npz", height=3),
        lambda: params(package, model=tmp_path, rename=True, save=False),
        lambda: project(package, overwrite=True),
    ):
        with pytest.raises(HtpError):
            call()


def test_errors_come_before_imports(exported: Exported) -> None:
    """What is wrong with the arguments is told before a library is imported that takes seconds."""
    import subprocess

    package = exported("bert")
    code = (
        "import sys\n"
        "from optimum_htp.cli.main import main\n"
        "for line in sys.argv[1:]:\n"
        "    assert main(line.split()) == 2, line\n"
        "print([name for name in ('torch', 'transformers', 'onnxruntime', 'optimum.exporters') if name in sys.modules])\n"
    )
    lines = [
        f"validate {package} --load --task nonsense",
        f"validate {package} --model /no/such/model",
        f"validate {package} --model . --dim foo=3",
        f"compare {package} --reference {package} --task x",
        f"params {package} --model /no/such/model",
        f"tag {package} --model /no/such/model",
        f"profile {package} --overwrite",
    ]
    done = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stderr


def test_tasks_are_those_of_optimum() -> None:
    from optimum.exporters.tasks import TasksManager

    known = {name: task for name, task in TasksManager._SYNONYM_TASK_MAP.items() if not name.endswith("-with-past")}
    assert known == SYNONYMS


def test_task_by_another_name(exported: Exported) -> None:
    """What Optimum takes for the same is the same; a package that does not say is not asked."""
    package = HtpPackage(exported("bert"))
    for task in ("text-classification", "sequence-classification", "zero-shot-classification", "auto", None):
        check_task(package, task)
    package.sidecar = None
    check_task(package, "fill-mask")


def test_a_task_that_the_graph_cannot_do(exported: Exported, tmp_path: Path) -> None:
    """Where no sidecar says what it was exported for, the graph's outputs do."""
    package = Path(shutil.copytree(exported("bert"), tmp_path / "package"))
    strip(package)
    with pytest.raises(HtpError, match="can't do 'default' without the output last_hidden_state"):
        validate(package, load=True, task="default")
    check_task(HtpPackage(package), "fill-mask")  # its class reads logits, which are there


# --- One file of a package ------------------------------------------------------------------------------------------


def test_stripping_the_only_file_strips_the_package(tmp_path: Path) -> None:
    """As stripping the directory does: nothing is left that describes what is not there."""
    from torch import nn, ones

    net, options = nn.Linear(2, 2), HtpOptions(config_metadata=True)
    for name in ("one", "all"):
        export_module(net, ones(1, 2), tmp_path / name, htp_options=options)
    strip(tmp_path / "one" / "model.onnx")
    strip(tmp_path / "all")
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "all")]
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == ["config.json", "model.onnx"]


def test_stripping_one_of_several_files(tmp_path: Path) -> None:
    """The others are described as before, and nothing claims to know the one."""
    from torch import nn, ones

    options = HtpOptions(config_metadata=True)
    package = tmp_path / "package"
    for name in ("a.onnx", "b.onnx"):
        export_module(nn.Linear(2, 2), ones(1, 2), tmp_path / name[0], file_name=name, htp_options=options)
    shutil.copytree(tmp_path / "a", package)
    shutil.copy(tmp_path / "b" / "b.onnx", package)
    first, second = (json.loads((tmp_path / name / "export_metadata.json").read_text()) for name in "ab")
    (package / "export_metadata.json").write_text(json.dumps(first | {"files": first["files"] | second["files"]}))
    assert validate(package)["sidecar"].status == "ok"
    strip(package / "b.onnx")
    assert json.loads((package / "export_metadata.json").read_text())["files"].keys() == {"a.onnx"}
    assert json.loads((package / "config.json").read_text())["htp_metadata"]["files"].keys() == {"a.onnx"}
    report = validate(package)
    assert report["sidecar"].status != "failed"
    assert report["tags"].reason == "b.onnx: no node is tagged"
