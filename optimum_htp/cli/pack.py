"""The verb `pack`: a package as one ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


HELP = "Pack a package into its one ONNX file: config, tokenizer and all, so that one file is a whole model."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `pack`."""
    parser.add_argument("package", metavar="PKG", help="The package's directory; it is only read.")
    parser.add_argument("file", metavar="FILE.onnx", help="The ONNX file to write, outside the package.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it is there.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Namespace) -> int:
    """Packs a package and says what was written."""
    from optimum_htp.cli.views.terminal import print_json, printable, working
    from optimum_htp.verbs.pack import pack

    with working(f"Packing {printable(args.package)}"):
        report = pack(args.package, args.file, overwrite=args.overwrite)
    if args.json:
        print_json(report.to_dict())
    else:
        print(f"{printable(str(report.file))}: {report.size_bytes:,} bytes")
    return 0
