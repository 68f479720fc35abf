"""The verb `strip`: takes our metadata out of a package again."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


HELP = "Remove from a package all that the HTP pass wrote: Optimum's own bytes are left."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `strip`."""
    parser.add_argument(
        "package",
        metavar="PKG",
        help="The package's directory, whose export_metadata.json is deleted too, or an ONNX file.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Namespace) -> int:
    """Strips a package and says which of its files changed."""
    from optimum_htp.cli.views.terminal import print_json, printable
    from optimum_htp.package import SIDECAR
    from optimum_htp.verbs.strip import strip

    report = strip(args.package)
    if args.json:
        print_json(report.to_dict())
        return 0
    for name, changed in report.files.items():
        done = ("deleted" if name == SIDECAR else "stripped") if changed else "nothing to remove"
        print(f"{printable(name)}: {done}")
    return 0
