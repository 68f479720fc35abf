"""The verb `sensitivity`: which modules quantization hurts, and a package in which these are left in float32.

The quantizers are in `verbs/sensitivity/quantizers`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from optimum_htp.cli.options import (
    SEQUENCE,
    add_input_arguments,
    add_limit_arguments,
    count,
    input_sizes,
    positive,
    refuse_with,
    selection_format,
)
from optimum_htp.cli.views.terminal import print_lines, print_report, working
from optimum_htp.errors import HtpError

if TYPE_CHECKING:
    from optimum_htp.verbs.sensitivity import SensitivityReport

HELP = "Rank modules by what quantizing each costs, and quantize within a budget."

_NOTES = """\
columns:
  alone        what the outputs are like if this module alone is quantized
  weights      the same, if only its weights are
  activations  the same, if only what it computes with them is
  then         what they are like with all quantized but this module and those
               above it
  MB           what its weights take in float32

modes, each by ONNX Runtime's own quantizer, with its own defaults:
  dynamic  quantize_dynamic: weights in int8, activations in uint8 as they come
  static   quantize_static: weights and activations in int8, with ranges that
           --inputs have
  int4     MatMulNBitsQuantizer: the weights of products, symmetric in blocks
  fp16     OnnxModel.convert_float_to_float16

--metric, and what --budget may be:
  sqnr      the ratio of signal and noise: 30dB
  cosine    the cosine of the angle between both: 0.999
  relative  the largest difference over the largest value: 1%
  top1      the share of the rows of logits with the same largest: 99%
All are of the outputs of the model, beside those in float32, on --inputs; of
several outputs the worst counts, and padding does not.

With -o, the package is quantized with the worst modules left in float32, as few
as the budget needs, and measured; the figure is that of the file. --format
prints these modules' nodes, as `select` does.

exit codes:
  0  done
  1  the budget can't be met: nothing is written
  2  it could not be measured
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `sensitivity`."""
    parser.epilog = _NOTES
    package = parser.add_argument(
        "package", metavar="PKG", help="The package's directory, or an ONNX file, in float32; it is only read."
    )
    package.required = False  # `--inputs A.npz PKG` takes it; `run` asks for it
    parser.add_argument(
        "--mode", choices=("dynamic", "static", "int4", "fp16"), default="dynamic", help="How to quantize (dynamic)."
    )
    parser.add_argument(
        "--metric", choices=("sqnr", "cosine", "relative", "top1"), help="How to measure the outputs (sqnr)."
    )
    parser.add_argument("--budget", metavar="X", help="What they have to reach: 30dB, or of the metric; see below.")
    parser.add_argument(
        "--leave", type=count, metavar="N", help="Leave the N worst modules in float32, instead of a budget."
    )
    parser.add_argument(
        "--by",
        choices=("modules", "size"),
        default="modules",
        help="What is to be as little as can be in float32: the number of modules, or the size of their weights, for which "
        "they are sorted by noise for each byte (modules).",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="Write the quantized package: a directory, for an ONNX file a file."
    )
    parser.add_argument("--overwrite", action="store_true", help="Write to a directory or file that exists.")
    parser.add_argument(
        "--format",
        type=selection_format,
        metavar="FORMAT",
        help="Print only the nodes that are left in float32, in a format of `select`: ort-quantize, ort-fp16, ...",
    )
    parser.add_argument("--file", metavar="NAME", help="Quantize these files of the package only; globs allowed.")
    parser.add_argument("--top", type=positive, metavar="N", help="Show the N worst (20).")
    parser.add_argument("--all", action="store_true", help="Show all modules.")
    quantizer = parser.add_argument_group("quantizer")
    quantizer.add_argument(
        "--per-channel", action="store_true", help="A scale for each channel of a weight (dynamic, static)."
    )
    quantizer.add_argument(
        "--reduce-range",
        action="store_true",
        help="Weights in 7 bits, for processors without VNNI, where sums of products saturate (dynamic, static).",
    )
    quantizer.add_argument(
        "--operators", nargs="+", metavar="OP", help="Quantize these operators only, such as MatMul (dynamic, static)."
    )
    quantizer.add_argument("--block-size", type=positive, metavar="N", help="Weights that share a scale (int4: 32).")
    add_input_arguments(parser, batch="1", sequence=SEQUENCE, several_samples=True)
    parser.add_argument("--threads", type=positive, metavar="N", help="Threads within an operator.")
    add_limit_arguments(parser)


def run(args: Namespace) -> int:
    """Measures a package and writes the quantized one; 1 if the budget can't be met."""
    if args.package is None:
        raise HtpError("the following arguments are required: PKG")
    as_json = args.json or args.format == "json"
    if args.json:
        refuse_with(args, "--json prints everything as JSON: give one of them", "format")
    if as_json or args.format is not None:
        refuse_with(args, "for the table only", "top", "all")
    if args.format not in (None, "json"):
        refuse_with(args, "--format only prints the nodes that are left in float32: give one of them", "output")
    if args.all:
        refuse_with(args, "--all shows every module: give one of them", "top")
    if args.budget is None and args.leave is None:
        refuse_with(args, "which modules are left in float32 is not said: give --budget or --leave N too", "format")
    from optimum_htp.cli.views.sensitivity import sensitivity_page
    from optimum_htp.verbs.sensitivity import sensitivity

    with working("Measuring", args.package):
        report = sensitivity(
            args.package,
            mode=args.mode,
            inputs=args.inputs,
            **input_sizes(args),
            metric=args.metric,
            budget=args.budget,
            leave=args.leave,
            by=args.by,
            output=args.output,
            overwrite=args.overwrite,
            file=args.file,
            per_channel=args.per_channel,
            reduce_range=args.reduce_range,
            block_size=args.block_size,
            operators=args.operators,
            threads=args.threads,
            timeout=args.timeout,
            max_memory_bytes=args.max_memory,
        )
    if args.format not in (None, "json"):
        _print_list(report, args.format)
    else:
        print_report(report, partial(sensitivity_page, top=args.top or 20, every=args.all), as_json=as_json)
    return 0 if report.ok else 1


def _print_list(report: SensitivityReport, form: str) -> None:
    """Prints the nodes that are left in float32, and on stderr what to know about them."""
    import sys

    from optimum_htp.cli.views.sensitivity import left_in_float_lines, left_in_float_notes

    lines = list(left_in_float_lines(report, form=form))
    for note in left_in_float_notes(report, form=form):
        print(f"note: {note}", file=sys.stderr)
    print_lines(*lines)
