"""The verb `unpack`: the package that was packed into an ONNX file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.views.terminal import print_report, working

HELP = "Give back the package that was packed into an ONNX file, byte for byte."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `unpack`."""
    parser.add_argument("file", metavar="FILE.onnx", help="The packed ONNX file; it is only read.")
    parser.add_argument("directory", metavar="DIR", help="Where to write the package; made if it does not exist.")
    parser.add_argument("--overwrite", action="store_true", help="Replace files of the same names.")


def run(args: Namespace) -> int:
    """Unpacks a file and says what was written."""
    from optimum_htp.cli.views.written import unpack_page
    from optimum_htp.verbs.unpack import unpack

    with working("Unpacking", args.file):
        report = unpack(args.file, args.directory, overwrite=args.overwrite)
    print_report(report, unpack_page, as_json=args.json)
    return 0
