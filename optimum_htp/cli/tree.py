"""The verb `tree`: the modules of a package, and how many nodes each owns."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial

from optimum_htp.cli.options import add_expand, count, refuse_with
from optimum_htp.cli.views.terminal import print_report
from optimum_htp.errors import HtpError

HELP = "Show the modules of a package and the nodes that each of them owns."

_NOTES = """\
columns:
  module      the module, below its parent; containers stand in front of their
              child's name (layer.0)
  class       its class, and the other names that it goes by
  nodes       nodes that belong to it or to a module below it
  own         nodes that belong to it
  parameters  elements of the parameters at and below it
  calls       how often it ran in the trace
"""
_MODULE = "Show these modules and all below them: a glob over dotted paths ('*.layer.0'), or a class (BertLayer)."


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `tree`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    parser.add_argument("--depth", type=count, metavar="N", help="Show N levels of modules below the first.")
    parser.add_argument("--module", metavar="GLOB", help=_MODULE)
    parser.add_argument("--file", metavar="NAME", help="Show this file of the package only; globs allowed.")
    parser.add_argument("--nodes", action="store_true", help="List the nodes under each module.")
    parser.add_argument(
        "--source",
        action="store_true",
        help="With --nodes, show the line of Python that each comes from, where it is in a package that is installed.",
    )
    add_expand(parser)


def run(args: Namespace) -> int:
    """Prints the module trees of a package."""
    if args.json:
        refuse_with(args, "for the table only; --json prints everything", "expand", "source")
    if args.source and not args.nodes:
        raise HtpError("--source is for --nodes: give both")
    from optimum_htp.cli.views.tree import tree_page
    from optimum_htp.verbs.tree import tree

    report = tree(args.package, file=args.file, module=args.module, depth=args.depth, nodes=args.nodes)
    print_report(report, partial(tree_page, expand=args.expand, source=args.source), as_json=args.json)
    return 0
