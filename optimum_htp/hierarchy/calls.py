"""The module calls of an export, and which call each of them was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from optimum_htp.hierarchy.tags import ModulePath
from optimum_htp.hierarchy.tree import ModuleTree

_MAX_DEPTH = 2_000  # calls inside one another: Python itself allows fewer


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module.

    Attributes:
        path: Where the module is registered: of several names the one below its caller, else the first.
        index: 0-based, counted per module object over the whole trace, all aliases together.
        parent: The number of the caller's call, None for the root's.
    """

    path: ModulePath
    index: int
    parent: int | None


class CallTree(Sequence[ModuleCall]):
    """The calls of one export, in the order in which they began; a call's number is its position here.

    Example: `Net` calls `layer` twice, and `layer` calls `act` each time.

        >>> from optimum_htp.hierarchy.tree import ModuleInfo
        >>> modules = ModuleTree(ModuleInfo(path, "M", "M") for path in ((), ("layer",), ("layer", "act")))
        >>> rows = [(0, -1), (1, 0), (2, 1), (1, 0), (2, 3)]
        >>> calls = CallTree.of_rows(modules, rows)
        >>> calls[calls.numbers(("layer", "act"))[1]]
        ModuleCall(path=('layer', 'act'), index=1, parent=3)
        >>> calls[calls.around(4, ("layer",))].index
        1
    """

    def __init__(self, tree: ModuleTree, calls: Iterable[ModuleCall] = ()) -> None:
        self.tree = tree
        self._calls = tuple(calls)
        self._numbers: dict[ModulePath, list[int]] = {}
        for number, call in enumerate(self._calls):
            self._numbers.setdefault(tree.module(call.path).path, []).append(number)

    @overload
    def __getitem__(self, number: int) -> ModuleCall: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[ModuleCall]: ...
    def __getitem__(self, number: int | slice) -> ModuleCall | Sequence[ModuleCall]:
        return self._calls[number]

    def __len__(self) -> int:
        return len(self._calls)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallTree) and self._calls == other._calls

    def __hash__(self) -> int:
        return hash(self._calls)

    def numbers(self, path: ModulePath) -> Sequence[int]:
        """The numbers of the calls of the module at a path, by any of its names; the index of a call is its place."""
        return self._numbers.get(self.tree.module(path).path, ())

    def ancestors(self, number: int) -> Iterator[int]:
        """A call and those that it was made from, innermost first."""
        call: int | None = number
        while call is not None:
            yield call
            call = self._calls[call].parent

    def around(self, number: int, path: ModulePath) -> int | None:
        """The innermost call of a module, by any of its names, that a call is or was made in, if there is one."""
        return self.common((number,), path)

    def common(self, numbers: Sequence[int], path: ModulePath) -> int | None:
        """The innermost call of a module, by any of its names, that all of some calls are or were made in, if any."""
        module = self.tree.module(path)
        first, *rest = [list(self.ancestors(number)) for number in numbers]
        shared = set(first).intersection(*rest)
        calls = (call for call in first if call in shared and self.tree.module(self._calls[call].path) is module)
        return next(calls, None)

    def within(self, tree: ModuleTree) -> CallTree:
        """The calls of the modules that are in a part of the tree; calls between them are skipped."""
        numbers: dict[int | None, int | None] = {None: None}
        calls: list[ModuleCall] = []
        for number, call in enumerate(self._calls):
            parent = numbers[call.parent]
            module = self.tree.module(call.path)
            if module.path not in tree:
                numbers[number] = parent
                continue
            numbers[number] = len(calls)
            calls.append(ModuleCall(call.path if call.path in tree else module.path, call.index, parent))
        return CallTree(tree, calls)

    def rows(self) -> list[tuple[int, ...]]:
        """Of each call the index of its module in the tree and the number of its parent, -1 for none.

        Where it was called by another name than the module's first, the index of that alias comes third.
        """
        indices = {module.path: index for index, module in enumerate(self.tree)}
        rows: list[tuple[int, ...]] = []
        for call in self._calls:
            module = self.tree.module(call.path)
            alias = () if call.path == module.path else (module.aliases.index(call.path),)
            rows.append((indices[module.path], -1 if call.parent is None else call.parent, *alias))
        return rows

    @classmethod
    def of_rows(cls, tree: ModuleTree, rows: Iterable[Sequence[Any]]) -> CallTree:
        """The calls that `rows` gave. They may come from a file, and are checked.

        Raises:
            ValueError: A number is out of bounds, or a call comes before the one that it was made from.
        """
        modules = tree.modules
        counts = [0] * len(modules)
        depths: list[int] = []
        calls = []
        for number, row in enumerate(rows):
            index, parent, alias = (*row, -1) if len(row) == 2 else row
            module = modules[_checked(index, 0, len(modules))]
            _checked(parent, -1, number)
            depths.append(0 if parent < 0 else _checked(depths[parent] + 1, 0, _MAX_DEPTH))
            path = module.path if len(row) == 2 else module.aliases[_checked(alias, 0, len(module.aliases))]
            calls.append(ModuleCall(path, counts[index], None if parent < 0 else parent))
            counts[index] += 1
        return cls(tree, calls)


def _checked(number: Any, first: int, end: int) -> int:
    if type(number) is not int or not first <= number < end:
        raise ValueError(f"{number!r:.80} in a call is not a number from {first} to {end - 1}")
    return number
