"""The verb `pack`: a package as one ONNX file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.views.terminal import print_report, working

HELP = "Pack a package into its one ONNX file: config, tokenizer and all, so that one file is a whole model."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `pack`."""
    parser.add_argument("package", metavar="PKG", help="The package's directory; it is only read.")
    parser.add_argument("file", metavar="FILE.onnx", help="The ONNX file to write, outside the package.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it exists.")


def run(args: Namespace) -> int:
    """Packs a package and says what was written."""
    from optimum_htp.cli.views.written import pack_page
    from optimum_htp.verbs.pack import pack

    with working("Packing", args.package):
        report = pack(args.package, args.file, overwrite=args.overwrite)
    print_report(report, pack_page, as_json=args.json)
    return 0
