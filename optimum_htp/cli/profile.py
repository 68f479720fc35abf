"""The verb `profile`: how long each module takes in ONNX Runtime."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


HELP = "Show how long each module takes in ONNX Runtime, in the session that users really run."

_NOTES = """\
columns:
  module     the module, below its parent; + stands before nodes that are fused of several modules: their time is in
             the totals of the modules around them, and in no module's own
  calls      how often it ran in the trace
  kernels    kernels of it and the modules below it in one run
  total ms   the time of all of these: the median over the runs
  ±          the distance between the first and the third quartile of the runs
  share      of the time of all kernels
  self ms    the time of its own kernels
  self       their share
  operators  what takes most of the total

A model that generates is run in two phases: prefill (the prompt, without past key values), and decode (one token more,
with those of --sequence-length tokens). ONNX Runtime's profiler itself takes a few microseconds for each kernel, which
are in the run's time and not in the kernels'.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `profile`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    parser.add_argument("--by", choices=("module", "class", "layer", "call", "op"), default="module",
                        help="Add times up by module (the default), class, layer, call or operator.")  # fmt: skip
    parser.add_argument("--depth", type=count, metavar="N", help="Show N levels of modules below the root.")
    parser.add_argument("--top", type=positive, metavar="N", help="Show the first N only, by time or as sorted.")
    parser.add_argument("--sort", choices=("tree", "total", "self", "kernels"), help="Sort by this.")
    parser.add_argument("--compare", metavar="OTHER", help="Profile this package too, and show both side by side.")
    add_input_arguments(parser)
    parser.add_argument("--file", metavar="NAME", help="Run this file of the package only; a glob will do.")
    parser.add_argument("--provider", default="CPUExecutionProvider", metavar="NAME",
                        help="ONNX Runtime's execution provider (CPUExecutionProvider).")  # fmt: skip
    parser.add_argument("--threads", type=positive, metavar="N", help="Threads within an operator.")
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="Runs that count (10).")
    parser.add_argument("--warmup", type=count, default=3, metavar="N", help="Runs before those (3).")
    parser.add_argument("--speedscope", metavar="FILE", help="Write a profile of PKG for speedscope.app.")
    parser.add_argument(
        "--chrome-trace", metavar="FILE", help="Write a trace of PKG for chrome://tracing or Perfetto."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON: everything, whatever is to be shown.")


def add_input_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments that say what a model is run on."""
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--inputs", metavar="FILE.npz", help="Run on these arrays, named like the model's inputs.")
    inputs.add_argument("--batch-size", type=positive, metavar="N", help="Examples at once (1; beside PyTorch 2).")
    inputs.add_argument("--sequence-length", type=positive, metavar="N",
                        help="Tokens of each (128, or fewer where the model takes no more).")  # fmt: skip
    inputs.add_argument("--height", type=positive, metavar="N", help="Pixels (what the config says).")
    inputs.add_argument("--width", type=positive, metavar="N", help="Pixels (what the config says).")
    inputs.add_argument("--dim", type=_dim, action="append", default=[], metavar="NAME=N",
                        help="The size of a dimension by the name that the graph has for it; may be repeated.")  # fmt: skip


def input_sizes(args: Namespace) -> Any:
    """The sizes that the arguments ask for."""
    from optimum_htp.models import InputSizes

    return InputSizes(args.batch_size, args.sequence_length, args.height, args.width, dict(args.dim))


def run(args: Namespace) -> int:
    """Profiles a package, or two."""
    from optimum_htp.cli.views.profile import print_profile, print_profile_json
    from optimum_htp.cli.views.profile_delta import print_delta, print_delta_json
    from optimum_htp.cli.views.profile_traces import write_chrome_trace, write_speedscope
    from optimum_htp.cli.views.terminal import printable, working
    from optimum_htp.package import load_package
    from optimum_htp.verbs.profile import compare_profiles, profile

    def of(package: str, origin: str | None) -> Any:
        return profile(
            package, sizes=input_sizes(args), inputs=args.inputs, file=args.file, provider=args.provider,
            threads=args.threads, runs=args.runs, warmup=args.warmup, origin=origin,
        )  # fmt: skip

    if args.compare:
        load_package(args.compare)  # or the first profile would be for nothing
    with working(f"Profiling {printable(args.package)}"):
        report = of(args.package, args.compare)
    if args.speedscope:
        write_speedscope(report, args.speedscope)
    if args.chrome_trace:
        write_chrome_trace(report, args.chrome_trace)
    if args.compare:
        with working(f"Profiling {printable(args.compare)}"):
            delta = compare_profiles(report, of(args.compare, args.package))
        if args.json:
            print_delta_json(delta)
        else:
            print_delta(delta, by=args.by, depth=args.depth, top=args.top, sort=args.sort)
    elif args.json:
        print_profile_json(report)
    else:
        print_profile(report, by=args.by, depth=args.depth, top=args.top, sort=args.sort)
    return 0


def count(text: str) -> int:
    """A whole number, 0 or more."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ArgumentTypeError(f"{text!r} is no whole number, 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not count(text):
        raise ArgumentTypeError("0 is too few: give 1 or more")
    return int(text)


def _dim(text: str) -> tuple[str, int]:
    name, equals, size = text.rpartition("=")
    if not (name and equals):
        raise ArgumentTypeError(f"{text!r} is not NAME=N")
    return name, count(size)
