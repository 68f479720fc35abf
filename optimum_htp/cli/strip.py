"""The verb `strip`: takes our metadata out of a package again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.views.terminal import print_report

HELP = "Remove from a package the tags and all else that was written with them: Optimum's own bytes are left."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `strip`."""
    package = "The package's directory, whose export_metadata.json is deleted too, or an ONNX file."
    parser.add_argument("package", metavar="PKG", help=package)


def run(args: Namespace) -> int:
    """Strips a package and says which of its files changed."""
    from optimum_htp.cli.views.written import strip_page
    from optimum_htp.verbs.strip import strip

    print_report(strip(args.package), strip_page, as_json=args.json)
    return 0
