"""What a terminal and a shell may do to a command, and what it does to them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optimum_htp.cli.main import build_parser, main
from optimum_htp.cli.other_lines import other_lines
from optimum_htp.cli.outcome import outcome
from optimum_htp.errors import HtpError

ESCAPES = "\x1b]0;pwn\x07\x1b[31m\x9b31m\u202e.onnx"


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "optimum_htp", *arguments], capture_output=True, text=True, check=False, **options
    )


def closing(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


# --- Streams that are closed --------------------------------------------------------------------------------------


def test_closed_standard_output(exported: Callable[..., Path], tmp_path: Path) -> None:
    """`>&-`: nothing can be said, so nothing is done; and no file gets the stream's number."""
    package = tmp_path / "package"
    shutil.copytree(exported("bert"), package)
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    done = command("strip", str(package), preexec_fn=closing(1))
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output is closed, so nothing was done: send it to a file, or to /dev/null\n"
    )
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before


def test_closed_standard_error(tmp_path: Path) -> None:
    """`2>&-`: what would be said there goes nowhere, and not to standard output."""
    done = command("tree", str(tmp_path / "nothing"), preexec_fn=closing(2))
    assert (done.returncode, done.stdout) == (2, "")


# --- Arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("tree x --deph 2", "there is no option --deph; did you mean --depth? see optimum-htp tree --help"),
        ("tre x", "there is no command 'tre'; did you mean 'tree'? see optimum-htp --help"),
        ("tree", "the following arguments are required: PKG; see optimum-htp tree --help"),
        ("tree x y", "'y' is one argument too many; see optimum-htp tree --help"),
        (
            "profile x --runs 0",
            "argument --runs: '0' is not a whole number, 1 or more; see optimum-htp profile --help",
        ),
        ("tree x --\x1b[31m", "there is no option --\\x1b[31m; see optimum-htp tree --help"),
    ],
)
def test_wrong_arguments_are_one_line(given: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(given.split())
    assert (done.value.code, capsys.readouterr().err) == (2, f"error: {line}\n")


@pytest.mark.parametrize(
    "given",
    ["diff a b --depth 2", "diff a --depth 2 b", "diff --depth 2 a b", "explain a --json b c", "explain a b c"],
)
def test_options_may_stand_anywhere(given: str) -> None:
    """Also in front of an argument that may be left out."""
    args = build_parser().parse_args(given.split())
    assert (args.before, args.after) == ("a", "b") if given[0] == "d" else args.text == ["b", "c"]


# --- Ctrl-C -------------------------------------------------------------------------------------------------------


def test_interrupted_while_python_imports() -> None:
    """From the first line of ours on."""
    code = (
        "import os, runpy, signal, sys\n"
        "sys.addaudithook(lambda event, args: event == 'import' and args[0] == 'optimum_htp.cli.main'"
        " and os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.argv = ['optimum-htp', 'tree', '/nothing']\n"
        "runpy.run_module('optimum_htp', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_interrupt_that_a_library_swallows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare `except`, such as one around an import, does not keep a command from ending."""
    monkeypatch.setattr("optimum_htp.cli.outcome._AGAIN_S", 0.01)
    caught = []

    def deaf() -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except:  # noqa: E722 (as libraries have it)
            caught.append(True)
        for _ in range(1000):
            time.sleep(0.01)
        return 0

    assert outcome(deaf) == 130
    assert caught == [True]
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("made_of_it", [ImportError, RuntimeError, SystemError, HtpError, None])
def test_interrupted_in_a_library(
    made_of_it: type[Exception] | None, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it makes of the exception."""

    def run() -> int:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            if made_of_it is None:
                raise
            raise made_of_it("numpy's C extensions could not be imported") from error
        return 0

    assert outcome(run) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# --- What is shown ------------------------------------------------------------------------------------------------


def test_our_warnings_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Without what a terminal could take for a command, and without a handler left behind."""

    def run() -> int:
        logging.getLogger("optimum_htp.verbs.tag").warning("%s: its skeleton is\nnot used", ESCAPES)
        return 0

    assert outcome(run) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: \\x1b]0;pwn\\x07\\x1b[31m\\x9b31m\\u202e.onnx: its skeleton is not used")
    assert error.rstrip("\n").isprintable()
    assert logging.getLogger("optimum_htp").handlers == []


def test_damaged_skeleton_in_a_file_with_an_odd_name(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    package = tmp_path / "package"
    shutil.copytree(exported("bert"), package)
    model = onnx.load(package / "model.onnx")
    for entry in model.metadata_props:
        if ".skeleton." in entry.key:
            entry.value = "!!"
    del model.graph.node[5]
    (package / "model.onnx").unlink()
    onnx.save(model, package / ESCAPES)
    assert main(["tag", str(package)]) in (0, 2)
    out, error = capsys.readouterr()
    assert "skeleton" in error
    assert all(line.isprintable() for line in (out + error).splitlines())


def talk() -> int:
    logging.getLogger("somebody").warning("%s of theirs", "a line")
    logging.getLogger("somebody.else").error("another")
    logging.getLogger("somebody").info("nothing that is shown")
    logging.getLogger("optimum_htp").warning("one of ours")
    warnings.warn("a warning of theirs", FutureWarning, stacklevel=1)
    return 0


@contextmanager
def own_handler() -> Iterator[None]:
    """That of another library, made when it was imported."""
    logger, added = logging.getLogger("somebody"), logging.StreamHandler(sys.stderr)
    logger.addHandler(added)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(added)


@pytest.mark.filterwarnings("default")
def test_lines_of_other_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    """They are counted; ours are shown."""

    def run() -> int:
        with other_lines(verbose=False):
            return talk()

    with own_handler():
        assert outcome(run) == 0
    assert capsys.readouterr().err == (
        "warning: one of ours\n3 lines of other libraries left out; --verbose shows them\n"
    )


@pytest.mark.filterwarnings("default")
def test_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    with own_handler(), other_lines(verbose=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        talk()
    assert capsys.readouterr().err == "a line of theirs\nanother\n"


@pytest.mark.parametrize(("error", "shown"), [(HtpError("no"), False), (ZeroDivisionError("no"), True)])
def test_lines_before_an_error(error: Exception, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """They stand before the traceback of a bug; what is the user's fault is one line."""
    emit = logging.StreamHandler.emit
    with own_handler(), pytest.raises(type(error)), other_lines(verbose=False):
        logging.getLogger("somebody").warning("a line of theirs")
        raise error
    assert ("a line of theirs" in capsys.readouterr().err) == shown
    assert logging.StreamHandler.emit is emit


def test_every_command_has_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    from optimum_htp.cli.verbs import VERBS

    for name in ("export", *VERBS):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "--verbose" in capsys.readouterr().out, name
