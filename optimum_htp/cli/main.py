"""`optimum-htp`: the verbs of `optimum-cli htp` by a shorter name, and `optimum-htp export`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter, RawTextHelpFormatter
from collections.abc import Sequence

from optimum_htp.cli.arguments import refuse_in_one_line
from optimum_htp.cli.options import add_version
from optimum_htp.cli.outcome import FAULT, outcome
from optimum_htp.cli.verbs import VERBS, add_verb, load_verb
from optimum_htp.errors import needing_optimum

_DESCRIPTION = """\
Optimum's ONNX export, with every node knowing the PyTorch module that it comes
from."""
_EPILOG = """\
The same commands: optimum-cli export htp, and optimum-cli htp COMMAND.
Help of a command: optimum-htp COMMAND --help"""
_EXPORT = "Export a model to ONNX with every node tagged; the options are those of optimum-cli export onnx."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, by default that of the process, and returns its exit code.

    Raises SystemExit if the arguments are wrong (2), or help or the version is asked for (0).
    """
    given = sys.argv[1:] if arguments is None else arguments
    return outcome(lambda: _run(given))


def _run(given: Sequence[str]) -> int:
    parser = build_parser(given)
    args = parser.parse_args(given)
    if not hasattr(args, "run"):
        parser.print_help(sys.stderr)
        return FAULT
    return int(args.run(args))


def build_parser(given: Sequence[str] = ()) -> ArgumentParser:
    """The parser of `optimum-htp`; Optimum's options are only loaded if the arguments ask to export."""
    parser = ArgumentParser(
        "optimum-htp", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=RawDescriptionHelpFormatter
    )
    add_version(parser)
    refuse_in_one_line(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    export = commands.add_parser("export", help=_EXPORT, formatter_class=RawTextHelpFormatter)
    if "export" in given:
        _add_export(export)
    for name in VERBS:
        verb = load_verb(name)
        add_verb(commands.add_parser(name, help=verb.HELP), verb)
    return parser


def _add_export(parser: ArgumentParser) -> None:
    with needing_optimum("an export"):
        from optimum_htp.cli.plugin import HtpExportCommand

    def run(args: Namespace) -> int:
        return HtpExportCommand(None, args, from_defaults_factory=True, parser=parser).execute()

    HtpExportCommand.parse_args(parser)
    parser.set_defaults(run=run)
