"""Files that are replaced whole or not at all, on each kind of system."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from optimum_htp.onnxfile import atomic
from optimum_htp.onnxfile.atomic import replacing


def failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(params=["unnamed", "no O_TMPFILE", "O_TMPFILE refused", "no /proc"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Linux; systems that know no files without a name; NFS, which refuses them; gVisor, where they get no name."""
    if request.param == "no O_TMPFILE":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif request.param == "no /proc":
        monkeypatch.setattr(os, "link", failing(errno.ENOENT))
    elif request.param == "O_TMPFILE refused":
        flag, original = getattr(os, "O_TMPFILE", 0), os.open

        def refusing(path: Any, flags: int, *rest: Any, **kwargs: Any) -> int:
            if flag and flags & flag == flag:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return original(path, flags, *rest, **kwargs)

        monkeypatch.setattr(os, "open", refusing)
    return str(request.param)


@pytest.mark.parametrize("size", [0, 5, 3 << 20])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_new_content_and_mode(system: str, size: int, mode: int, tmp_path: Path) -> None:
    """The file has what was written and the mode that was asked for, and nothing is left beside it."""
    content = os.urandom(size)
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with replacing(target, mode=mode) as descriptor:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        assert target.read_bytes() == b"old", "until all is written"
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == mode
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("exists", [True, False])
def test_failure_while_writing(system: str, exists: bool, tmp_path: Path) -> None:
    """What was there stays, what was not does not appear."""
    target = tmp_path / "model.onnx"
    if exists:
        target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(target, mode=0o600) as descriptor:
        os.write(descriptor, b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == (["model.onnx"] if exists else [])
    assert not exists or target.read_bytes() == b"old"


@pytest.mark.parametrize("function", ["copy_range", "fchmod", "fsync"])
def test_failure_while_a_file_without_a_name_is_copied(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it can't be linked it is copied to a file with a name: a full disk leaves neither."""
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("files without a name are Linux's")
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    calls = []

    def no_proc(*_: Any, **__: Any) -> None:
        calls.append("link")
        owner = atomic if function == "copy_range" else os
        monkeypatch.setattr(owner, function, failing(errno.ENOSPC))
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "link", no_proc)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), replacing(target, mode=0o600) as descriptor:
        os.write(descriptor, b"new")
    assert calls == ["link"]
    assert names(tmp_path) == ["model.onnx"]
    assert target.read_bytes() == b"old"
