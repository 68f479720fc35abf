"""The verb `expose`: what modules return as outputs of the graph."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.views.terminal import print_report, working

HELP = "Make what modules return outputs of the graph: hidden states, attention probabilities, embeddings."

_NOTES = """\
Patterns are those of `select`: a dotted path, a class, a range, a glob, a call
(`select --help` has them all; quote them). An output is called like the module:
encoder.layer.3, or layer@1 for the second call of a module that runs twice.
Where several tensors leave a module, the likeliest to be its result has that
name, and the others layer[1], layer[2].
The package loads as before and gives its own outputs first; `strip` takes the
new ones off again.

examples:
  the hidden states of all layers:
  optimum-cli htp expose PKG BertLayer -o OUT
  the attention probabilities of layers 2 to 5:
  optimum-cli htp expose PKG 'encoder.layer.2-5.attention.self' \\
    --operator Softmax -o OUT
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `expose`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file; it is only read.")
    parser.add_argument(
        "patterns", metavar="PATTERN", nargs="+", help="The modules whose results to expose; see below."
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="Where to write: a directory, for an ONNX file a file."
    )
    parser.add_argument(
        "--operator",
        metavar="OP",
        help="Expose what nodes with this operator make in the modules, as Softmax does the probabilities of attention.",
    )
    parser.add_argument("--file", metavar="NAME", help="Expose in these files of the package only; globs allowed.")
    parser.add_argument("--overwrite", action="store_true", help="Write to a directory or file that exists.")


def run(args: Namespace) -> int:
    """Writes the package with more outputs and lists them."""
    from optimum_htp.cli.views.expose import expose_page
    from optimum_htp.verbs.expose import expose

    with working("Exposing in", args.package):
        report = expose(
            args.package,
            args.patterns,
            output=args.output,
            operator=args.operator,
            file=args.file,
            overwrite=args.overwrite,
        )
    print_report(report, expose_page, as_json=args.json)
    return 0
