"""The command `export`: Optimum's own command, with `main_export` replaced by ours while it runs."""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from optimum_htp.cli.faults import explain
from optimum_htp.cli.options import htp_options
from optimum_htp.cli.views.terminal import printable, working
from optimum_htp.errors import HtpError


if TYPE_CHECKING:
    from argparse import Namespace

    from optimum_htp.export import ExportReport


# By logger: what libraries say of each other and of how they were installed, at every export.
_NOISE = {
    "diffusers.utils.import_utils": ("Multiple distributions found for package optimum",),
    "transformers.configuration_utils": ("`torch_dtype` is deprecated",),
    "transformers.modeling_utils": ("`torch_dtype` is deprecated",),
}


def export(args: Namespace, run_optimum: Callable[[], None]) -> int:
    """Runs Optimum's export command with our `main_export`, and says what was exported.

    Args:
        args: The parsed arguments, Optimum's and ours.
        run_optimum: Optimum's command.

    Returns:
        The exit code.

    Raises:
        HtpError: The export failed through the user's or the model's fault.
        KeyboardInterrupt: It was interrupted.
    """
    results: list[ExportReport] = []
    with _orderly_interrupts(), working(f"Exporting {printable(str(args.model))}"):
        try:
            with ExitStack() as stack:
                stack.enter_context(_less_noise())
                if not args.trust_remote_code:
                    stack.enter_context(_no_questions())
                stack.enter_context(_our_main_export(args, results))
                run_optimum()
        except HtpError:
            raise
        except Exception as error:
            message = explain(
                error, model=str(args.model), output=str(args.output), model_kwargs=args.model_kwargs or {}
            )
            if message is None:
                raise
            raise HtpError(message) from error
    from optimum_htp.cli.views.export import print_export

    for result in results:
        print_export(result)
    return 0


@contextmanager
def _our_main_export(args: Namespace, results: list[ExportReport]) -> Iterator[None]:
    """Puts our `main_export` where Optimum's command takes its own from, and keeps what it returns."""
    import optimum.exporters.onnx as optimum_onnx

    from optimum_htp import export as htp_export

    options = htp_options(args)

    def main_export(*positional: Any, **named: Any) -> None:
        results.append(htp_export.main_export(*positional, **named, htp_options=options))

    original = optimum_onnx.main_export
    optimum_onnx.main_export = main_export
    try:
        yield
    finally:
        optimum_onnx.main_export = original
    if not results:
        raise AssertionError("this Optimum's export command takes main_export from another place than we replaced")


@contextmanager
def _less_noise() -> Iterator[None]:
    """Leaves out what libraries say to each other, and torch's dump of the whole graph where an export fails."""
    loggers = [logging.getLogger(name) for name in _NOISE]
    for logger in loggers:
        logger.addFilter(_is_news)
    import torch

    # There is no public way: torch turns this on for each export (`setup_onnx_logging` tests a function where it means
    # to call it). Without it, no matter.
    dump = getattr(torch._C, "_jit_onnx_log", None)
    if dump is not None:
        torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        if dump is not None:
            torch._C._jit_onnx_log = dump
        for logger in loggers:
            logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE.get(record.name, ()))


@contextmanager
def _no_questions() -> Iterator[None]:
    """Nobody is asked whether to run a model's code: without `--trust-remote-code` the answer is no.

    transformers asks where it is not told, also where no one is there to answer.
    """
    from transformers import dynamic_module_utils

    seconds = getattr(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", None)
    stdin = sys.stdin
    if seconds is not None:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # then it refuses instead of asking
    sys.stdin = io.StringIO()
    try:
        yield
    finally:
        sys.stdin = stdin
        if seconds is not None:
            dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


@contextmanager
def _orderly_interrupts() -> Iterator[None]:
    """Ctrl-C and `kill` end the block with `KeyboardInterrupt`, whatever the libraries in it make of that.

    The exception may pass through C++ on its way and come out as another one.
    """
    asked: list[int] = []

    def interrupt(number: int, _: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    replaced: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) is usual:  # not where the caller ignores it, as nohup does
                replaced[number] = signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        for changed, before in replaced.items():
            signal.signal(changed, before)
