"""The verb `extract`: a module as an ONNX model of its own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.options import count
from optimum_htp.cli.views.terminal import print_report, working

HELP = "Cut a module out of a package as an ONNX model of its own, weights included."

_NOTES = """\
Inputs and outputs have the names of the tensors in the package. The outputs
are what the rest of the model consumes: what a module returns and nobody takes
is not among them.

examples:
  optimum-cli htp extract PKG bert.encoder.layer.0 layer.onnx
  a range, into the directory `layers`:
  optimum-cli htp extract PKG bert.encoder.layer.2-5 layers
  the second call of a module that runs more than once:
  optimum-cli htp extract PKG albert...albert_layers.0@1 call.onnx
  from a branch of a merged decoder:
  optimum-cli htp extract PKG decoder.block.0 block.onnx --graph then_branch
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `extract`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file; it is only read.")
    parser.add_argument(
        "module",
        metavar="MODULE",
        help="The module: its dotted path as in `tree`, or its tag. PATH@1 is its second call; `layer.2-5` is a range, "
        "both ends included; a container (`layer`) is all that is in it.",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        help="The ONNX file to write, if the name ends in .onnx, else a directory for model.onnx and its sidecar.",
    )
    parser.add_argument("--file", metavar="NAME", help="The file of the package to cut from; globs allowed.")
    parser.add_argument(
        "--graph", metavar="NAME", help="The branch to cut from, if several have the module: then_branch, else_branch."
    )
    parser.add_argument(
        "--call", type=count, metavar="N", help="The module's call, counted from 0; the same as PATH@N."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace what is there from an earlier extraction.")


def run(args: Namespace) -> int:
    """Cuts the module out and says what it takes and gives."""
    from optimum_htp.cli.views.extract import extract_page
    from optimum_htp.verbs.extract import extract

    with working("Extracting from", args.package):
        report = extract(
            args.package,
            args.module,
            output=args.output,
            file=args.file,
            graph=args.graph,
            call=args.call,
            overwrite=args.overwrite,
        )
    print_report(report, extract_page, as_json=args.json)
    return 0
