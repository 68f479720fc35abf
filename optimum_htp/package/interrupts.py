"""Letting Ctrl-C and `kill` wait while files are moved or cleared away."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Interrupts that come in the block take effect when it has ended, also when it ends with an exception.

    Only the main thread is ever interrupted: in another one this does nothing.

    Yields:
        The signals that came in so far, for a block that would rather undo what it did.
    """
    asked: list[int] = []
    before: list[tuple[signal.Signals, Any]] = []

    def ask(number: int, _: FrameType | None) -> None:
        asked.append(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):  # None: what is not Python's can't be put back
                    signal.signal(number, ask)
                    before.append((number, handler))
        yield asked
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        if asked:
            signal.raise_signal(asked[0])
