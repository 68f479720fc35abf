"""A package is moved into its place as a whole, whatever ends the process: what was there before is never lost."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.package.interrupts import uninterrupted
from optimum_htp.package.links import entries
from optimum_htp.package.locking import STAGING, WriterLock
from optimum_htp.package.recovery import MOVES, Moves, settle
from optimum_htp.package.staging import StagedDirectory, without_staging

Contents = dict[str, str]

BEFORE: Contents = {
    "model.onnx": "old",
    "sidecar.json": "old",
    "gone.txt": "old",
    "mine.txt": "mine",
    "sub/mine.txt": "mine",
}
AFTER: Contents = {
    "made/a.onnx": "new",
    "mine.txt": "mine",
    "model.onnx": "new",
    "sidecar.json": "new",
    "sub/mine.txt": "mine",
    "sub/model.onnx": "new",
}


def contents(directory: Path) -> Contents:
    return {
        path.relative_to(directory).as_posix(): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def visible(directory: Path) -> Contents:
    """What other programs see."""
    return {name: text for name, text in contents(directory).items() if not name.startswith(".")}


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
        staging.commit(remove=("gone.txt", "sidecar.json"), last="sidecar.json")


# What changes the file system in the steps of a commit.
STEPS = (
    *((Path, name) for name in ("mkdir", "replace", "unlink", "write_text", "open", "rmdir")),
    *((os, name) for name in ("rmdir", "unlink", "link", "fsync")),
)


def at_step(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Acts before the step of this number; the list is filled with the steps."""
    steps: list[str] = []

    def counting(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps.append(f"{name} {Path(str(args[0])).name}")
            if len(steps) == number:
                act()
            return original(*args, **kwargs)

        return step

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), name))
    return steps


def test_written(output: Path) -> None:
    write(output)
    assert contents(output) == AFTER
    assert sorted(path.name for path in output.iterdir()) == ["made", "mine.txt", "model.onnx", "sidecar.json", "sub"]


def test_nothing_to_write(output: Path) -> None:
    with StagedDirectory(output) as staging:
        staging.commit(remove=("not there",))
    assert contents(output) == BEFORE
    assert not list(output.glob(".*"))


def test_files_are_there_at_any_time(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks in the middle of a commit finds every file, the old one or the new one."""

    def look() -> None:
        seen = visible(output)
        assert seen.keys() >= BEFORE.keys() - {"gone.txt"}
        assert all(text in (BEFORE.get(name), AFTER.get(name)) for name, text in seen.items())

    for number in range(1, 100):
        with monkeypatch.context() as patched:
            steps = at_step(number, look, patched)
            write(output)
        shutil.rmtree(output)
        put(output, BEFORE)
        if len(steps) < number:
            break
    assert number > 25


def test_killed_at_any_step() -> None:
    """Whoever comes next finds what was there before, or all that is new, and nothing else; `kill_points.py` says how."""
    script = Path(__file__).with_name("kill_points.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert killed.keys() == {"settled", "written again", "while it is put right", "without hard links"}
    assert all(kills["wrong"] == [] and kills["at"] > 10 for kills in killed.values()), killed


def test_verbs_that_are_killed(exported: Callable[[str], Path]) -> None:
    """Two of them at the steps of their commit; `make kills` does it to all, at all steps."""
    script = Path(__file__).with_name("kill_verbs.py")
    command = [sys.executable, str(script), str(exported("bert").parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for tried, before, after, wrong in json.loads(done.stdout):
        assert wrong == []
        assert tried > 15 and before > 5 and after > 2 and before + after == tried


@pytest.mark.parametrize("number", range(1, 40))
def test_interrupted_at_any_step(number: int, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the package is left, unless all of it was in place; and no hidden directory."""
    steps = at_step(number, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        write(output)
    monkeypatch.undo()
    assert len(steps) >= number
    # A commit ends with taking away the list of moves; an interrupt that comes later finds the package in place.
    assert contents(output) == (BEFORE if f"unlink {MOVES}" not in steps[:number] else AFTER)
    assert not list(output.glob(".*"))


@pytest.mark.parametrize("number", range(1, 40))
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
    assert visible(output) == expected
    settle(output)
    assert contents(output) == expected


# --- Two at once --------------------------------------------------------------------------------------------------


def test_two_at_once(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second waits, says so, and finds what the first wrote."""
    inside, leave, found = threading.Event(), threading.Event(), []

    def first() -> None:
        with StagedDirectory(output) as staging:
            inside.set()
            leave.wait()
            (staging.path / "model.onnx").write_text("first")
            staging.commit()

    def second() -> None:
        with StagedDirectory(output) as staging:
            found.append((output / "model.onnx").read_text())
            (staging.path / "model.onnx").write_text("second")
            staging.commit()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait()
    with caplog.at_level(logging.WARNING):
        threads[1].start()
        threads[1].join(0.6)  # seconds: it says so before
        leave.set()
        for thread in threads:
            thread.join()
    assert found == ["first"]
    assert contents(output) == {**BEFORE, "model.onnx": "second"}
    assert f"{output}: another command is writing there; waiting until it is done." in caplog.messages


def test_many_at_once(tmp_path: Path) -> None:
    """Each adds one to a number that it reads; none is lost, in a directory that nobody has made."""
    output = tmp_path / "a" / "b"

    def add() -> None:
        with StagedDirectory(output) as staging:
            before = int((output / "number").read_text()) if (output / "number").exists() else 0
            (staging.path / "number").write_text(str(before + 1))
            staging.commit()

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(output) == {"number": "8"}


def test_the_first_fails_in_a_directory_that_it_made(tmp_path: Path) -> None:
    """Whoever waited makes it again."""
    output = tmp_path / "made"
    with pytest.raises(ZeroDivisionError), StagedDirectory(output):
        waiting = threading.Thread(target=write, args=(output,))
        waiting.start()
        waiting.join(0.1)
        raise ZeroDivisionError
    waiting.join()
    assert contents(output) == {name: text for name, text in AFTER.items() if text == "new"}


def test_a_reader_does_not_disturb_a_writer(output: Path) -> None:
    with StagedDirectory(output) as staging:
        settle(output)
        (staging.path / "model.onnx").write_text("new")
        assert [path.name for path in entries(output)] == ["gone.txt", "mine.txt", "model.onnx", "sidecar.json", "sub"]
        staging.commit()
    assert contents(output) == {**BEFORE, "model.onnx": "new"}


# --- What is not ours ---------------------------------------------------------------------------------------------


def test_links_are_replaced(output: Path, tmp_path: Path) -> None:
    """What is written in the place of a link is a file, and what the link led to stays; also when it is undone."""
    (tmp_path / "target").write_text("theirs")
    (output / "model.onnx").unlink()
    (output / "model.onnx").symlink_to(tmp_path / "target")
    with pytest.raises(HtpError, match="is a directory there"), StagedDirectory(output) as staging:
        put(staging.path, {"model.onnx": "new", "sub": "new"})
        staging.commit()
    assert (output / "model.onnx").is_symlink()
    write(output)
    assert not (output / "model.onnx").is_symlink()
    assert contents(output) == AFTER
    assert (tmp_path / "target").read_text() == "theirs"


def test_nothing_is_written_through_a_link_to_a_directory(output: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (output / "made").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageError, match="made: a link, and nothing is written through one"):
        write(output)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert contents(output) == BEFORE


@pytest.mark.parametrize("linked", ["nothing", "old", "new", STAGING, "sub"])
def test_staging_directory_of_somebody_else(linked: str, tmp_path: Path) -> None:
    """A package that comes with one moves nothing from or to a place outside."""
    output, outside = tmp_path / "output", tmp_path / "outside"
    put(output, BEFORE)
    put(outside, {"precious.txt": "mine", "old/precious.txt": "mine", "sub/precious.txt": "mine"})
    left = output / STAGING
    put(left, {"old/sub/planted.txt": "theirs", "old/planted.txt": "theirs", "new/x": ""})
    places = {"old": left / "old", "new": left / "new", STAGING: left, "sub": output / "sub"}
    if linked in places:
        shutil.rmtree(places[linked])
        places[linked].symlink_to(outside)
    names = [
        "../precious.txt",
        str(tmp_path / "precious.txt"),
        "precious.txt",
        "sub/precious.txt",
        "sub/planted.txt",
        "..",
        "",
    ]
    names += [f"{STAGING}/new/x", f"{STAGING}/lock", "C:\\x", 5]
    before = contents(outside)
    (left / MOVES).write_text(json.dumps({"replaced": names, "added": names, "made": names}))
    settle(output)
    if linked != STAGING:
        assert not left.exists()
    else:
        (outside / MOVES).unlink()
        with pytest.raises(HtpError, match="not a directory of ours"):
            write(output)
    assert contents(outside) == before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"replaced": 1, "added": [], "made": []}', "\0", "[" * 100_000])
def test_list_of_moves_that_is_none(text: str, output: Path) -> None:
    put(output / STAGING, {MOVES: text, "new/x": ""})
    settle(output)
    assert contents(output) == BEFORE


def test_user_files_that_look_like_ours(output: Path) -> None:
    put(output, {".optimum-htp-notes": "mine"})
    write(output)
    assert (output / ".optimum-htp-notes").read_text() == "mine"


def test_a_file_in_the_place_of_ours(output: Path) -> None:
    put(output, {STAGING: "mine"})
    settle(output)
    with pytest.raises(HtpError, match=r"not a directory of ours"):
        write(output)
    assert contents(output) == {**BEFORE, STAGING: "mine"}


def test_read_only(output: Path) -> None:
    """Who may not write reads a package that is whole, and is told of one that is not."""
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (output / STAGING).mkdir()
    output.chmod(0o500)
    (output / STAGING).chmod(0o500)
    try:
        settle(output)
        (output / STAGING).chmod(0o700)
        Moves(("model.onnx",)).write(output / STAGING)
        (output / STAGING).chmod(0o500)
        with pytest.raises(PackageError, match="was cut short and can't be put right here"):
            settle(output)
    finally:
        output.chmod(0o700)
        (output / STAGING).chmod(0o700)


# --- Signals ------------------------------------------------------------------------------------------------------


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


def test_interrupted_while_it_waits(output: Path) -> None:
    """Ctrl-C ends the waiting."""
    other = WriterLock(output)
    other.make_root()
    assert other.acquire()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        write(output)
    other.release()
    assert contents(output) == BEFORE
    assert not list(output.glob(".*"))


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


def test_directory_that_everybody_writes_to(tmp_path: Path) -> None:
    """As `/tmp`: what another user left there, or put there, is in nobody's way."""
    output = tmp_path / "shared"
    put(output, BEFORE)
    output.chmod(0o1777)
    put(
        output / STAGING,
        {MOVES: json.dumps({"replaced": ["model.onnx"], "added": [], "made": []}), "old/model.onnx": "x"},
    )
    write(output)
    assert visible(output) == AFTER
    assert [path.name for path in output.glob(".*")] == [STAGING]
    assert without_staging(f"cannot write {output}/{STAGING}-1000/new/a.onnx") == f"cannot write {output}/a.onnx"


def test_list_of_moves_that_cannot_be_read(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed then: what was there before may be in it."""
    put(output / STAGING, {MOVES: "{}", "old/model.onnx": "old"})

    def fail(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(PackageError, match=r"can't be put right here .Input/output error"):
        settle(output)
    assert (output / STAGING / "old" / "model.onnx").exists()
