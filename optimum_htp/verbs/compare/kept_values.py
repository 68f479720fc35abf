"""What a reference has at the borders of calls, where not all of it fits into memory: computed for neighbours at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from optimum_htp.verbs.compare.reference import CallValues


class KeptValues:
    """The values of calls: those that were asked for last, and those of the calls around them.

    Who asks goes through the calls in their order, and each time that something is computed the whole model runs.

    Attributes:
        runs: How often something was computed.
    """

    def __init__(
        self, sizes: Mapping[int, int], load: Callable[[Sequence[int]], dict[int, CallValues]], *, max_bytes: int
    ) -> None:
        self._sizes = sizes
        self._load = load
        self._max_bytes = max_bytes
        self._groups: dict[int, list[int]] = {}
        self._kept: dict[int, CallValues] = {}  # those that were asked for last stand last
        self.runs = 0
        group: list[int] = []
        for number in sizes:
            if group and self._size([*group, number]) > max_bytes // 2:
                group = []
            group.append(number)
            self._groups[number] = group

    def of(self, wanted: Iterable[int]) -> dict[int, CallValues]:
        """The values of some calls, whatever their size."""
        wanted = list(dict.fromkeys(wanted))
        missing = [number for number in wanted if number not in self._kept]
        if missing:
            near = dict.fromkeys(number for each in missing for number in self._groups[each])
            numbers = [number for number in near if number not in self._kept]
            if self._size(dict.fromkeys([*wanted, *numbers])) > self._max_bytes:
                numbers = missing
            self.runs += 1
            self._kept |= self._load(numbers)
        for number in wanted:
            self._kept[number] = self._kept.pop(number)
        result = {number: self._kept[number] for number in wanted}
        while self._kept and self._size(self._kept) > self._max_bytes:
            del self._kept[next(iter(self._kept))]
        return result

    def _size(self, numbers: Iterable[int]) -> int:
        return sum(self._sizes[number] for number in numbers)
