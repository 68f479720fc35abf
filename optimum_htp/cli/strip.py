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
    import json
    from pathlib import Path

    from optimum_htp.cli.views.terminal import printable
    from optimum_htp.package import SIDECAR, onnx_files
    from optimum_htp.verbs.strip import strip

    path = Path(args.package)
    files = [*onnx_files(path), *([SIDECAR] if (path / SIDECAR).is_file() else [])]
    changed = set(strip(path))
    if args.json:
        print(json.dumps({"package": str(path), "files": {name: name in changed for name in files}}, indent=2))
        return 0
    for name in files:
        done = ("deleted" if name == SIDECAR else "stripped") if name in changed else "nothing to remove"
        print(f"{printable(name)}: {done}")
    return 0
