"""The commands: what both command lines share, options on their way to `main_export`, and how commands end."""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optimum.commands.export.onnx import ONNXExportCommand

import optimum_htp
from optimum_htp.cli import main as cli_main
from optimum_htp.cli.main import build_parser, main
from optimum_htp.cli.outcome import outcome
from optimum_htp.cli.plugin import HtpCommand, HtpExportCommand
from optimum_htp.cli.verbs import VERBS, load_verb
from optimum_htp.errors import HtpError
from optimum_htp.export.exporter import ExportReport, HtpExporter
from optimum_htp.package.node_metadata import HtpOptions
from optimum_htp.package.sidecar.record import TagCounts

HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "numpy", "rich", "diffusers"}


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running some code."""
    code += "\nprint('modules:', sorted({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", "import sys\n" + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(ast.literal_eval(result.stdout.rpartition("modules:")[2].strip()))


# --- Both command lines -------------------------------------------------------------------------------------------


def test_plugin_has_the_verbs_of_the_script() -> None:
    """One table makes both."""
    assert [command.name for command in HtpCommand.SUBCOMMANDS] == list(VERBS)
    choices = next(action.choices for action in cli_main.build_parser()._actions if action.choices)
    assert list(choices) == ["export", *VERBS]


@pytest.mark.parametrize("name", VERBS)
def test_verb_is_complete(name: str) -> None:
    """A line of help that says what it does, and arguments that all have help."""
    verb = load_verb(name)
    assert verb.HELP.endswith(".")
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert [action.dest for action in parser._actions if not action.help] == []
    assert callable(verb.run)


@pytest.mark.parametrize("name", VERBS)
def test_verb_by_both_names(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`optimum-cli htp VERB` and `optimum-htp VERB` take the same arguments; their help fits a terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0
    script = capsys.readouterr().out
    parser = argparse.ArgumentParser("optimum-htp")
    HtpCommand(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["htp", name, "--help"])
    plugin = capsys.readouterr().out
    assert max(map(len, script.splitlines())) <= 80
    options = script.partition("\n\n")[2]
    assert options
    assert plugin.partition("\n\n")[2] == options


@pytest.mark.parametrize(
    "code",
    [
        "from optimum_htp.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from optimum_htp.cli.main import main\ntry: main(['tree', '--help'])\nexcept SystemExit: pass",
        "from optimum_htp.cli.main import main\nmain(['tree', '/no/such/package'])",
    ],
    ids=["help", "verb help", "error"],
)
def test_script_starts_without_heavy_imports(code: str) -> None:
    """Parsing imports no library at all."""
    assert not modules_after(code) & (HEAVY | {"optimum", "huggingface_hub"})


def test_plugin_starts_without_heavy_imports() -> None:
    """`optimum-cli --help` loads our commands, and nothing heavy with them."""
    code = "sys.argv = ['optimum-cli', '--help']\nfrom optimum.commands.optimum_cli import main\ntry: main()\nexcept SystemExit: pass"
    loaded = modules_after(code)
    assert "optimum_htp" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "given",
    [
        ["pkg", "--inputs", "a.npz", "b.npz"],
        ["--inputs", "a.npz", "b.npz", "pkg"],
        ["--inputs", "a.npz", "--inputs", "b.npz", "pkg"],
        ["--inputs", "a.npz", "--inputs", "b.npz", "--all", "pkg"],
    ],
)
def test_samples_before_and_after_the_package(given: list[str]) -> None:
    args = build_parser(["compare"]).parse_args(["compare", *given])
    assert (args.package, args.inputs) == ("pkg", ["a.npz", "b.npz"])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"optimum-htp {optimum_htp.__version__}\n"


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Help, on stderr, and the exit code of a wrong command line."""
    assert main([]) == 2
    assert "tree" in capsys.readouterr().err
    parser = argparse.ArgumentParser("optimum-cli")
    HtpCommand(parser.add_subparsers())
    args = parser.parse_args(["htp"])
    with pytest.raises(SystemExit) as done:
        args.func(args).run()
    assert done.value.code == 2
    assert "tree" in capsys.readouterr().err


def test_interrupted_before_the_arguments_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading Optimum's options takes a moment, in which a person may think better of it."""

    def interrupted(given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main, "build_parser", interrupted)
    assert main(["export"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


# --- Options ------------------------------------------------------------------------------------------------------


def other_value(action: argparse.Action) -> list[str]:
    """A value for an option as it is typed, not its default unless there is no other choice; none for a flag."""
    if action.nargs == 0:
        return []
    if action.choices:
        return [str(next((choice for choice in action.choices if choice != action.default), action.default))]
    if action.type is json.loads:
        return ['{"output_attentions": true}']
    return {int: ["7"], float: ["0.25"]}.get(action.type, ["other"])  # type: ignore[call-overload]


def optimum_actions() -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    ONNXExportCommand.parse_args(parser)
    return [action for action in parser._actions if action.option_strings and action.dest not in ("help", "model")]


def parsed(
    command: type[ONNXExportCommand], arguments: list[str]
) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser()
    command.parse_args(parser)
    return parser.parse_args(arguments), parser


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Optimum's `main_export` and ours are called with; neither runs."""
    import optimum.exporters.onnx

    made: list[dict[str, Any]] = []

    def record(*positional: Any, **named: Any) -> ExportReport:
        assert not positional
        made.append(named)
        return ExportReport(Path("out"), {}, 0.0, 0.0)

    def attempt(self: HtpExporter, *positional: Any, **named: Any) -> tuple[ExportReport, None]:
        return record(*positional, **named, htp_options=self.options), None

    monkeypatch.setattr(optimum.exporters.onnx, "main_export", record)
    monkeypatch.setattr(HtpExporter, "attempt", attempt)
    return made


def assert_same_call(arguments: list[str], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs Optimum's command and ours; ours passes on what Optimum's does, and our options."""
    args, parser = parsed(ONNXExportCommand, arguments)
    ONNXExportCommand(None, args, from_defaults_factory=True, parser=parser).run()
    args, parser = parsed(HtpExportCommand, arguments)
    with pytest.raises(SystemExit) as done:
        HtpExportCommand(None, args, from_defaults_factory=True, parser=parser).run()
    assert done.value.code == 0
    theirs, ours = calls
    assert ours.pop("htp_options") == HtpOptions()
    assert ours == theirs
    return ours


@pytest.mark.parametrize("action", optimum_actions(), ids=lambda action: action.dest)
def test_each_option_of_optimum_reaches_main_export(action: argparse.Action, calls: list[dict[str, Any]]) -> None:
    """With the value that Optimum's own command would pass, which is not what it passes without the option."""
    given = assert_same_call(["-m", "model", "out", action.option_strings[-1], *other_value(action)], calls)
    calls.clear()
    without = assert_same_call(["-m", "model", "out"], calls)
    assert (given != without) == (action.choices != [action.default])


def test_all_options_of_optimum_together(calls: list[dict[str, Any]]) -> None:
    arguments = ["-m", "model", "out"]
    for action in optimum_actions():
        arguments += [action.option_strings[-1], *other_value(action)]
    given = assert_same_call(arguments, calls)
    assert given["model_name_or_path"] == "model"
    assert given["output"] == Path("out")


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], HtpOptions()),
        (["--no-namespace"], HtpOptions(namespace=False)),
        (["--torch-metadata"], HtpOptions(torch_metadata=True)),
    ],
    ids=["defaults", "--no-namespace", "--torch-metadata"],
)
@pytest.mark.parametrize("script", [True, False], ids=["optimum-htp export", "optimum-cli export htp"])
def test_our_options(arguments: list[str], options: HtpOptions, script: bool, calls: list[dict[str, Any]]) -> None:
    arguments = ["-m", "model", "out", *arguments]
    if script:
        assert main(["export", *arguments]) == 0
    else:
        args, parser = parsed(HtpExportCommand, arguments)
        with pytest.raises(SystemExit):
            HtpExportCommand(None, args, from_defaults_factory=True, parser=parser).run()
    assert calls[0]["htp_options"] == options


def test_main_export_of_optimum_is_put_back(calls: list[dict[str, Any]]) -> None:
    """Also what is replaced in transformers and torch while the command runs."""
    import optimum.exporters.onnx
    import torch
    from transformers import dynamic_module_utils

    def state() -> tuple[object, ...]:
        onnx_log = torch._C._jit_onnx_log
        return optimum.exporters.onnx.main_export, onnx_log, dynamic_module_utils.TIME_OUT_REMOTE_CODE, sys.stdin

    before = state()
    assert main(["export", "-m", "model", "out"]) == 0
    assert state() == before


# --- What is shown ------------------------------------------------------------------------------------------------


def test_summary(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the package is, the seconds, and for each file the counts; nothing on stderr where no one watches."""
    counts = TagCounts(
        nodes=1300, tagged=1299, unresolved=1, root_by_dataflow=2, by_source={"dataflow": 99, "scope": 1200}
    )
    result = ExportReport(Path("out\x1b[2J"), {"model.onnx": counts}, 2.25, 0.5)
    monkeypatch.setattr(HtpExporter, "attempt", lambda *_, **__: (result, None))
    assert main(["export", "-m", "model", "out"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out == (
        "Exported to out\\x1b[2J: 2.2 s in Optimum, 0.5 s for the tags\n"
        "\n"
        "file        nodes  tagged  unresolved  by evidence\n"
        "model.onnx  1,300   1,299           1  scope 1,200, dataflow 99\n"
    )


class Terminal(io.StringIO):
    """A stream that says that a person watches it."""

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(["export", "-m", "some-model", "out"]) == 0
    assert "Exporting some-model" in stderr.getvalue()


# --- How commands end ---------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (HtpError("this\n  went\twrong: \x1b[31mred"), 2, "error: this went wrong: \\x1b[31mred\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(28, "No space left on device"),
            2,
            "error: cannot write standard output: No space left on device; free",
        ),
        (MemoryError(), 2, "error: not enough memory"),
        (BrokenPipeError(), 141, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outcome(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code, and one line on stderr."""
    assert outcome(raising(error)) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(line)
    assert shown.err.count("\n") == bool(line)


@pytest.mark.parametrize("code", [0, 1])
def test_outcome_is_what_the_command_returns(code: int) -> None:
    """1 is a check that said no."""
    assert outcome(lambda: code) == code


@pytest.mark.parametrize("error", [TypeError, AttributeError, AssertionError, IndexError, KeyError, ValueError])
def test_outcome_of_a_bug(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    """A line says that it is one, and its type and traceback are shown."""
    assert outcome(raising(error("what broke"))) == 70
    first, *rest = capsys.readouterr().err.splitlines()
    assert "this is a bug in optimum-htp" in first and "report it" in first
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1].startswith(f"{error.__name__}: ")


def test_traceback_of_a_fault_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPTIMUM_HTP_TRACEBACK", "1")
    assert outcome(raising(HtpError("no"))) == 2
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("error: no\n")


def test_reader_that_goes_away(tmp_path: Path) -> None:
    """`optimum-htp tree PKG | head -0` says nothing, whatever happens at exit."""
    code = (
        "import sys\nfrom optimum_htp.cli.outcome import outcome\nsys.exit(outcome(lambda: print('x' * 1000000) or 0))"
    )
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")
