"""The verb `tag`: tags an existing package, without exporting it again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.options import add_htp_arguments, has_htp_arguments, htp_options
from optimum_htp.cli.views.terminal import print_report, working

HELP = "Tag an existing package, such as one of plain `optimum-cli export onnx`, without exporting it again."

_MODEL = """\
The model it was exported from, an id on the Hub or a local directory: for its module classes instead of what the \
package's config.json says, to write config.json, tokenizer and processor where they are missing, and for the values of \
its weights, where the nodes have no names that say anything."""
_FORCE = "Tag again what an export tagged, which knew more: the calls of modules that ran more than once are lost."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `tag`."""
    parser.add_argument("package", metavar="PKG", help="The package's directory, or one ONNX file of it.")
    parser.add_argument("--model", metavar="MODEL", help=_MODEL)
    parser.add_argument("--trust-remote-code", action="store_true", help="Run code that comes with the model.")
    parser.add_argument("--force", action="store_true", help=_FORCE)
    add_htp_arguments(parser, config=False)


def run(args: Namespace) -> int:
    """Tags a package and says how the nodes of each file are tagged."""
    from optimum_htp.cli.views.written import tag_page
    from optimum_htp.verbs.tag import tag

    with working("Tagging", args.package):
        report = tag(
            args.package,
            model=args.model,
            trust_remote_code=args.trust_remote_code,
            force=args.force,
            htp_options=htp_options(args) if has_htp_arguments(args) else None,
        )
    print_report(report, tag_page, as_json=args.json)
    return 0
