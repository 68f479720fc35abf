"""How much of a file we accept: what no real model reaches, and what keeps a hostile file from filling the memory."""

from __future__ import annotations

from optimum_htp.onnxfile.wire import WireError

MAX_MODEL_BYTES = 2_147_483_647
"""The longest message that protobuf reads or writes."""

MAX_BODY_DEPTH = 100
"""How deep bodies may be nested; protobuf itself stops at 33."""

MAX_MESSAGE_DEPTH = 4 * MAX_BODY_DEPTH
"""How deep messages may be nested: a body is three below the graph around it, by way of a node and an attribute."""

MAX_DIMENSIONS = 1_000
"""How many dimensions a tensor may have; ONNX Runtime and numpy take fewer than a hundred."""

MAX_FUNCTIONS = 10_000
"""How many functions a file may define; exports with a function for each module have some thousands."""

MAX_LISTED = 10_000
"""How many graphs and tensors one attribute may have."""

MAX_BODY_NAME_BYTES = 128
"""How long the name of an attribute with a graph may be: the path of each graph inside repeats it."""

MAX_FUNCTION_NAME_BYTES = 1024
"""How long each part of a function's identity may be: the path of each graph inside repeats it."""

CACHED = 20_000
"""How many different metadata entries, and attributes, are remembered, as they repeat from node to node."""


class Budget:
    """What is left of what one file may have of something: `free` of it, and one more for each `bytes_each` of the file.

    Real models take far more bytes for each, and those of a file that takes fewer would fill memory and take time.
    """

    __slots__ = ("_left", "_limit", "_what")

    def __init__(self, what: str, size_bytes: int, *, free: int, bytes_each: int) -> None:
        self._what = what
        self._limit = self._left = free + size_bytes // bytes_each

    def spend(self, count: int, at: int) -> None:
        """Takes some of it, for what begins at a byte of the file. Raises WireError when there is no more."""
        self._left -= count
        if self._left < 0:
            raise self._exceeded(at)

    def check(self, count: int, at: int) -> None:
        """Raises WireError for so many of it in all, at a byte of the file, if they are more than it may have."""
        if count > self._limit:
            raise self._exceeded(at)

    def _exceeded(self, at: int) -> WireError:
        return WireError(f"more than {self._limit:,} {self._what}, which no model of this size has", at)


def items_of(size_bytes: int) -> Budget:
    """Nodes, functions, tensors, inputs and outputs: an empty one takes two bytes here and hundreds in memory."""
    return Budget("nodes, tensors, inputs and outputs", size_bytes, free=60_000, bytes_each=128)


def names_of(size_bytes: int) -> Budget:
    """Names that nodes read and give, their attributes and metadata."""
    return Budget("names, attributes and metadata entries", size_bytes, free=1_000_000, bytes_each=20)


def texts_of(size_bytes: int) -> Budget:
    """Different strings."""
    return Budget("different strings", size_bytes, free=150_000, bytes_each=64)
