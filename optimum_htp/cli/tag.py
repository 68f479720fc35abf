"""The verb `tag`: tags a package that is there already, without exporting it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_htp.cli.options import add_htp_arguments, htp_options


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from optimum_htp.verbs.tag import TagReport


HELP = "Tag an existing package, such as one of plain `optimum-cli export onnx`, without exporting it again."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `tag`."""
    parser.add_argument("package", metavar="PKG", help="The package's directory, or one ONNX file of it.")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="The model it was exported from, an id on the Hub or a local directory: for its module classes instead of "
        "what the package's config.json says, and to write config.json, tokenizer and processor where they are missing.",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="Run code that comes with the model.")
    parser.add_argument(
        "--force",
        action="store_true",
        help="Tag again what an export tagged, which knew more: the calls of modules that ran more than once are lost.",
    )
    add_htp_arguments(parser, config=False)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Namespace) -> int:
    """Tags a package and says how the nodes of each file are tagged."""
    import json

    from optimum_htp.cli.views.terminal import printable, working
    from optimum_htp.verbs.tag import tag

    with working(f"Tagging {printable(args.package)}"):
        report = tag(
            args.package,
            model=args.model,
            trust_remote_code=args.trust_remote_code,
            force=args.force,
            htp_options=htp_options(args),
        )
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    return 0


def _print(report: TagReport) -> None:
    from optimum_htp.cli.views.terminal import printable
    from optimum_htp.cli.views.tree import evidence_text

    for name, counts in report.files.items():
        done = f"{counts.tagged:,} of {counts.nodes:,} nodes tagged ({printable(evidence_text(counts.by_source))})"
        if name in report.kept:
            done += "; kept: the sidecar still describes these tags (--force tags again)"
        elif name in report.unknown:
            done += "; no model that the config describes explains it"
        print(f"{printable(name)}: {done}")
    for name in report.written:
        print(f"{printable(name)}: written")
