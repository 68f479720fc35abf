"""The verb `project`: carries tags onto what tools made from a tagged file or package."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from optimum_htp.verbs.project import FileProjection


HELP = "Carry the tags of a package onto what tools made from it: optimized, quantized, merged, converted."

_EPILOG = """\
Without --reference, what the files themselves tell is used: the skeleton in their metadata, which most tools keep, what
their nodes kept, export_metadata.json. The output says which it was.

examples:
  optimum-cli htp project bert_optimized
  optimum-cli htp project model_quantized.onnx --reference bert_onnx -o tagged.onnx
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `project`."""
    parser.epilog = _EPILOG
    parser.add_argument("package", metavar="PKG", help="The ONNX file or directory that a tool wrote.")
    parser.add_argument(
        "--reference", "--from", metavar="TAGGED", help="The tagged file or package it was made from."
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="Where to write: a file for a file, a directory for a directory; "
        "without it the tags are written in place.",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="Write to a file or directory that is there already.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Namespace) -> int:
    """Projects, and says for each file how its nodes were tagged and what told it."""
    import json

    from optimum_htp.cli.views.terminal import printable, working
    from optimum_htp.verbs.project import project

    with working(f"Projecting onto {printable(args.package)}"):
        report = project(args.package, reference=args.reference, output=args.output, overwrite=args.overwrite)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
        return 0
    for name, file in report.files.items():
        print(f"{printable(name)}: {_sentence(file)}; from {printable(file.evidence)}")
    return 0


def _sentence(file: FileProjection) -> str:
    tagged = file.nodes - file.unresolved
    parts = [f"{tagged:,} of {file.nodes:,} nodes tagged"]
    counts = ((source, file.by_source.get(source, 0)) for source in ("fused", "inserted"))
    parts += [f"{count:,} {source}" for source, count in counts if count]
    if file.several_origins:
        parts.append(f"{file.several_origins:,} from several modules")
    return ", ".join(parts)
