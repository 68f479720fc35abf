"""Blocks that Ctrl-C and `kill` do not cut short."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Delays Ctrl-C and `kill` until the block has ended; yields the signals so far, for a block that would undo."""
    received: list[int] = []
    handlers: dict[signal.Signals, Any] = {}

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread, which alone is interrupted
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):  # None: what is not Python's can't be put back
                    signal.signal(number, receive)
                    handlers[number] = handler
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
