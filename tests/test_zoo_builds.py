"""The tests' own tools agree with each other: the zoo builds, the toy nets' truth is the oracle's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest
import toynets
import zoo


def test_the_quick_entries_have_every_shape() -> None:
    assert set(zoo.QUICK) <= set(zoo.ZOO)
    tags = {tag for entry in zoo.ZOO.values() for tag in entry.tags}
    assert {tag for name in zoo.QUICK for tag in zoo.ZOO[name].tags} >= tags - {"diffusers"}


@pytest.mark.parametrize("name", ["bert", "t5", "vit", "wav2vec2", "clip", "sentence-transformers"])
def test_a_directory_is_what_a_user_has(zoo_model: Callable[[str], Path], name: str) -> None:
    directory = zoo_model(name)
    assert (directory / "config.json").is_file()
    assert list(directory.rglob("*.safetensors"))


@pytest.mark.parametrize("name", toynets.TOYS)
def test_the_oracle_knows_what_the_toy_net_says(name: str) -> None:
    toy = toynets.TOYS[name]
    truth = oracle.collect_oracle(lambda directory: toy.export(directory / "model.onnx"))["model.onnx"]
    by_operator: dict[str, list[oracle.OracleNode]] = defaultdict(list)
    for node in truth:
        by_operator[node.op_type].append(node)
    for operator, owners in toy.expected.items():
        nodes = by_operator[operator]
        assert len(nodes) == len(owners), f"{operator}: {[node.name for node in nodes]} are not {owners}"
        for node, owner in zip(nodes, owners, strict=True):
            if operator in toy.unscoped:
                assert node.call is None, f"{node.name} has a scope, {node.modules}"
            else:
                assert node.call is not None, f"{node.name} has no scope, {owner} was expected"
                assert owner == (node.alias, node.index), f"{node.name}: {node.alias} call {node.index} is not {owner}"
