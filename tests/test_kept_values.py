"""What a reference computes again, where memory is short: neighbours at once, and nothing twice in a row."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.verbs.compare.kept_values import KeptValues
from optimum_htp.verbs.compare.reference import CallValues


def test_neighbours_are_computed_at_once() -> None:
    """Going through ten calls of one byte with room for four takes five runs, and none for what was asked last."""
    asked: list[list[int]] = []

    def load(numbers: Sequence[int]) -> dict[int, CallValues]:
        asked.append(list(numbers))
        return {number: CallValues() for number in numbers}

    values = KeptValues(dict.fromkeys(range(10), 1), load, max_bytes=4)
    for number in range(10):
        assert list(values.of([number])) == list(values.of([number, number])) == [number]
    assert asked == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]] and values.runs == 5
    values.of([7, 8])
    assert values.runs == 5
    values.of(range(10))  # more than there is room for, and just that
    assert values.runs == 6 and asked[-1] == [0, 1, 2, 3, 4, 5]
    values.of([0])
    assert values.runs == 7


def test_call_that_is_larger_than_the_room() -> None:
    values = KeptValues({0: 1, 1: 9}, lambda numbers: {number: CallValues() for number in numbers}, max_bytes=4)
    assert list(values.of([1])) == [1] and list(values.of([0, 1])) == [0, 1]
