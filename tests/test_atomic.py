"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from optimum_htp.onnxfile.atomic import creating, replacing


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_new_content_and_mode(mode: int, tmp_path: Path) -> None:
    """The file has what was written and the mode that was asked for, and nothing is left beside it."""
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with replacing(target, mode=mode) as descriptor:
        os.write(descriptor, b"new")
        assert target.read_bytes() == b"old", "until all is written"
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == mode
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("exists", [True, False])
def test_failure_while_writing(exists: bool, tmp_path: Path) -> None:
    """What was there stays, what was not does not appear."""
    target = tmp_path / "model.onnx"
    if exists:
        target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(target, mode=0o600) as descriptor:
        os.write(descriptor, b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == (["model.onnx"] if exists else [])
    assert not exists or target.read_bytes() == b"old"


def test_failure_while_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"), replacing(target, mode=0o600) as descriptor:
        os.write(descriptor, b"new")
    assert names(tmp_path) == ["model.onnx"]
    assert target.read_bytes() == b"old"


def test_a_link_is_replaced(tmp_path: Path) -> None:
    """Not what it leads to."""
    (tmp_path / "theirs").write_bytes(b"theirs")
    target = tmp_path / "model.onnx"
    target.symlink_to("theirs")
    with replacing(target, mode=0o600) as descriptor:
        os.write(descriptor, b"new")
    assert not target.is_symlink()
    assert target.read_bytes() == b"new"
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_new_file(tmp_path: Path) -> None:
    """It is not written over what is there, and gone if it is not finished."""
    target = tmp_path / "sub" / "model.onnx"
    with pytest.raises(ZeroDivisionError), creating(target) as descriptor:
        os.write(descriptor, b"half")
        raise ZeroDivisionError
    assert names(target.parent) == []
    with creating(target) as descriptor:
        os.write(descriptor, b"whole")
    with pytest.raises(FileExistsError), creating(target):
        pass
    assert target.read_bytes() == b"whole"
