"""Changing a package that is there: opened and written to while nobody else does; and writing tags into its files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from optimum_htp.errors import HtpError, ModelTooLargeError, TaggingError, writing
from optimum_htp.package.node_metadata import Annotations, HtpOptions
from optimum_htp.package.package import HtpPackage, onnx_files, path_of
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.package.staging import StagedDirectory, without_staging
from optimum_htp.tagging import TaggedGraph

logger = logging.getLogger(__name__)

UNCHANGED = "the package is as it was without this pass"
"""What is left if a file can't be tagged, at the end of the message."""


@contextmanager
def changing(package: str | Path | HtpPackage, *, strict: bool = True) -> Iterator[tuple[HtpPackage, StagedDirectory]]:
    """Opens a package to change it, and gives where to stage the changes: from the one to the other nobody else writes.

    A package that is already open is opened again, since it may have changed. Raises as `HtpPackage` and
    `StagedDirectory` do; an error in the block leaves the package as it was.
    """
    path = path_of(package)
    directory, _ = onnx_files(path)
    with StagedDirectory(directory) as staging:
        yield HtpPackage(path, strict=strict), staging


def write_document(path: Path, text: str) -> None:
    """Writes a text file that the user named, whole or not at all; raises HtpError. Pipes and devices get the text."""
    with writing(path):
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        with StagedDirectory(path.parent) as staging:
            (staging.path / path.name).write_text(text, encoding="utf-8")
            staging.commit()


def write_files(
    files: Mapping[str, TaggedGraph], directory: Path, *, options: HtpOptions, whole: bool = False
) -> set[str]:
    """Writes files with their tags to paths in a directory, atomically; external data is neither read nor copied.

    Leaves alone what has just these tags, and what would pass protobuf's 2 GB with them: its tags are only in the
    sidecar, and its path is returned. With `whole`, a copy is written of both. Raises TaggingError if a file can't be.
    """
    too_large = set()
    for name, graph in files.items():
        target = directory / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            annotations = Annotations.of(graph, options)
            if not annotations.matches(graph.model):
                annotations.write(graph.model.path, target)
            elif whole:
                shutil.copyfile(graph.model.path, target)
        except ModelTooLargeError as error:
            logger.warning("%s The tags are only in %s.", error, SIDECAR)
            too_large.add(name)
            if whole:
                shutil.copyfile(graph.model.path, target)
        except (HtpError, OSError) as error:
            raise tagging_error(name, error) from error
    return too_large


def tagging_error(name: str, error: HtpError | OSError) -> TaggingError:
    """The error that says in one line which file of a package could not be tagged, and why."""
    text = " ".join(without_staging(str(error)).split()) or type(error).__name__
    return TaggingError(f"{name} could not be tagged: {text}; {UNCHANGED}")
