"""The verb `ranges`: how large the numbers in each module are, and which modules a narrower type can't hold."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial

from optimum_htp.cli.options import (
    SEQUENCE,
    add_expand,
    add_held_memory,
    add_input_arguments,
    add_limit_arguments,
    add_session_arguments,
    factor,
    input_sizes,
    positive,
    refuse_with,
    selection_format,
)
from optimum_htp.cli.views.terminal import print_lines, print_report, working
from optimum_htp.errors import HtpError

HELP = "Show how large the numbers are that each module makes, and name the modules that float16 or int8 can't hold."

_NOTES = """\
columns:
  min, max, mean, zeros
                 of what the module hands on: the finite numbers, and the
                 share that is 0
  largest        the largest magnitude of anything that its own operations make
  lost           with --dtype: the largest share of a tensor that becomes 0
  sums           with --dtype fp16: the largest sum of any of the products that
                 a MatMul, Gemm or Conv adds up to one number, in whatever
                 order it adds them. It is exact but for what is rounded; if
                 it fits, no kernel can overflow there
Calls of several layers whose numbers are within a factor of 2 of each other
are one row (layer.0-5 ×6), with the figures of all; --expand shows each.

--dtype names modules, before anything is converted, for
  fp16  if a number of theirs becomes infinite (65520 or more), or something
        that is divided by becomes 0 (less than 3e-8). Modules that read such
        a tensor are named too. What is too large does no harm, and is not
        counted, where only a Softmax comes to see it, as in a mask, or where
        it is stored in the file: converters cut that to 65504
  int8  if a tensor has infinite numbers, if nearly all of it becomes 0 beside
        a few large numbers (one step for each tensor), or if int32 can't hold
        the sum of so many products
Nothing can be said of other inputs than those that were run: give real ones.

exit codes:
  0  the type holds what was seen; with --format also if it does not
  1  it does not, or there is a NaN where nothing before it has one
  2  it could not be run
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ranges`."""
    parser.epilog = _NOTES
    package = parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    package.required = False  # `--inputs A.npz PKG` takes it; `run` asks for it
    parser.add_argument("--dtype", choices=("fp16", "int8"), help="Name the modules that this type can't hold.")
    parser.add_argument(
        "--format",
        type=selection_format,
        metavar="FORMAT",
        help="Print nothing but the nodes to leave out of the type, in a format of `select`, such as ort-fp16; list shows them.",
    )
    parser.add_argument(
        "--accumulate",
        choices=("float32", "float16"),
        help="What kernels add in (float32). With float16, modules are named too in which a sum may pass the range.",
    )
    parser.add_argument(
        "--headroom",
        type=factor,
        metavar="X",
        help="What is X times larger than what was seen has to fit into float16, too (1).",
    )
    parser.add_argument("--top", type=positive, metavar="N", help="Show the N with the largest numbers (20).")
    parser.add_argument("--all", action="store_true", help="Show all module calls, in their order.")
    add_expand(parser)
    add_input_arguments(parser, batch="1", sequence=SEQUENCE, several_samples=True)
    parser.add_argument("--file", metavar="NAME", help="Run this file of the package only (globs allowed).")
    add_held_memory(parser)
    add_session_arguments(parser)
    add_limit_arguments(parser, memory=False)


def run(args: Namespace) -> int:
    """Measures a package; 1 if the type can't hold what was seen."""
    if args.package is None:
        raise HtpError("the following arguments are required: PKG")
    as_json = args.json or args.format == "json"
    if args.json:
        refuse_with(args, "--json prints everything as JSON: give one of them", "format")
    if as_json or args.format is not None:
        refuse_with(args, "for the table only", "top", "all", "expand")
    if args.all:
        refuse_with(args, "--all shows every module call: give one of them", "top")
    if args.dtype is None:
        refuse_with(args, "says what has to be left out of a type: give --dtype too", "format")
    if args.dtype != "fp16":
        refuse_with(args, "for --dtype fp16", "accumulate", "headroom")
    from optimum_htp.cli.views.ranges import left_out_lines, left_out_notes, ranges_page
    from optimum_htp.verbs.ranges import ranges

    with working("Running", args.package):
        report = ranges(
            args.package,
            inputs=args.inputs,
            **input_sizes(args),
            dtype=args.dtype,
            accumulate=args.accumulate or "float32",
            headroom=args.headroom or 1.0,
            file=args.file,
            max_memory_bytes=args.max_memory,
            provider=args.provider,
            threads=args.threads,
            timeout=args.timeout,
        )
    if args.format not in (None, "json"):
        import sys

        lines = list(left_out_lines(report, form=args.format))
        for note in left_out_notes(report, form=args.format):
            print(f"note: {note}", file=sys.stderr)
        print_lines(*lines)
        return 0
    print_report(report, partial(ranges_page, top=args.top or 20, every=args.all, expand=args.expand), as_json=as_json)
    return 0 if report.ok else 1
