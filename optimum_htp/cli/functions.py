"""The verb `functions`: modules that repeat as functions of the model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.views.terminal import print_report, working

HELP = "Make ONNX functions of modules that repeat: 12 layers become one function that is called 12 times."

_NOTES = """\
Without PATTERN these are the layers: the outermost modules that repeat and have
modules of their own. Patterns are those of `select` (`select --help` has them
all; quote them). Of modules inside of each other the functions call each other.
Calls whose nodes are not like any other's stay as they are, and it is said why.
ONNX Runtime inlines functions when it loads a file, so it gives what it gave,
in the same time.

examples:
  a block for each layer:
  optimum-cli htp functions PKG -o OUT
  blocks in blocks:
  optimum-cli htp functions PKG BertLayer BertAttention Linear -o OUT
  all that repeats two modules below the root:
  optimum-cli htp functions PKG --depth 2 -o OUT
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `functions`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file; it is only read.")
    parser.add_argument(
        "patterns",
        metavar="PATTERN",
        nargs="*",
        help="The modules to make functions of; see below. Default: the layers.",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="Where to write: a directory, for an ONNX file a file."
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="Only modules with N modules above them; the root is at 0."
    )
    parser.add_argument("--file", metavar="NAME", help="Only in these files of the package; globs allowed.")
    parser.add_argument("--overwrite", action="store_true", help="Write to a directory or file that exists.")


def run(args: Namespace) -> int:
    """Writes the package with functions and lists them."""
    from optimum_htp.cli.views.functions import functions_page
    from optimum_htp.verbs.functions import functions

    with working("Making functions of", args.package):
        report = functions(
            args.package,
            args.patterns,
            output=args.output,
            depth=args.depth,
            file=args.file,
            overwrite=args.overwrite,
        )
    print_report(report, functions_page, as_json=args.json)
    return 0
