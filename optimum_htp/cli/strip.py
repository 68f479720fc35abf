"""The verb `strip`: takes our metadata out of a package again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from optimum_htp.cli.views.terminal import print_lines, print_report

if TYPE_CHECKING:
    from optimum_htp.verbs.strip import StripReport


HELP = "Remove from a package the tags and all else that was written with them: Optimum's own bytes are left."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `strip`."""
    package = "The package's directory, whose export_metadata.json is deleted too, or an ONNX file."
    parser.add_argument("package", metavar="PKG", help=package)


def run(args: Namespace) -> int:
    """Strips a package and says which of its files changed."""
    from optimum_htp.verbs.strip import strip

    print_report(strip(args.package), _print, as_json=args.json)
    return 0


def _print(report: StripReport) -> None:
    from optimum_htp.package import SIDECAR

    for name, changed in report.files.items():
        done = "deleted" if name == SIDECAR else "stripped"
        print_lines(f"{name}: {done if changed else 'nothing to remove'}")
