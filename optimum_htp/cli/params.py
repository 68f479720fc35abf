"""The verb `params`: the PyTorch parameter of every initializer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial

from optimum_htp.cli.options import add_expand, refuse_with
from optimum_htp.cli.views.terminal import print_report, working

HELP = "Show which PyTorch parameter each initializer is, and what was done to it, found by value."

_NOTES = """\
changes:
  same          as it is in the model
  transposed    with its axes in another order
  reshaped      the same numbers in another shape
  sliced        some of its rows
  gathered      rows of it in another order, chosen by constant numbers
  cast          to another type
  scaled        multiplied by one number
  shifted       with one number added
  folded        a convolution with the batch norm after it
  concatenated  several parameters side by side, as in a fused QKV
  quantized     in steps of its scale, with its zero point

All are found by value. "also" names other parameters with the same values,
which the initializer stands for too. A constant is not a parameter: integers,
booleans, or one number throughout.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `params`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        required=True,
        help="The model it was exported from: a directory, or an id on the Hub.",
    )
    parser.add_argument("--file", metavar="NAME", help="Only this file of the package; globs allowed.")
    parser.add_argument(
        "--rename",
        action="store_true",
        help="Give initializers the names of their parameters in the file. Inputs, outputs and nodes keep theirs; "
        "`strip` gives the old names back.",
    )
    add_expand(parser)
    parser.add_argument("--no-save", action="store_true", help="Don't write the map to the package's sidecar.")
    parser.add_argument("--trust-remote-code", action="store_true", help="Run code that comes with the model.")


def run(args: Namespace) -> int:
    """Prints the parameters of a package."""
    if args.json:
        refuse_with(args, "for the table only; --json prints everything", "expand")
    from optimum_htp.cli.views.params import params_page
    from optimum_htp.verbs.params import params

    with working("Tracing the tensors of", args.package):
        report = params(
            args.package,
            model=args.model,
            file=args.file,
            rename=args.rename,
            save=not args.no_save,
            trust_remote_code=args.trust_remote_code,
        )
    print_report(report, partial(params_page, expand=args.expand), as_json=args.json)
    return 0
