"""A slice of the fuzzer (`make fuzz`): the same cases each time, by seeds and as hypothesis draws them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import onnx
import pytest

if sys.platform == "win32":
    pytest.skip("the bounds of the fuzzer are those of POSIX", allow_module_level=True)

import fuzz_targets
from hypothesis import HealthCheck, given, settings, strategies

from optimum_htp.onnxfile.soundness import MESSAGES, PACKED

# The cases of each target, from a number on that no run of `make fuzz` begins with.
CASES = {
    **{
        "reader": 300,
        "rewriter": 150,
        "rename": 100,
        "sidecar": 200,
        "skeleton": 100,
        "packed_names": 200,
        "config": 200,
    },
    **{"npz": 100, "pattern": 100, "verbs": 15},
}
FIRST = 10_000_000


@pytest.fixture(scope="module")
def scratch():
    with fuzz_targets.scratch_directory() as directory:
        yield directory


@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_by_seeds(name: str, scratch: Path) -> None:
    for number in range(FIRST, FIRST + CASES[name]):
        try:
            fuzz_targets.run(name, random.Random(f"{name}{number}"), scratch)
        except Exception as error:
            raise AssertionError(f"python benchmarks/fuzz.py --only {name} --case {number}") from error


@pytest.mark.parametrize("name", [name for name in fuzz_targets.TARGETS if name != "verbs"])
def test_by_hypothesis(name: str, scratch: Path) -> None:
    @settings(max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategies.randoms(note_method_calls=False))
    def cases(draw: random.Random) -> None:
        fuzz_targets.run(name, draw, scratch)

    cases()


def test_messages_are_those_of_onnx() -> None:
    """The table of what is in which message has every field that protobuf's own description has."""
    seen: dict[str, str] = {}

    def compare(kind: str, descriptor: onnx.ModelProto) -> None:
        if seen.setdefault(kind, descriptor.full_name) and descriptor.full_name in compared:
            return
        compared.add(descriptor.full_name)
        inner = {field.number << 3 | 2: field.message_type for field in descriptor.fields if field.message_type}
        assert MESSAGES[kind].keys() == inner.keys(), kind
        packed = {
            field.number << 3 | 2: {field.CPPTYPE_FLOAT: 4, field.CPPTYPE_DOUBLE: 8}.get(field.cpp_type, 0)
            for field in descriptor.fields
            if field.is_repeated and field.cpp_type not in (field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE)
        }
        assert PACKED.get(kind, {}) == packed, kind
        for tag, message in inner.items():
            compare(MESSAGES[kind][tag], message)

    compared: set[str] = set()
    compare("model", onnx.ModelProto.DESCRIPTOR)
