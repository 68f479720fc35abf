"""The verb `unpack`: the package that was packed into an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


HELP = "Give back the package that was packed into an ONNX file, byte for byte."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `unpack`."""
    parser.add_argument("file", metavar="FILE.onnx", help="The packed ONNX file; it is only read.")
    parser.add_argument("directory", metavar="DIR", help="Where to write the package; made if it is not there.")
    parser.add_argument("--overwrite", action="store_true", help="Replace files of the same names.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Namespace) -> int:
    """Unpacks a file and says what was written."""
    from optimum_htp.cli.views.terminal import print_json, printable, working
    from optimum_htp.verbs.unpack import unpack

    with working(f"Unpacking {printable(args.file)}"):
        report = unpack(args.file, args.directory, overwrite=args.overwrite)
    if args.json:
        print_json(report.to_dict())
    else:
        for path in report.files:
            print(printable(str(path)))
    return 0
