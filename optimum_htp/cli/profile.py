"""The verb `profile`: time, memory, work and provider of each module in a runtime. `views/profile.py` prints it."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.cli.options import (
    SEQUENCE,
    add_expand,
    add_input_arguments,
    add_limit_arguments,
    add_map_argument,
    add_session_arguments,
    count,
    input_sizes,
    positive,
    refuse_with,
)
from optimum_htp.cli.views.terminal import print_report, working

if TYPE_CHECKING:
    from optimum_htp.verbs.profile import ProfileReport

HELP = "Show the time, memory, work and provider of each module in ONNX Runtime, OpenVINO or TensorRT, as users really run it."

_NOTES = """\
columns:
  module     the module, below its parent; + stands before nodes that were fused
             from several modules: their time is in the totals of the modules
             around them, and in no module's own
  class      its class
  modules    how many modules are of the class (--by class)
  call       which call of the module it is, from 0 (--by call: modules that ran
             more than once); ? if unknown
  calls      how often it ran in the trace
  kernels    kernels (OpenVINO, TensorRT: layers) of it and the modules below it
             in one run
  total ms   the time of all of these: the median over the runs
  ± ms       the distance between the first and the third quartile of the runs
  share      of the time of all kernels
  self ms    the time of its own kernels
  self       their share
  operators  what takes most of the total
  peak MB    the most that ONNX Runtime's arena holds while kernels of the total
             run: outputs, scratch, weights laid out anew; not weights as stored
  allocated  what they take of it;  net: how much more it holds after them
  parameters the constants that they read;  read, written: all other tensors
  GFLOP      billions of operations of matrix products, convolutions, attention
             and recurrent cells, a multiplication and its addition being two
  GFLOP/s    that in the total's time;  B/FLOP: bytes read and written for each
  provider   what runs its nodes;  copied: between providers, in MB
Memory, bytes, operations and providers are those of the first run; - is what is
not known, and the heading says why. An attention's scores are counted whole.
Modules that run the same kernels in about the same time, in their fastest run,
are one row with the sums of all (layer.0-5 ×6); --expand shows each.
With --reference: each figure of PKG (A) and of OTHER (B), their ratio and their
difference.

--runtime openvino runs the package in OpenVINO on the CPU (pip install
'optimum-htp[openvino]') and shows means over the runs, as OpenVINO counts whole
microseconds; it says nothing of memory. TensorRT is not run: give what
  trtexec --exportLayerInfo=layers.json --exportProfile=profile.json
wrote of an engine that was built from the file with
--profilingVerbosity=detailed, on whichever machine. A layer that was fused of
several nodes is work of the modules of all. --reference-runtime shows PKG in
two runtimes side by side, with --reference two packages.

A model that generates is run in two phases: prefill (the prompt, without past
key values), and decode (one token more, with those of --sequence-length
tokens). ONNX Runtime's profiler itself takes a few microseconds for each
kernel, which are in the run's time and not in the kernels'.

What `extract` cut out is run on what the package that it was cut from gives
it, on inputs of that package: sizes are those of its inputs, and --inputs may
have either's. If the package is not there any more, name it with --reference.

--json prints all figures of all modules, the time in each run, in microseconds;
--by, --depth, --top, --sort and --columns are for the table only.
"""
_TOP = "Show the first N rows only; default: all."
_SORT = """\
tree: as the modules are nested; total, self: the longest time first; kernels: the most kernels first (--by class: \
modules); memory: the highest peak first; flops: the most operations first. Default: total; for modules, layers and calls tree without --top, and for modules self with it. With \
--reference: tree, and with --top what differs most first."""
_COLUMNS = """\
Which columns: total, self, peak, allocated, net, parameters, read, written, gflop, gflops, intensity, copied, kernels, \
calls, class, provider, operators; or several: time, memory, bytes, work, all. Default: \
total,self,peak,gflops,kernels,calls,class,operators; with --reference: total,class."""


def _columns(text: str) -> tuple[str, ...]:
    """The names of columns, with commas between them."""
    from optimum_htp.cli.views.profile_columns import NAMES

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    strange = next((name for name in names if name not in NAMES), None)
    if strange is not None or not names:
        raise ArgumentTypeError(f"{strange or text!r} is no column; there are {', '.join(NAMES)}")
    return names


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `profile`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    parser.add_argument(
        "--by",
        choices=("module", "class", "layer", "call", "op"),
        help="Add times up by module (the default), class, layer, call or operator.",
    )
    parser.add_argument("--depth", type=count, metavar="N", help="Show N levels of modules below the root.")
    parser.add_argument("--top", type=positive, metavar="N", help=_TOP)
    add_expand(parser)
    parser.add_argument("--sort", choices=("tree", "total", "self", "kernels", "memory", "flops"), help=_SORT)
    parser.add_argument("--columns", type=_columns, metavar="NAME,...", help=_COLUMNS)
    parser.add_argument(
        "--reference",
        "--compare",
        metavar="OTHER",
        help="Profile this package too, and show both profiles side by side; each may have its tags from the other.",
    )
    add_input_arguments(parser, batch="1", sequence=SEQUENCE)
    add_map_argument(parser, "PKG", "OTHER")
    parser.add_argument("--file", metavar="NAME", help="Run these files of the package only; globs allowed.")
    _add_runtime_arguments(parser)
    add_session_arguments(parser)
    parser.set_defaults(provider=None)  # so that one is told from none, where it can't act
    add_limit_arguments(parser)
    parser.add_argument("--runs", type=positive, metavar="N", help="Runs that count (10).")
    parser.add_argument("--warmup", type=count, metavar="N", help="Runs before those (3).")
    parser.add_argument("--speedscope", metavar="FILE", help="Write a profile of PKG for speedscope.app.")
    parser.add_argument(
        "--chrome-trace", metavar="FILE", help="Write a trace of PKG for chrome://tracing or Perfetto."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace these files if they exist.")


_ORDER = ("openvino", "tensorrt", "onnxruntime")


def _add_runtime_arguments(parser: ArgumentParser) -> None:
    """Adds the options that say what runs the package, and the other."""
    names = sorted(_ORDER)
    parser.add_argument("--runtime", choices=names, help="What runs it, or ran it (onnxruntime).")
    parser.add_argument(
        "--layer-info", metavar="FILE", help="The layers of a TensorRT engine, of trtexec --exportLayerInfo."
    )
    parser.add_argument("--profile", metavar="FILE", help="Their times, of trtexec --exportProfile.")
    parser.add_argument(
        "--reference-runtime",
        choices=names,
        help="What runs OTHER (as PKG; where that is TensorRT, onnxruntime); without --reference, PKG again.",
    )
    parser.add_argument("--reference-layer-info", metavar="FILE", help="As --layer-info, of OTHER.")
    parser.add_argument("--reference-profile", metavar="FILE", help="As --profile, of OTHER.")


def _runtimes(args: Namespace) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What says how PKG is run, and how OTHER is, None if there is nothing to compare with. Raises HtpError."""
    own = {"runtime": args.runtime, "layer_info": args.layer_info, "layer_profile": args.profile}
    files = {"layer_info": args.reference_layer_info, "layer_profile": args.reference_profile}
    own_files = args.layer_info or args.profile
    if args.reference_runtime or any(files.values()):
        return own, {"runtime": args.reference_runtime, **files}
    if args.reference is None:
        return own, None
    return own, {"runtime": None if own_files or args.runtime == "tensorrt" else args.runtime, **files}


def _named(runtime: Mapping[str, Any]) -> str:
    """The name of a runtime, of what was said of it."""
    return runtime["runtime"] or ("tensorrt" if runtime["layer_info"] or runtime["layer_profile"] else "onnxruntime")


def _acting(options: Mapping[str, Any], runtime: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options for one of two runtimes: without those that act on the other alone."""

    def idle(of: Mapping[str, Any]) -> Collection[str]:
        return {"openvino": ("provider", "max_memory_bytes"), "tensorrt": options.keys()}.get(_named(of), ())

    left_out = set(idle(runtime)) - set(idle(other)) if other is not None else set()
    return {name: None if name in left_out else value for name, value in options.items()}


def _reports(args: Namespace) -> list[ProfileReport]:
    """The report of PKG, and where there is something to compare with that of the other."""
    from optimum_htp.package import HtpPackage
    from optimum_htp.verbs.profile import profile

    options = {name: getattr(args, name) for name in ("provider", "threads", "runs", "warmup", "timeout")}
    options |= {**input_sizes(args), "inputs": args.inputs, "max_memory_bytes": args.max_memory}
    package = HtpPackage(args.package)
    other = HtpPackage(args.reference) if args.reference else None
    renamed = dict(args.map)
    back = {old: new for new, old in renamed.items() if old} if other is not None else renamed
    own, others = _runtimes(args)
    sides = [(package, other, {**options, "renamed": renamed}, own)]
    if others is not None:
        sides.append((other or package, package if other else None, {**options, "renamed": back}, others))
    reports: dict[int, ProfileReport] = {}
    # What may not be installed, or can't run each file, comes first; then what reads files.
    for side in sorted(range(len(sides)), key=lambda side: _ORDER.index(_named(sides[side][3]))):
        opened, reference, given, runtime = sides[side]
        acting = _acting(given, runtime, None if others is None else sides[1 - side][3])
        chosen = args.file
        if reports and other is None and chosen is None:  # the same files
            chosen = list(next(iter(reports.values())).files)
        with working("Profiling", opened.path):
            reports[side] = profile(opened, **acting, **runtime, file=chosen, reference=reference)
    return [reports[side] for side in range(len(sides))]


def run(args: Namespace) -> int:
    """Profiles a package, or two."""
    from optimum_htp.cli.views.profile import profile_page
    from optimum_htp.cli.views.profile_columns import expanded
    from optimum_htp.cli.views.profile_delta import delta_page
    from optimum_htp.cli.views.profile_traces import chrome_document, speedscope_document
    from optimum_htp.package import check_document, write_document

    if args.json:
        refuse_with(
            args, "for the table only; --json prints everything", "by", "depth", "top", "sort", "expand", "columns"
        )
    by = args.by or "module"
    if by in ("class", "op"):
        refuse_with(args, f"there are no levels by {by}", "depth")
    if args.columns is not None:
        expanded(args.columns, by=by)  # before what takes long
    documents = ((args.speedscope, speedscope_document), (args.chrome_trace, chrome_document))
    paths = [Path(path) for path, _ in documents if path]
    if not paths:
        refuse_with(args, "for --speedscope and --chrome-trace: give one of them too", "overwrite")
    for path in paths:
        check_document(path, overwrite=args.overwrite)

    reports = _reports(args)
    report, *others = reports
    for name, document in documents:
        if name:
            write_document(Path(name), json.dumps(document(report)) + "\n")
    delta = report.compared_with(others[0]) if others else None
    shown = {
        "by": by,
        "depth": args.depth,
        "top": args.top,
        "sort": args.sort,
        "expand": args.expand,
        "columns": args.columns,
    }
    if delta is not None:
        print_report(delta, partial(delta_page, **shown), as_json=args.json)
    else:
        print_report(report, partial(profile_page, **shown), as_json=args.json)
    return 0
