"""The verb `view`: a package as a page to look at, or as a card to paste."""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from optimum_htp.cli.options import SEQUENCE, add_session_arguments, add_size_arguments, input_sizes, positive
from optimum_htp.cli.views.terminal import print_report, working
from optimum_htp.errors import HtpError

if TYPE_CHECKING:
    from optimum_htp.package import HtpPackage
    from optimum_htp.verbs.compare import CompareReport
    from optimum_htp.verbs.profile import ProfileReport

HELP = "Write one HTML page to look at a package: its modules to scale, nodes, weights, time and error."

_NOTES = """\
The page opens from disk and uses no network. Its modules are a map, sized and
coloured by parameters, nodes, memory, time or error; a click zooms, `/` finds.
report.html#/encoder.layer.3 opens a module.

examples:
  optimum-cli htp view PKG
  with what `profile` and `compare` measure, run now or earlier:
  optimum-cli htp view PKG --profile --compare --model MODEL
  optimum-cli htp view int8 --profile p.json --compare --reference PKG
  what an optimizer did:
  optimum-cli htp view optimized --diff PKG -o optimized.html
  for Google's Model Explorer, started with the times on the nodes:
  optimum-cli htp view PKG --profile --serve
  a card for a pull request:
  optimum-cli htp view PKG --markdown
"""


class _Ran:
    """What an option stands for that was given without a file: run it."""


RUN = _Ran()


class _ReportFile(Action):
    """A file with a report, or none; what is no .json file and comes last is the package."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None) -> None:
        if values is not RUN and namespace.package is None and not str(values).lower().endswith(".json"):
            namespace.package = namespace.taken = values
            values = RUN
        setattr(namespace, self.dest, values)


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `view`."""
    parser.epilog = _NOTES
    package = parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    package.required = False  # `--profile PKG` takes it; `run` asks for it
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="The file to write (report.html; with --markdown, none: it is printed)."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace the file that is there.")
    parser.add_argument("--markdown", action="store_true", help="Write a card in Markdown instead.")
    explorer = parser.add_argument_group("Google's Model Explorer, instead of the page")
    explorer.add_argument(
        "--model-explorer",
        metavar="DIR",
        help="Write its node data, a file for each figure; with --diff also which nodes go with each other.",
    )
    explorer.add_argument("--serve", action="store_true", help="Start it here, with the package and its figures.")
    explorer.add_argument("--no-browser", action="store_true", help="With --serve: print where it is, open nothing.")
    parser.add_argument("--file", metavar="NAME", help="Show these files of the package only; globs allowed.")
    for name, verb in (("--profile", "profile"), ("--compare", "compare")):
        parser.add_argument(
            name,
            nargs="?",
            const=RUN,
            action=_ReportFile,
            metavar="FILE.json",
            help=f"Show what `{verb} PKG --json` printed; without a file, run it now.",
        )
    parser.add_argument(
        "--diff",
        metavar="OTHER",
        help="Show what a tool changed: the package before it, or after; which, its nodes say.",
    )
    against = parser.add_argument_group("what --compare compares with, when it is run")
    against.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        help="The source model: a directory, or an id on the Hub. It also says the PyTorch names of all weights.",
    )
    against.add_argument("--reference", metavar="OTHER", help="Another package: the one before quantization, say.")
    against.add_argument("--trust-remote-code", action="store_true", help="Run code that comes with the source model.")
    inputs = parser.add_argument_group("inputs, when --profile or --compare is run")
    add_size_arguments(inputs, "--dim", batch="1", sequence=SEQUENCE)
    add_session_arguments(parser)
    parser.add_argument("--runs", type=positive, metavar="N", help="Runs of --profile that count (10).")


def run(args: Namespace) -> int:
    """Writes the page or the card."""
    if args.package is None:
        raise HtpError("the following arguments are required: PKG")
    if getattr(args, "taken", args.package) != args.package:
        raise HtpError(
            f"{args.taken}: what --profile and --compare take is a .json file; without one they are run now"
        )
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns about Optimum's calls
    _refuse_idle(args)
    from optimum_htp.cli.views.view import view_page
    from optimum_htp.package import HtpPackage
    from optimum_htp.verbs.view import check_output, view

    package = HtpPackage(args.package)
    if args.serve or args.model_explorer is not None:
        return _explore(package, args)
    check_output(package, args.output, markdown=args.markdown, overwrite=args.overwrite)  # before what takes long
    profile = _profile(package, args) if args.profile is RUN else args.profile
    compare = _compare(package, args) if args.compare is RUN else args.compare
    params = None
    if args.model is not None:
        from optimum_htp.verbs.params import params as named

        with working("Naming the weights of", package.path):
            params = named(
                package, model=args.model, file=args.file, save=False, trust_remote_code=args.trust_remote_code
            )
    with working("Drawing", package.path):
        report = view(
            package,
            args.output,
            file=args.file,
            profile=profile,
            compare=compare,
            diff=args.diff,
            params=params,
            markdown=args.markdown,
            overwrite=args.overwrite,
        )
    print_report(report, view_page, as_json=args.json)
    return 0


def _explore(package: HtpPackage, args: Namespace) -> int:
    """Writes node data for Model Explorer, starts it, or both."""
    from pathlib import Path

    from optimum_htp.cli.views.view import explorer_page
    from optimum_htp.verbs.view import check_directory, check_installed, gather, serve, write_node_data

    directory = None if args.model_explorer is None else Path(args.model_explorer)
    if args.serve:
        check_installed()  # before what takes long
    if directory is not None:
        check_directory(package, directory, file=args.file, overwrite=args.overwrite)
    profile = _profile(package, args) if args.profile is RUN else args.profile
    compare = _compare(package, args) if args.compare is RUN else args.compare
    with working("Gathering what is known of", package.path):
        gathered = gather(package, file=args.file, profile=profile, compare=compare, other=args.diff)
        report = None if directory is None else write_node_data(gathered, directory, overwrite=args.overwrite)
    if report is not None:
        print_report(report, explorer_page, as_json=args.json)
    if args.serve:
        serve(gathered, browser=not args.no_browser)
    return 0


def _refuse_idle(args: Namespace) -> None:
    """Raises HtpError for options of what is not run."""
    sizes = {name: value for name, value in input_sizes(args).items() if value}
    measured = RUN in (args.profile, args.compare)
    if (sizes or args.threads is not None) and not measured:
        raise HtpError(
            "sizes of inputs and threads are for --profile and --compare, when they are run: give one without a file"
        )
    page = args.output is not None or args.markdown
    if page and (args.serve or args.model_explorer is not None):
        raise HtpError(
            "--model-explorer and --serve are instead of the page: leave out -o and --markdown, or run it twice"
        )
    if args.model_explorer == "":
        raise HtpError("--model-explorer: an empty name; give the directory to write into")
    explores = args.serve or args.model_explorer is not None
    if explores and args.model is not None and args.compare is not RUN:
        raise HtpError("--model is what --compare compares with, when it is run: give --compare without a file")
    if args.no_browser and not args.serve:
        raise HtpError("--no-browser is for --serve: give both")
    if args.runs is not None and args.profile is not RUN:
        raise HtpError("--runs is for --profile, when it is run: give --profile without a file")
    if args.reference is not None and args.compare is not RUN:
        raise HtpError("--reference is what --compare compares with, when it is run: give --compare without a file")


def _profile(package: HtpPackage, args: Namespace) -> ProfileReport:
    from optimum_htp.verbs.profile import profile

    with working("Profiling", package.path):
        return profile(
            package,
            **input_sizes(args),
            file=args.file,
            provider=args.provider,
            threads=args.threads,
            runs=args.runs or 10,
        )


def _compare(package: HtpPackage, args: Namespace) -> CompareReport:
    from optimum_htp.verbs.compare import compare

    with working("Comparing", package.path):
        return compare(
            package,
            model=args.model if args.reference is None else None,
            reference=args.reference,
            file=args.file,
            **input_sizes(args),
            provider=args.provider,
            threads=args.threads,
            trust_remote_code=args.trust_remote_code,
        )
