"""The verb `explain`: which module a message or a name is about."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.views.terminal import print_report

HELP = "Say which module an error message, a layer of a runtime or a name is about, and what to try next."

_NOTES = """\
examples:
  optimum-cli htp explain PKG "Name:'/encoder/layer.3/output/Add' Status ..."
  optimum-cli htp explain PKG onnx::MatMul_302
  python run.py 2>&1 | optimum-cli htp explain PKG
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `explain`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package whose file ran: its directory, or an ONNX file.")
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="*",
        help="An error message, or the name of a node, tensor, weight, module, layer of TensorRT or OpenVINO, or event of "
        "a profile. Without it, or with -, what comes through a pipe.",
    )
    parser.add_argument("--file", metavar="NAME", help="Look in these files of the package only; globs allowed.")


def run(args: Namespace) -> int:
    """Prints the modules that a text is about."""
    import sys

    from optimum_htp.cli.views.explain import explain_page
    from optimum_htp.errors import HtpError
    from optimum_htp.verbs.explain import explain

    text = " ".join(args.text)
    if text in ("", "-"):
        if sys.stdin is None or sys.stdin.isatty():
            raise HtpError("nothing to explain: give a message or a name, or send it through a pipe")
        text = sys.stdin.buffer.read(4_000_001).decode("utf-8", "replace")
    print_report(explain(args.package, text, file=args.file), explain_page, as_json=args.json)
    return 0
