"""What `torch.onnx.export` itself writes, tagged: for those who export without Optimum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimum_htp.errors import HtpError, TaggingError
from optimum_htp.export.exporter import HtpExporter
from optimum_htp.package import FileRecord, HtpOptions, TagCounts, write_tags
from optimum_htp.tagging import ExportTrace, ModuleTap, tag_export


@contextmanager
def tag_exports(htp_options: HtpOptions | None = None) -> Iterator[dict[Path, TagCounts]]:
    """Tags each file that `torch.onnx.export` writes inside the block, by the dynamo exporter or the TorchScript one.

    The file is the one that torch writes, with the tags in it; `strip` takes them away again. No package is made of it:
    there is no config.json and no sidecar. Of the dynamo exporter, `program.save(...)` counts too while the block is
    open. Exports of other threads are left alone.

    Args:
        htp_options: What to write in addition to the tags; None means the defaults.

    Yields:
        For each file that was written so far, how its nodes were tagged.

    Raises:
        HtpError: At the end of the block, if a file could not be tagged. It is there, as torch wrote it.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
        >>> with tag_exports() as files:    # doctest: +SKIP
        ...     program = torch.onnx.export(net, (torch.ones(1, 4),), "net.onnx", dynamo=True)
        >>> files[Path("net.onnx")].unresolved    # doctest: +SKIP
        0
    """
    exporter = HtpExporter(htp_options)
    files: dict[Path, TagCounts] = {}

    def done(export: ExportTrace) -> None:
        file = export.file
        if tap.is_unchanged(file):  # the TorchScript exporter's files are tagged while they are written
            graph = tap.tagged[file]
        else:
            graph = tag_export(export)
            write_tags(graph, options=exporter.options)
        files[file] = FileRecord.of(graph).counts
        tap.failures.pop(file, None)  # of an older file in its place

    tap = ModuleTap(exporter.tag_content, place=lambda _: "", done=done)
    with tap:
        yield files
    for file, error in tap.failures.items():
        if isinstance(error, (HtpError, OSError)):
            why = " ".join(str(error).split()) or type(error).__name__
            raise TaggingError(f"{file} was exported, but could not be tagged: {why}") from error
        raise error
