"""The verb `compare`: where a package differs from its source model, or from another package."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from functools import partial

from optimum_htp.cli.options import (
    SEQUENCE,
    add_expand,
    add_held_memory,
    add_input_arguments,
    add_limit_arguments,
    add_map_argument,
    add_session_arguments,
    input_sizes,
    positive,
    refuse_with,
    tolerance,
)
from optimum_htp.cli.views.terminal import print_report, working
from optimum_htp.errors import HtpError

HELP = "Compare each module with the source model in PyTorch or another package, and name the one that is wrong."

_NOTES = """\
columns:
  adds      the error of the module itself: it is given what the reference's
            module was given. "its own operations" is what a module does
            between those in it: a residual addition, a mask, a reshape
  output    the error of what it returns in the running model, what it
            inherits included
Calls of several layers that are within 3 dB of each other are one row
(layer.0-5 ×6), with the figures of the worst; --expand shows each.

--metric chooses what is shown:
  sqnr      the ratio of signal and error, in dB: 140 is float32, 70
            float16, 30 int8, 0 no likeness
  relative  the largest difference over the largest value of the reference
  absolute  the largest difference
  mean      the mean difference
  cosine    the cosine of the angle between both

A module is wrong if it adds more than its arithmetic costs, and the outputs
are better when just this is put right. The outputs may be off by the
tolerance: 1e-4 for a model in float32, 2e-2 in float16, 1e-1 in bfloat16,
relative to their largest value; 7e-1 if quantized, as noise over signal, which
is 3 dB. Of two packages the larger counts.

exit codes:
  0  no module is wrong, and the outputs are within the tolerance
  1  a module is wrong, or all add so much that the outputs are not within it
  2  it could not be compared, or the outputs are not within the tolerance, and
     whose error that is can't be told
"""

_METRICS = ("sqnr", "relative", "absolute", "mean", "cosine")


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `compare`."""
    parser.epilog = _NOTES
    package = parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    package.required = False  # `--inputs A.npz PKG` takes it; `run` asks for it
    against = parser.add_mutually_exclusive_group()
    against.add_argument("-m", "--model", metavar="MODEL", help="The source model: a directory, or an id on the Hub.")
    against.add_argument(
        "--reference",
        metavar="OTHER",
        help="Compare with this package, without PyTorch: the one before quantization, say. Without it and --model, each "
        "file is compared with the one of PKG that it was made from: onnx/model_q4.onnx with onnx/model.onnx.",
    )
    parser.add_argument("--tolerance", type=tolerance, metavar="X", help="How far off the outputs may be.")
    parser.add_argument("--metric", choices=_METRICS, help="Which figure to show (sqnr).")
    parser.add_argument("--top", type=positive, metavar="N", help="Show the N that add most (20).")
    parser.add_argument("--all", action="store_true", help="Show all module calls.")
    parser.add_argument(
        "--source",
        action="store_true",
        help="Show the line of Python that each comes from, where it is in a package that is installed.",
    )
    add_expand(parser)
    add_input_arguments(
        parser, batch="1, with --model 2", sequence=f"{SEQUENCE}; with --model 16", several_samples=True
    )
    add_map_argument(parser)
    parser.add_argument("--file", metavar="NAME", help="Compare this file of the package only (globs allowed).")
    add_held_memory(parser)
    add_session_arguments(parser)
    add_limit_arguments(parser, memory=False)
    parser.add_argument("--task", metavar="TASK", help="The source model's task; default: the package's.")
    parser.add_argument("--trust-remote-code", action="store_true", help="Run code that comes with the source model.")


def run(args: Namespace) -> int:
    """Compares a package; 1 if a module is wrong, or what all add is over the tolerance, 2 if that can't be told."""
    if args.package is None:
        raise HtpError("the following arguments are required: PKG")
    if args.json:
        refuse_with(args, "for the table only; --json prints everything", "metric", "top", "all", "expand", "source")
    if args.all:
        refuse_with(args, "--all shows every module call: give one of them", "top")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns about Optimum's calls
    from optimum_htp.cli.views.compare import comparison_page
    from optimum_htp.verbs.compare import compare

    with working("Comparing", args.package):
        report = compare(
            args.package,
            model=args.model,
            reference=args.reference,
            file=args.file,
            inputs=args.inputs,
            **input_sizes(args),
            tolerance=args.tolerance,
            max_memory_bytes=args.max_memory,
            provider=args.provider,
            threads=args.threads,
            renamed=dict(args.map),
            task=args.task,
            trust_remote_code=args.trust_remote_code,
            timeout=args.timeout,
        )
    print_report(
        report,
        partial(
            comparison_page,
            source=args.source,
            top=args.top or 20,
            every=args.all,
            metric=args.metric or "sqnr",
            expand=args.expand,
        ),
        as_json=args.json,
    )
    if report.wrong:
        return 1
    return 0 if report.ok else 2
