"""What the names of TensorRT's layers say of the nodes that they were made of.

How they look, of TensorRT 8 to 11; the parts stand in each other:

- `/fc/MatMul + /fc/Add`, `/q/MatMul || /k/MatMul`: several; `PWN(/act/Sigmoid, /act/Mul)`: several, element by element.
- `{ForeignNode[/a/Mul.../b/Add]}`: all of the file from the first to the last, which another compiler (Myelin, DLA) made one of.
- `Reformatting CopyNode for Input Tensor 0 to /fc/MatMul`, `/fc/MatMul_output_0 copy`, `/fc/MatMul_clone_1`,
  `/fc/MatMul_myl0_5` (Myelin writes `_` for dots), `/fc/MatMul_12`: what was put in for it, or made of it.
- `node_of_y`: of the node without a name that makes `y`. `fc.weight + ...`: a constant.
- `__myl_MulAdd_myl0_7`, `(Unnamed Layer* 3) [Shuffle]`: of nothing that has a name.

A layer of the second optimization profile has ` [profile 1]` after it. The importer also writes which nodes a layer was made of,
beside its name: `[ONNX Layer: <node> | <more>]` for each, with control characters between (TensorRT 8.6 and later, in engines
that were built with `--profilingVerbosity=detailed`); it cuts what is longer than 4,000 characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from optimum_htp.hierarchy import NodeKey
from optimum_htp.verbs.profile.runtimes.layers import SourceNames

_STATED = "[ONNX Layer: "
_PROFILE = re.compile(r" \[profile \d+\]\Z")
_FOREIGN = re.compile(r"\{ForeignNode\[(.*?)\]\}")
_COPY = re.compile(r"(?:Reformatting )?CopyNode for .*? to ")
_APART = re.compile(r" \+ | \|\| |, |PWN\(")
_ADDED = re.compile(r"(?: copy|_clone_\d+|_myl\d+_\d+|_\d+)\Z")
_UNNAMED = "node_of_"
_MOST_ADDED = 3  # endings of one name
_LONGEST = 100_000  # characters; more than any engine's, and no text takes longer than its size


class LayerNames:
    """Finds the nodes of a file that TensorRT's layers were made of."""

    def __init__(self, names: SourceNames) -> None:
        self._names = names
        self._plain: dict[str, str | None] = {}  # with `_` for dots; None where several names are the same then
        for name in names:
            plain = name.replace(".", "_")
            self._plain[plain] = None if plain in self._plain else name

    def stated(self, metadata: str) -> tuple[NodeKey, ...]:
        """The nodes that a layer says that it was made of."""
        pieces = metadata.split(_STATED)[1:]
        named = (piece.rstrip("\x1e\x1f \n;,").removesuffix("]").partition(" | ")[0] for piece in pieces)
        return self._names.whole(key for name in named for key in self._known(name))

    def said(self, name: str) -> tuple[NodeKey, ...]:
        """The nodes that a layer's name speaks of."""
        found: list[NodeKey] = []
        if len(name) > _LONGEST:
            return ()
        rest = _COPY.sub("", _PROFILE.sub("", name))
        for region in _FOREIGN.findall(rest):
            found += self._region(region)
        for part in _APART.split(_FOREIGN.sub("", rest)):
            found += self._part(part)
        return self._names.whole(found)

    def is_region(self, name: str) -> bool:
        """Whether a name is of a region, which has its nodes but for those that other layers were made of."""
        return _FOREIGN.search(name) is not None

    def _part(self, text: str) -> tuple[NodeKey, ...]:
        """The nodes of one name, in whatever brackets."""
        name = text.strip()
        known = self._known(name)
        while (
            not known and name[-1:] in ")]" and name.count(")") + name.count("]") > name.count("(") + name.count("[")
        ):
            name = name[:-1].rstrip()
            known = self._known(name)
        for _ in range(_MOST_ADDED):
            if known:
                break
            shorter = _ADDED.sub("", name)
            if shorter == name:
                break
            name = shorter
            known = self._known(name)
        return known

    def _known(self, name: str) -> tuple[NodeKey, ...]:
        if not name:
            return ()
        plain = self._plain.get(name)
        return (
            self._names.find(name)
            or self._names.find(name.removeprefix(_UNNAMED))
            or (self._names.find(plain) if plain is not None else ())
        )

    def _region(self, text: str) -> Iterator[NodeKey]:
        """The nodes of the main graph from the first that is named to the last; none where one of both is not known."""
        first, dots, last = text.partition("...")
        ends = [self._part(first) or self._names.readers(first.strip()), self._part(last if dots else first)]
        places = [[index for path, index in end if not path] for end in ends]
        if all(places):
            yield from (("", index) for index in range(min(places[0]), max(places[1]) + 1))
