"""A package is moved into its place as a whole, whatever ends the process: what was there before is never lost."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimum_htp.errors import HtpError
from optimum_htp.package.staging import StagedDirectory, uninterrupted

Contents = dict[str, str]

BEFORE: Contents = {"model.onnx": "old", "sidecar.json": "old", "mine.txt": "mine", "sub/mine.txt": "mine"}
AFTER: Contents = {**BEFORE, "model.onnx": "new", "sidecar.json": "new", "sub/model.onnx": "new", "made/a.onnx": "new"}


def contents(directory: Path) -> Contents:
    return {
        path.relative_to(directory).as_posix(): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def put(directory: Path, files: Contents) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    put(tmp_path / "output", BEFORE)
    return tmp_path / "output"


def write(output: Path) -> None:
    with StagedDirectory(output) as staging:
        put(staging.path, {name: text for name, text in AFTER.items() if text == "new"})
        staging.commit(remove=("sidecar.json",), last="sidecar.json")


# What changes the file system in the steps of a commit.
STEPS = ((Path, "mkdir"), (Path, "replace"), (Path, "unlink"), (Path, "write_text"), (os, "rmdir"), (os, "unlink"))


def at_step(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Acts before the step of this number; the list is filled with the steps."""
    steps: list[str] = []

    def counting(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            if len(steps) == number:
                act()
            return original(*args, **kwargs)

        return step

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), name))
    return steps


def killed_at(number: int, output: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Writes the package in a process that dies before the step of this number; whether there was such a step."""
    child = os.fork()
    if not child:
        try:
            at_step(number, lambda: os._exit(9), monkeypatch)
            write(output)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_written(output: Path) -> None:
    write(output)
    assert contents(output) == AFTER
    assert sorted(path.name for path in output.iterdir()) == ["made", "mine.txt", "model.onnx", "sidecar.json", "sub"]


def test_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process that writes there finds what was there before, or all that is new; and nothing else is left."""
    seen = set()
    for number in range(1, 200):
        output = tmp_path / str(number)
        put(output, BEFORE)
        if not killed_at(number, output, monkeypatch):
            break
        with StagedDirectory(output):
            pass
        found = contents(output)
        assert found in (BEFORE, AFTER), number
        seen.add(found == AFTER)
        write(output)
        assert contents(output) == AFTER
    assert number > 20
    assert seen == {False, True}


@pytest.mark.parametrize("number", range(1, 30))
def test_interrupted_at_any_step(number: int, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the package is left, unless all of it was in place; and no hidden directory."""
    steps = at_step(number, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        write(output)
    monkeypatch.undo()
    assert len(steps) >= number
    # A commit ends with taking away the list of moves; an interrupt that comes later finds the package in place.
    assert contents(output) == (BEFORE if "unlink" not in steps[:number] else AFTER)
    assert not list(output.glob(".*"))


@pytest.mark.parametrize("number", range(1, 30))
def test_failing_at_any_step(number: int, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be moved leaves what was there; what can't be cleared away does not matter."""

    def fail() -> None:
        raise OSError(28, "No space left on device")

    at_step(number, fail, monkeypatch)
    try:
        write(output)
    except (HtpError, OSError):
        expected = BEFORE
    else:
        expected = AFTER
    monkeypatch.undo()
    visible = {name: text for name, text in contents(output).items() if not name.startswith(".")}
    assert visible == expected


def test_two_at_once(output: Path) -> None:
    """One does not clear away what the other is at."""
    with StagedDirectory(output) as first:
        (first.path / "model.onnx").write_text("first")
        with StagedDirectory(output) as second:
            (second.path / "model.onnx").write_text("second")
            second.commit()
        first.commit()
    assert contents(output) == {**BEFORE, "model.onnx": "first"}


def test_staging_directory_of_somebody_else(output: Path, tmp_path: Path) -> None:
    """A package that comes with one moves nothing from or to a place outside."""
    (tmp_path / "precious.txt").write_text("mine")
    (output / "link").symlink_to(tmp_path)
    left = output / ".optimum-htp-0123"
    put(left / "old" / "link", {"planted.txt": "theirs"})
    names = ["../precious.txt", str(tmp_path / "precious.txt"), "link/precious.txt", "..", "", 5]
    (left / "moves").write_text(json.dumps(names))
    (left / "new").mkdir()
    write(output)
    assert not left.exists()
    assert (tmp_path / "precious.txt").read_text() == "mine"
    assert not (tmp_path / "planted.txt").exists()


def test_user_files_that_look_like_ours(output: Path) -> None:
    put(output, {".optimum-htp-notes": "mine"})
    write(output)
    assert (output / ".optimum-htp-notes").read_text() == "mine"


def test_interrupt_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("rest of the block")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_stage_too(output: Path) -> None:
    """Signals are the main thread's alone."""
    thread = threading.Thread(target=write, args=(output,))
    thread.start()
    thread.join()
    assert contents(output) == AFTER


def test_directory_that_is_made_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), StagedDirectory(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
