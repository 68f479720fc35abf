"""What a config claims, held against the graph before anything of that size is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.package import HtpPackage

_MODULES = re.compile(r"(^|_)(layers?|blocks?|depths?|stages?|experts|encoders|decoders|cells|repeats)$")
_LABELS = ("num_labels", "num_classes", "n_classes")
_FEW_MODULES, _FEW_LABELS = 200, 100_000  # what costs nothing, whatever the graph says
_FREE_MODULES, _MODULES_PER_NODE = 10_000, 10


@dataclass(frozen=True, slots=True)
class GraphSize:
    """How large the largest graph of a package is: its nodes, and its longest axis."""

    nodes: int
    longest: int

    @classmethod
    def of(cls, package: HtpPackage) -> GraphSize:
        """That of all files of a package."""
        nodes, longest = 0, 0
        for file in package.files.values():
            nodes = max(nodes, sum(1 for _ in file.model.nodes()))
            for _, graph in file.model.graphs():
                dims = [size for tensor in graph.initializers for size in tensor.dims]
                dims += [size for value in graph.outputs for size in value.shape or () if isinstance(size, int)]
                longest = max([longest, *dims])
        return cls(nodes, longest)

    def check(self, config: Mapping[str, Any], *, where: str) -> None:
        """Raises PackageError for a config with more layers, blocks or labels than the graph can have."""
        for key, value in _numbers(config):
            is_module = _MODULES.search(key) is not None
            limit = max(_FEW_MODULES, self.nodes) if is_module else max(_FEW_LABELS, self.longest)
            if value > limit:
                has = f"{self.nodes:,} nodes" if is_module else f"no axis longer than {self.longest:,}"
                advice = "it is not this graph's config; give --model MODEL"
                raise PackageError(f"{where}: {key} is {value:,}, and the graph has {has}: {advice}")

    @contextmanager
    def limiting(self, *, where: str) -> Iterator[None]:
        """Raises TooManyModulesError in a block that builds far more modules than the graph has nodes."""
        from torch.nn.modules.module import register_module_module_registration_hook

        limit = _FREE_MODULES + _MODULES_PER_NODE * self.nodes
        built = 0

        def count(*_: object) -> None:
            nonlocal built
            built += 1
            if built > limit:
                raise TooManyModulesError(
                    f"{where}: it describes more than {limit:,} modules, and the graph has {self.nodes:,} nodes: it is not "
                    "this graph's config; give --model MODEL"
                )

        hook = register_module_module_registration_hook(count)
        try:
            yield
        finally:
            hook.remove()


class TooManyModulesError(PackageError):
    """A config that describes far more modules than the graph has nodes."""


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """What a config says of how many modules or labels there are, the configs in it included."""
    stack: list[Any] = [config]
    while stack:
        holder = stack.pop()
        for key, value in holder.items():
            if isinstance(value, dict):
                stack.append(value)
            elif key in _LABELS or _MODULES.search(key):
                sizes = value if isinstance(value, list) else [value]
                yield from ((key, size) for size in sizes if isinstance(size, int) and not isinstance(size, bool))
