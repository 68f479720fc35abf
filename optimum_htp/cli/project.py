"""The verb `project`: carries tags onto what tools made from a tagged file or package."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.views.terminal import print_report, working

HELP = "Carry the tags of a package onto what tools made from it: optimized, quantized, merged, converted."

_NOTES = """\
With --reference its tags are used and nothing else. Without it, what the files
themselves say: the skeleton in their metadata, which most tools keep; what
their nodes kept; export_metadata.json. The output says which it was.

examples:
  optimum-cli htp project bert_optimized
  optimum-cli htp project quantized.onnx --reference bert_onnx -o tagged.onnx
"""
_REFERENCE = "The tagged file or package it was made from."
_OUTPUT = "Where to write: a file for a file, a directory for a directory; without it the tags are written in place."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `project`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The ONNX file or directory that a tool wrote.")
    parser.add_argument("--reference", "--from", metavar="TAGGED", help=_REFERENCE)
    parser.add_argument("-o", "--output", metavar="OUT", help=_OUTPUT)
    parser.add_argument("--overwrite", action="store_true", help="Write to a file or directory that exists.")


def run(args: Namespace) -> int:
    """Projects, and says for each file how its nodes were tagged and from what."""
    from optimum_htp.cli.views.written import project_page
    from optimum_htp.verbs.project import project

    with working("Projecting onto", args.package):
        report = project(args.package, reference=args.reference, output=args.output, overwrite=args.overwrite)
    print_report(report, project_page, as_json=args.json)
    return 0
