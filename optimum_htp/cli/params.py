"""The verb `params`: the PyTorch parameter of every initializer."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


HELP = "Show which PyTorch parameter each initializer is, and what was done to it, found by value."

_CHANGES = """\
changes:
  same, transposed, reshaped, cast (to another type), scaled (by one number), shifted (by one), folded with a batch norm, concatenated
  (into a fused QKV), quantized (with its scale and zero point). "also" names parameters with the same values that the
  initializer stands for too. A constant is no parameter: integers, truth values, or one number throughout.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `params`."""
    parser.epilog = _CHANGES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        required=True,
        help="The model it was exported from: a directory, or an id on the Hub.",
    )
    parser.add_argument("--file", metavar="NAME", help="Only this file of the package; a glob will do.")
    parser.add_argument(
        "--rename",
        action="store_true",
        help="Give initializers the names of their parameters in the file. Inputs, outputs and nodes keep theirs; "
        "`strip` gives the old names back.",
    )
    parser.add_argument("--no-save", action="store_true", help="Don't write the map to the package's sidecar.")
    parser.add_argument("--trust-remote-code", action="store_true", help="Run code that comes with the model.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Namespace) -> int:
    """Prints the parameters of a package."""
    from optimum_htp.parameter_map import parameters
    from optimum_htp.views.params_text import print_params, print_params_json

    report = parameters(
        args.package,
        args.model,
        file=args.file,
        rename=args.rename,
        save=not args.no_save,
        trust_remote_code=args.trust_remote_code,
    )
    show = print_params_json if args.json else print_params
    show(report)
    return 0
