"""What the verbs say that change or write packages: a line for each file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from optimum_htp.cli.views.blocks import Block, Note, notes
from optimum_htp.cli.views.tree import evidence_text

if TYPE_CHECKING:
    from optimum_htp.verbs.pack import PackReport
    from optimum_htp.verbs.project import ProjectReport
    from optimum_htp.verbs.strip import StripReport
    from optimum_htp.verbs.tag import TagReport
    from optimum_htp.verbs.unpack import UnpackReport


def tag_page(report: TagReport) -> Iterator[Block]:
    """How the nodes of each file are tagged, why nodes are left, and what was written beside them."""
    for name, counts in report.files.items():
        note = ""
        if name in report.restored:
            note = "; kept: the sidecar describes these tags, and the nodes have them again"
        elif name in report.kept:
            note = "; kept: the sidecar still describes these tags (--force tags again)"
        elif name in report.unknown:
            note = "; nothing says whose they are"
        tagged = f"{counts.tagged:,} of {counts.nodes:,} nodes tagged ({evidence_text(counts.by_source)})"
        yield Note(f"{name}: {tagged}{note}")
        if name in report.notes:
            yield Note(f"  why: {report.notes[name]}")
    yield from notes(f"{name}: written" for name in report.written)


def project_page(report: ProjectReport) -> Iterator[Block]:
    """How the nodes of each file are tagged, and from what."""
    for name, file in report.files.items():
        parts = [f"{name}: {file.nodes - file.unresolved:,} of {file.nodes:,} nodes tagged"]
        parts += [f"{count:,} {source}" for source in ("fused", "inserted") if (count := file.by_source.get(source))]
        if file.several_origins:
            parts.append(f"{file.several_origins:,} from several modules")
        yield Note(f"{', '.join(parts)}; from {file.evidence}")


def strip_page(report: StripReport) -> Iterator[Block]:
    """Which files changed."""
    from optimum_htp.package import SIDECAR

    for name, changed in report.files.items():
        done = "deleted" if name == SIDECAR else "stripped"
        yield Note(f"{name}: {done if changed else 'nothing to remove'}")


def pack_page(report: PackReport) -> Iterator[Block]:
    """What was written, and how long it is."""
    yield Note(f"{report.file}: {report.size_bytes:,} bytes")


def unpack_page(report: UnpackReport) -> Iterator[Block]:
    """The files that were written."""
    yield from notes(map(str, report.files))
