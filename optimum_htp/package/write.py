"""Writing tags into the files of a package, and saying in one line what went wrong."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from optimum_htp.errors import HtpError, ModelTooLargeError, TaggingError
from optimum_htp.package.node_metadata import Annotations, HtpOptions
from optimum_htp.package.sidecar.sidecar import SIDECAR
from optimum_htp.package.skeleton import SKELETON, pack_skeleton
from optimum_htp.package.staging import without_staging
from optimum_htp.tagging import TaggedGraph


logger = logging.getLogger(__name__)


def annotations_of(graph: TaggedGraph, options: HtpOptions) -> Annotations:
    """The metadata that a file with these tags is to have of us, the skeleton included."""
    skeleton = (graph.skeleton or pack_skeleton(graph)) if options.skeleton else None
    extra = {SKELETON: skeleton} if skeleton is not None else {}
    return Annotations.of(graph, options=options, model_metadata=extra)


def write_files(
    files: Mapping[str, TaggedGraph], directory: Path, *, options: HtpOptions, whole: bool = False
) -> set[str]:
    """Writes files with their tags into a directory; no weights but those in the files are read or copied.

    Args:
        files: What to write, by the path to write it to.
        directory: What the paths are relative to. Where a file itself lies there, it is replaced, atomically.
        options: What to write in addition to the tags.
        whole: Write those too that stay as they are: they have just these tags, or would pass protobuf's 2 GB.

    Returns:
        The paths of those that would pass protobuf's 2 GB with their tags, which are in the sidecar only then.

    Raises:
        TaggingError: A file could not be written.
    """
    too_large = set()
    for name, graph in files.items():
        target = directory / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            annotations = annotations_of(graph, options)
            if not annotations.matches(graph.model):
                annotations.write(graph.model.path, target)
            elif whole:
                shutil.copyfile(graph.model.path, target)
        except ModelTooLargeError as error:
            logger.warning("%s The tags are in %s only.", error, SIDECAR)
            too_large.add(name)
            if whole:
                shutil.copyfile(graph.model.path, target)
        except (HtpError, OSError) as error:
            raise tagging_error(name, error) from error
    return too_large


def tagging_error(name: str, error: HtpError | OSError) -> TaggingError:
    """The error that says in one line which file of a package could not be tagged, and why.

    Args:
        name: The file's path in the package.
        error: What went wrong.
    """
    text = " ".join(without_staging(str(error)).split()) or type(error).__name__
    return TaggingError(f"{name} could not be tagged: {text}; the package stands as it was without this pass")
