"""Python's search for cycles, and where it only costs time.

A leaf, as `errors` is.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collecting() -> Iterator[None]:
    """No search for cycles meanwhile: what is read from a file has none, and is gone through again and again as it grows.

    That would be a quarter of the time for a graph of 50,000 nodes. Also a decorator. Nothing runs in here that is not ours.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
