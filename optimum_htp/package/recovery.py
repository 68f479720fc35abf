"""What a commit is doing, on disk, so that whoever comes after a kill can put back what was there.

A commit has three steps. Until `moves` is there nothing has happened; from then on until it is gone, the commit may be
undone; then it is done.

| name in `.optimum-htp` | what |
|---|---|
| `new/` | the files to be put into place, each by a rename over the old one |
| `old/` | hard links to the files that they replace |
| `moves` | the names of both, as JSON |
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from optimum_htp.errors import PackageError
from optimum_htp.package.interrupts import uninterrupted
from optimum_htp.package.json_files import parse_json
from optimum_htp.package.limits import MAX_CONFIG_BYTES
from optimum_htp.package.locking import WriterLock, is_ours, is_staging, staging_root

NEW, OLD, MOVES = "new", "old", "moves"


@dataclass(frozen=True, slots=True)
class Moves:
    """What a commit does to a directory: names with forward slashes, relative to it.

    Attributes:
        replaced: The files that it replaces or removes.
        added: The files that were not there.
        made: The directories that were not there, the outermost first.
    """

    replaced: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    made: tuple[str, ...] = ()

    def write(self, root: Path) -> None:
        """Says that the commit begins."""
        draft = root / f"{MOVES}.draft"
        with draft.open("w", encoding="utf-8") as stream:
            json.dump(asdict(self), stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(root / MOVES)

    @classmethod
    def read(cls, root: Path) -> Moves | None:
        """The commit under way; None if that is not what was written there. Raises OSError."""
        try:
            document = parse_json(_content(root / MOVES))
            listed = {name: document[name] for name in cls.__slots__}
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if not all(isinstance(names, list) for names in listed.values()):
            return None
        return cls(**{key: tuple(name for name in names if isinstance(name, str)) for key, names in listed.items()})

    def keep(self, root: Path, output: Path) -> None:
        """Puts a second name of each file to be replaced into `old/`, or a copy where a file system has no hard links."""
        for name in self.replaced:
            file, kept = output / name, root / OLD / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            if file.is_symlink():
                kept.symlink_to(file.readlink())
                continue
            try:
                os.link(file, kept)
            except OSError:
                shutil.copy2(file, kept)

    def undo(self, root: Path, output: Path) -> None:
        """Puts back what was there; may itself be cut short and done again.

        Nothing outside is touched: the hidden directory may have come with somebody else's package.
        """
        for name in self.replaced:
            kept, placed = _within(root / OLD, name), _within(output, name)
            if kept is not None and placed is not None and os.path.lexists(kept):
                kept.replace(placed)
        for name in self.added:
            staged, placed = _within(root / NEW, name), _within(output, name)
            if staged is None or placed is None or os.path.lexists(staged) or not os.path.lexists(placed):
                continue
            placed.replace(staged)
        for name in reversed(self.made):
            made = _within(output, name)
            if made is not None:
                with contextlib.suppress(OSError):  # somebody else put something there: it stays
                    made.rmdir()


def _content(file: Path) -> bytes:
    status = file.lstat()
    return file.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_CONFIG_BYTES else b""


def _within(base: Path, name: str) -> Path | None:
    """A file by its name in a directory; None if the name, or a link on the way there, leads elsewhere."""
    parts, windows = PurePosixPath(name).parts, PureWindowsPath(name)
    if not parts or windows.drive or windows.root or ".." in parts or is_staging(parts[0]):
        return None
    ways = [base.joinpath(*parts[:length]) for length in range(len(parts))]
    return base.joinpath(*parts) if all(way.is_dir() and not way.is_symlink() for way in ways) else None


def settle(directory: Path) -> None:
    """Puts back what was there before a commit that was cut short, and removes what else a killed process left.

    Whoever reads a package calls this first. It does nothing where another process is at work, but waits for one that is
    in the middle of a commit. Raises PackageError if something is to be put back and can't be.
    """
    root = staging_root(directory)
    if not is_ours(root):
        return
    under_way = os.path.lexists(root / MOVES)
    lock = WriterLock(directory)
    try:
        if lock.acquire(wait=under_way):
            with uninterrupted():
                clear_up(root, directory)
    except FileNotFoundError:  # whoever was at work is done
        return
    except OSError as error:
        if os.path.lexists(root / MOVES):
            why = f"was cut short and can't be put right here ({error.strerror or error})"
            raise PackageError(
                f"{directory}: a command that wrote to it {why}: run one with the right to write"
            ) from error
    finally:
        lock.release()


def clear_up(root: Path, output: Path) -> None:
    """Undoes a commit that was cut short, and removes all that was staged; for whoever holds the lock. Raises OSError."""
    if os.path.lexists(root / MOVES):
        moves = Moves.read(root)
        if moves is not None:
            moves.undo(root, output)
        (root / MOVES).unlink()
    remove_staged(root)


def remove_staged(root: Path) -> None:
    """Removes all but the lock from a hidden directory, as far as possible."""
    for name in (NEW, OLD, f"{MOVES}.draft"):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(RecursionError):  # ours is not as deep as that
                shutil.rmtree(path, ignore_errors=True)
        elif os.path.lexists(path):
            with contextlib.suppress(OSError):
                path.unlink()
