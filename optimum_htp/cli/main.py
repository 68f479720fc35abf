"""`optimum-htp`: the verbs of `optimum-cli htp` by a shorter name, and `optimum-htp export`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import optimum_htp
from optimum_htp.cli.outcome import FAULT, outcome
from optimum_htp.cli.verbs import VERBS, add_verb, load_verb


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code.

    Args:
        arguments: The arguments; None means those of the process.

    Raises:
        SystemExit: The arguments are wrong (2), or help or the version was asked for (0).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return outcome(lambda: _run(given))


def _run(given: Sequence[str]) -> int:
    parser = build_parser(given)
    args = parser.parse_args(given)
    if not hasattr(args, "run"):
        parser.print_help(sys.stderr)
        return FAULT
    return int(args.run(args))


def build_parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of `optimum-htp`; Optimum's options are only loaded where the arguments ask to export."""
    parser = argparse.ArgumentParser("optimum-htp", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"optimum-htp {optimum_htp.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_export(verbs, wanted="export" in given)
    for name in VERBS:
        verb = load_verb(name)
        add_verb(verbs.add_parser(name, help=verb.HELP, description=verb.HELP), verb)
    return parser


_DESCRIPTION = "Optimum's ONNX export, with every node knowing the PyTorch module that it comes from."
_EPILOG = "The same commands: optimum-cli export htp, and optimum-cli htp COMMAND."


def _add_export(verbs: argparse._SubParsersAction[argparse.ArgumentParser], *, wanted: bool) -> None:
    help_text = "Export a model to ONNX with every node tagged; the options are those of optimum-cli export onnx."
    parser = verbs.add_parser("export", help=help_text, formatter_class=argparse.RawTextHelpFormatter)
    if wanted:
        from optimum_htp.cli.plugin import HtpExportCommand

        HtpExportCommand.parse_args(parser)
        parser.set_defaults(run=lambda args: HtpExportCommand.of(args, parser).execute())
