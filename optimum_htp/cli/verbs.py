"""The verbs of `optimum-cli htp` and `optimum-htp`, which are the same.

A verb is a module of this package that is named like it, with `HELP`, `add_arguments` and `run` as in `Verb`, and a
name in `VERBS`. Its module is imported whenever a parser is built, so it imports only light things at its top.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from importlib import import_module
from textwrap import fill
from typing import Protocol, cast

from optimum_htp.cli.arguments import refuse_in_one_line
from optimum_htp.cli.other_lines import add_verbose, other_lines

VERBS = tuple(
    """
    tree tag project strip validate pack unpack profile compare ranges select params extract expose functions diff explain
    view
    """.split()
)
"""The names of the verbs, in the order in which help lists them."""


class Verb(Protocol):
    """What the module of a verb has."""

    HELP: str
    """What the verb does, in one line."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the verb's arguments to its parser, all but `--json`, and may give the parser an epilog."""

    def run(self, args: Namespace) -> int:
        """Does the work, prints its report (`views.terminal.print_report`) and returns the exit code.

        Raises HtpError for the user's or the file's fault; the message becomes the one line that is shown.
        """


def load_verb(name: str) -> Verb:
    """The module of a verb."""
    return cast("Verb", import_module(f"optimum_htp.cli.{name}"))


def add_verb(parser: ArgumentParser, verb: Verb) -> None:
    """Makes a parser that of a verb."""
    parser.description = fill(verb.HELP, width=79)
    parser.formatter_class = RawDescriptionHelpFormatter
    verb.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print the report as JSON.")
    add_verbose(parser)
    refuse_in_one_line(parser)

    def run(args: Namespace) -> int:
        with other_lines(verbose=args.verbose):
            return verb.run(args)

    parser.set_defaults(run=run)
