"""Writing the tags of a whole package: into every file of it, or into none, and what the sidecar says of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optimum_htp.errors import ModelTooLargeError, TaggingError
from optimum_htp.hierarchy import ModuleTree, NodeTags
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package.node_metadata import Annotations, HtpOptions
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.package.skeleton import SKELETON, pack_skeleton
from optimum_htp.package.staging import StagedDirectory, without_staging
from optimum_htp.tagging import TaggedModel


logger = logging.getLogger(__name__)


Roots = Mapping[str, "tuple[ModuleTree, str | None]"]
"""By the tag of each root module its tree and its place in the whole model."""


@dataclass(frozen=True, slots=True)
class TaggedGraph:
    """What is to be written into one file.

    Attributes:
        model: The file as it is.
        tags: A tag for each node.
        roots: The root modules that occur in them.
        skeleton: The packed skeleton of the graph that the tags were projected from; None means the graph's own.
    """

    model: OnnxModel
    tags: NodeTags
    roots: Roots
    skeleton: str | None = None

    def annotations(self, options: HtpOptions) -> Annotations:
        """The metadata that says so."""
        skeleton = self.skeleton if options.skeleton else None
        if options.skeleton and skeleton is None:
            skeleton = pack_skeleton(TaggedModel(self.model, dict(self.tags)), self.roots)
        extra = {SKELETON: skeleton} if skeleton is not None else {}
        trees = [tree for tree, _ in self.roots.values()]
        return Annotations.of(self.model, self.tags, trees=trees, options=options, model_metadata=extra)


def write_package_tags(
    directory: Path, files: Mapping[str, TaggedGraph], *, options: HtpOptions
) -> dict[str, FileRecord]:
    """Writes the tags into every file of a package, or into none.

    A file that has just these tags already is left alone. One that would pass protobuf's 2 GB stays as it is, with a
    warning: its tags are in the sidecar only. Where a file is a link, what it leads to stays as it is.

    Args:
        directory: The package.
        files: What to write, by the file's path in the package.
        options: What to write beside the tags.

    Returns:
        What the sidecar says of each file.

    Raises:
        TaggingError: A file could not be written; all of them are as they were.
    """
    try:
        with StagedDirectory(directory) as staging:
            stage_tags(files, staging.path, options=options)
            staging.commit()
    except TaggingError:
        raise
    except Exception as error:
        raise tagging_error("the package", error) from error
    return {name: FileRecord.of(graph.model, graph.tags, trees=graph.roots) for name, graph in files.items()}


def stage_tags(
    files: Mapping[str, TaggedGraph], directory: Path, *, options: HtpOptions, whole: bool = False
) -> set[str]:
    """Writes files with their tags into a directory; no weights but those in the files are read or copied.

    Args:
        files: What to write, by the path to write it to.
        directory: What the paths are relative to.
        options: What to write beside the tags.
        whole: Write those too that stay as they are: they have just these tags, or would pass protobuf's 2 GB.

    Returns:
        The paths of those that would pass protobuf's 2 GB with their tags, which are in the sidecar only then.

    Raises:
        TaggingError: A file could not be written.
    """
    too_large = set()
    for name, graph in files.items():
        staged = directory / name
        try:
            staged.parent.mkdir(parents=True, exist_ok=True)
            annotations = graph.annotations(options)
            if not annotations.stand_in(graph.model):
                annotations.write(graph.model.path, staged)
            elif whole:
                shutil.copyfile(graph.model.path, staged)
        except ModelTooLargeError as error:
            logger.warning("%s The tags are in %s only.", error, SIDECAR)
            too_large.add(name)
            if whole:
                shutil.copyfile(graph.model.path, staged)
        except Exception as error:
            raise tagging_error(name, error) from error
    return too_large


def tagging_error(name: str, error: Exception) -> TaggingError:
    """The error that says in one line which file of a package could not be tagged, and why.

    Args:
        name: The file's path in the package.
        error: What went wrong.
    """
    reason = " ".join(without_staging(str(error)).split()) or type(error).__name__
    return TaggingError(f"{name} could not be tagged: {reason}; the package stands as it was without this pass")
