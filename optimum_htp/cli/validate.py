"""The verb `validate`: whether a package is complete, and is what it says."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.options import add_limit_arguments, add_map_argument, add_size_arguments, input_sizes, tolerance
from optimum_htp.cli.views.terminal import print_report, working

HELP = "Check that a package is complete and consistent; on request load it, and compare it with PyTorch."

_NOTES = """\
exit codes:
  0  no check failed (there may be warnings)
  1  a check failed
  2  the path is not a package, the model to compare with can't be loaded, or an
     option can't act: it is for --load or --model only, a size of an axis that
     no input has, a task that the package was not exported for
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `validate`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file, packed or not.")
    parser.add_argument(
        "--load",
        action="store_true",
        help="Also run ONNX's checker, load the package with the ORTModel class of its task and run it on dummy "
        "inputs, in another process that has no network.",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="Also compare the outputs with this source model (a directory, or an id on the Hub) in PyTorch, on the "
        "same inputs, of two sizes.",
    )
    parser.add_argument("--task", help="The task to load and compare for (--load, --model); default: the package's.")
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        metavar="X",
        help="How far outputs may be from PyTorch's (--model), as for `compare`; default: by the type that a file "
        "computes with.",
    )
    add_size_arguments(
        parser.add_argument_group("inputs to compare with (--model)"), "--dim", "--shape", batch="2", sequence="16"
    )
    add_map_argument(parser, "PKG", "Optimum's exports (--model)")
    add_limit_arguments(parser.add_argument_group("limits (--load, --model)"))
    parser.add_argument("--trust-remote-code", action="store_true", help="Run code that comes with the model.")


def run(args: Namespace) -> int:
    """Validates a package; 1 if a check failed."""
    from optimum_htp.cli.views.validate import validation_page
    from optimum_htp.verbs.validate import validate

    with working("Validating", args.package):
        report = validate(
            args.package,
            load=args.load,
            model=args.model,
            task=args.task,
            trust_remote_code=args.trust_remote_code,
            tolerance=args.tolerance,
            renamed=dict(args.map),
            timeout=args.timeout,
            max_memory_bytes=args.max_memory,
            **input_sizes(args),
        )
    print_report(report, validation_page, as_json=args.json)
    return 0 if report.ok else 1
