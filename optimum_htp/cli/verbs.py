"""The verbs of `optimum-cli htp` and `optimum-htp`, which are the same.

A verb is a module of this package that is named like it, with `HELP`, `add_arguments` and `run` as in `Verb`, and a
line in `VERBS`. Its module is imported whenever a parser is built, so it imports only light things at its top.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


VERBS = (
    "tree",
    "tag",
    "project",
    "strip",
    "validate",
    "pack",
    "unpack",
    "profile",
    "compare",
    "select",
    "params",
    "extract",
    "diff",
)
"""The names of the verbs, in the order in which help lists them."""


class Verb(Protocol):
    """What the module of a verb has."""

    HELP: str
    """What the verb does, in one line."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the verb's arguments to its parser, and may give the parser a description and an epilog."""

    def run(self, args: Namespace) -> int:
        """Does the work and returns the exit code.

        Raises:
            HtpError: The user's or the file's fault; the message becomes the one line that is shown.
        """


def load_verb(name: str) -> Verb:
    """The module of a verb."""
    return cast("Verb", import_module(f"optimum_htp.cli.{name}"))


def add_verb(parser: ArgumentParser, verb: Verb) -> None:
    """Makes a parser that of a verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_arguments(parser)
    parser.set_defaults(run=verb.run)
