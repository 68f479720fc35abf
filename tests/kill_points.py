"""Ends a process at every step of its file system work: before each call that changes something, and half-way through
each write. Or fills the disk there, or presses Ctrl-C.

`benchmarks/kills.py` does it to every verb. As a script it does it to a commit of `package/staging.py`, in a process
without torch, in which a fork takes a millisecond, and prints what went wrong.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = 137

# Events of Python's own audit, all of which change the file system; `open` does where it may write.
_EVENTS = "os.chmod os.link os.mkdir os.remove os.rename os.rmdir os.symlink os.truncate os.utime".split()
# What Python does not audit.
_CALLS = ("fsync", "ftruncate", "write")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEED_ROOM = ("open", "os.link", "os.mkdir", "os.symlink", "fsync", "ftruncate", "write")


class KillPoints:
    """The steps of this process, and what happens at the one with a number, counted from 1; 0 for none.

    What may happen: `"kill"`; `"full disk"`, from then on; `"interrupt"`. Python's audit hooks stay for good, so this is
    for a forked child.
    """

    def __init__(self, number: int = 0, what: str = "kill") -> None:
        self.number = number
        self.what = what
        self.steps: list[str] = []
        self._originals = {name: getattr(os, name) for name in _CALLS if hasattr(os, name)}
        sys.addaudithook(self._audited)
        for name, original in self._originals.items():
            setattr(os, name, self._counting(name, original))

    def _audited(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _EVENTS or (event == "open" and self._may_write(args)):
            name = "" if isinstance(args[0], int) else Path(os.fsdecode(args[0])).name
            self._step(f"{event} {name}".strip())

    @staticmethod
    def _may_write(args: tuple[Any, ...]) -> bool:
        path, mode, flags = args
        if isinstance(path, int) or str(path).startswith(("/dev/null", "/dev/tty", "/proc/")):
            return False
        return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITING)

    def _counting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "write" and args[0] in (1, 2):
                return original(*args, **kwargs)
            half = (lambda: original(args[0], memoryview(args[1])[: len(args[1]) // 2])) if name == "write" else None
            self._step(name, half)
            return original(*args, **kwargs)

        return call

    def _step(self, step: str, half: Callable[[], object] | None = None) -> None:
        self.steps.append(step)
        if self.what == "full disk":
            if 0 < self.number <= len(self.steps) and step.startswith(_NEED_ROOM):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif len(self.steps) == self.number:
            if self.what == "interrupt":
                signal.raise_signal(signal.SIGINT)
                return
            if half is not None:
                half()
            os._exit(KILLED)


def in_child(run: Callable[[], object], number: int = 0, what: str = "kill") -> tuple[int, list[str]]:
    """Runs something in a forked child that meets a step: its exit code, and the steps if it lived."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            os.close(reading)
            points = KillPoints(number, what)
            result = run()
            code = result if isinstance(result, int) else 0
            points.number = 0
            with os.fdopen(writing, "wb") as stream:
                stream.write(json.dumps(points.steps).encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        written = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(written) if written else []


# --- A commit ------------------------------------------------------------------------------------------------------

BEFORE = {"model.onnx": "old", "sidecar.json": "old", "gone.txt": "old", "mine.txt": "mine", "sub/mine.txt": "mine"}
NEW = {"model.onnx": "new", "sidecar.json": "new", "sub/model.onnx": "new", "made/a.onnx": "new"}
AFTER = {**{name: text for name, text in BEFORE.items() if name != "gone.txt"}, **NEW}


def contents(directory: Path) -> dict[str, str]:
    """All that is in a directory, hidden or not; an empty directory too."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() or not any(path.iterdir()):
            found[path.relative_to(directory).as_posix()] = path.read_text() if path.is_file() else "directory"
    return found


def put(directory: Path, files: dict[str, str]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def commit(output: Path) -> None:
    from optimum_htp.package.staging import StagedDirectory

    with StagedDirectory(output) as staging:
        for name, text in NEW.items():
            (staging.path / name).parent.mkdir(parents=True, exist_ok=True)
            (staging.path / name).write_text(text)
        staging.commit(remove=("gone.txt", "sidecar.json"), last="sidecar.json")


def kill_commits(output: Path, then: Callable[[Path], object], allowed: list[dict[str, str]]) -> dict[str, Any]:
    """Kills a commit at every step; `allowed` is what may be there once `then` has been run."""
    put(output, BEFORE)
    _, steps = in_child(lambda: commit(output))
    wrong = []
    for number, step in enumerate(steps, start=1):
        put(output, BEFORE)
        code, _ = in_child(lambda: commit(output), number)
        missing = {"model.onnx", "sidecar.json", "mine.txt", "sub/mine.txt"} - contents(output).keys()
        then(output)
        if code != KILLED or missing or contents(output) not in allowed:
            wrong.append([number, step, code, sorted(missing), contents(output)])
    return {"at": len(steps), "wrong": wrong}


def kill_repairs(output: Path) -> dict[str, Any]:
    """Kills a commit in the middle, and then its repair at every step; the one after that puts it right."""
    from optimum_htp.package.recovery import settle

    put(output, BEFORE)
    _, steps = in_child(lambda: commit(output))
    middle = steps.index("os.remove gone.txt") + 1

    def half_done() -> None:
        put(output, BEFORE)
        in_child(lambda: commit(output), middle)

    half_done()
    _, repair = in_child(lambda: settle(output))
    wrong = []
    for number, step in enumerate(repair, start=1):
        half_done()
        before = contents(output)
        in_child(lambda: settle(output), number)
        settle(output)
        if before == BEFORE or contents(output) != BEFORE:
            wrong.append([number, step, contents(output)])
    return {"at": len(repair), "wrong": wrong}


def main(scratch: Path) -> None:
    from optimum_htp.package.recovery import settle

    output = scratch / "output"
    os.fsync = lambda _: None  # a killed process leaves what it wrote to the system; waiting for the disk takes long
    results = {
        "settled": kill_commits(output, settle, [BEFORE, AFTER]),
        "written again": kill_commits(output, commit, [AFTER]),
        "while it is put right": kill_repairs(output),
    }

    def no_hard_links(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    os.link = no_hard_links
    results["without hard links"] = kill_commits(output, settle, [BEFORE, AFTER])
    print(json.dumps(results))


def in_memory() -> str | None:
    """Where files are not on a disk, which takes milliseconds for each; None if there is no such place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=in_memory()) as scratch:
        main(Path(scratch))
