"""What other libraries say while a command runs: kept, counted, and shown with `--verbose`."""

from __future__ import annotations

import logging
import sys
import warnings
from argparse import ArgumentParser, _ArgumentGroup
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optimum_htp.cli.views.blocks import printable
from optimum_htp.errors import HtpError

_OURS = "optimum_htp"


def add_verbose(parser: ArgumentParser | _ArgumentGroup) -> None:
    """Adds the option."""
    parser.add_argument(
        "--verbose", action="store_true", help="Show what other libraries say while they work, on stderr."
    )


@contextmanager
def other_lines(*, verbose: bool) -> Iterator[None]:
    """Keeps the log lines and warnings of other libraries, and says at the end how many there were.

    If a bug ends the block, they are shown: they may say what led to it. `verbose` shows them as they come.
    """
    if verbose:
        yield
        return
    kept: list[str] = []
    last: logging.LogRecord | None = None  # of several handlers each gets it
    # Libraries have handlers of their own, made when they are imported; all are stream handlers.
    emit, show = logging.StreamHandler.emit, warnings.showwarning

    def keep(handler: logging.StreamHandler[Any], record: logging.LogRecord) -> None:
        nonlocal last
        if record.name.partition(".")[0] == _OURS:
            emit(handler, record)
        elif record is not last:
            last = record
            kept.append(record.getMessage())

    def keep_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        kept.append(f"{category.__name__}: {message}")

    logging.StreamHandler.emit = keep  # type: ignore[assignment, method-assign]
    warnings.showwarning = keep_warning
    try:
        yield
    except Exception as error:
        if not isinstance(error, (HtpError, OSError, MemoryError)):
            for line in kept:
                print(printable(line), file=sys.stderr)
        raise
    finally:
        logging.StreamHandler.emit = emit  # type: ignore[method-assign]
        warnings.showwarning = show
    if kept:
        lines = "1 line" if len(kept) == 1 else f"{len(kept)} lines"
        print(f"{lines} of other libraries left out; --verbose shows them", file=sys.stderr)
