"""The verb `diff`: what differs between two packages, module by module."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.options import add_map_argument, count
from optimum_htp.cli.views.terminal import print_report

HELP = "Compare two packages module by module: nodes, attributes, constants, opsets and, on request, weights."

_NOTES = """\
columns:
  module  the module's dotted path, of modules that differ
  class   its class, both where they differ
  before  nodes of the first package that belong to it (with --depth N, at level
          N also to those below it)
  after   nodes of the second
  what    how the nodes by operator, the parameters, the calls, the attributes,
          the constants and the weights differ

The last line says what was compared and what was not. Names, descriptions and
metadata never are, nor where weights are stored.

To check in CI that an upgrade changed nothing: --weights --exit-code.

exit codes:
  0  done, whether or not there are differences
  1  with --exit-code: there are differences in what was compared
  2  a path is not a package, or its nodes are not tagged
"""
_WEIGHTS = "Compare the values of weights too, by their digests. They are read in pieces, and never held."
_DEPTH = "Count what is below N levels of modules with the module above it."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `diff`."""
    parser.epilog = _NOTES
    parser.add_argument("before", metavar="A", help="The first package's directory, or an ONNX file.")
    parser.add_argument(
        "after",
        metavar="B",
        nargs="?",
        help="The second; without it, each file of A is compared with the one of A that it was made from.",
    )
    add_map_argument(parser, "B", "A")
    parser.add_argument("--depth", type=count, metavar="N", help=_DEPTH)
    parser.add_argument("--weights", action="store_true", help=_WEIGHTS)
    parser.add_argument("--exit-code", action="store_true", help="Exit with 1 if there are differences.")


def run(args: Namespace) -> int:
    """Compares two packages and prints what differs."""
    from optimum_htp.cli.views.diff import print_diff
    from optimum_htp.verbs.diff import diff

    packages = (args.before,) if args.after is None else (args.after, args.before)
    report = diff(*packages, renamed=dict(args.map), depth=args.depth, weights=args.weights)
    print_report(report, print_diff, as_json=args.json)
    return 1 if args.exit_code and report.changed else 0
