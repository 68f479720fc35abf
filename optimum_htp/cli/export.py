"""The command `export`: Optimum's own command, with `main_export` replaced by ours while it runs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optimum_htp.cli.faults import explain
from optimum_htp.cli.options import htp_options
from optimum_htp.cli.views.terminal import print_page, working
from optimum_htp.errors import HtpError, needing_optimum

if TYPE_CHECKING:
    from optimum_htp.export import ExportReport


def export(args: Namespace, run_optimum: Callable[[], None]) -> int:
    """Runs Optimum's export command with our `main_export`, says what was exported and returns the exit code.

    That is 1 if the package is there, and Optimum's validation failed on it. Raises HtpError if the export fails through the
    user's or the model's fault, and KeyboardInterrupt.
    """
    model, output = str(args.model), str(args.output)
    if args.no_validation and args.atol is not None:
        raise HtpError("--atol is what the validation allows, and --no-validation leaves that out: give one of them")
    exports: list[tuple[ExportReport, Exception | None]] = []
    with working("Exporting", model):
        try:
            with _no_graph_dumps(), _our_main_export(args, exports):
                run_optimum()
        except HtpError:
            raise
        except Exception as error:
            message = explain(
                error, model=model, output=output, model_kwargs=args.model_kwargs or (), cache_dir=args.cache_dir
            )
            if message is None:
                raise
            raise HtpError(message) from error
    from optimum_htp.cli.views.export import export_page, print_doubt

    for report, failure in exports:
        print_page(export_page(report))
        print_doubt(report, failed=failure is not None)
    return 1 if any(failure is not None for _, failure in exports) else 0


@contextmanager
def _our_main_export(args: Namespace, exports: list[tuple[ExportReport, Exception | None]]) -> Iterator[None]:
    """Puts our `main_export` where Optimum's command takes its own from, and keeps what it returns."""
    from optimum_htp.export import HtpExporter

    with needing_optimum("an export"):
        import optimum.exporters.onnx as optimum_onnx

    exporter = HtpExporter(htp_options(args))
    ours = {"do_validation": False} if args.no_validation else {}

    def main_export(*positional: Any, **named: Any) -> None:
        exports.append(exporter.attempt(*positional, **named, **ours))

    with _replaced(optimum_onnx, "main_export", main_export):
        yield
    if not exports:
        raise AssertionError("this Optimum's export command takes main_export from another place than we replaced")


@contextmanager
def _no_graph_dumps() -> Iterator[None]:
    """Leaves out torch's dump of the whole graph if an export fails."""
    import torch

    # There is no public way: torch turns this on for each export (`setup_onnx_logging` tests a function where it means to
    # call it).
    with _replaced(torch._C, "_jit_onnx_log", lambda *_: None):
        yield


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Replaces an attribute, if the owner has it, while the block runs."""
    if not hasattr(owner, name):
        yield
        return
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
