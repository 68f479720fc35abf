"""Tags agree with the two-export oracle for every node, and no node of an unoptimized export is unresolved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zoo
from exactness import check_package

ZooModel = Callable[[str], Path]

# Nodes that data flow leaves at the root, where there are any: constants that are read all over the model.
AT_ROOT = {
    "bart": 1, "bart-classifier": 2, "blenderbot": 1, "blenderbot-small": 1, "clip": 1, "decision_transformer": 8,
    "encoder-decoder": 1, "ibert": 2, "longt5": 3, "m2m_100": 1, "marian": 1, "mbart": 1, "mt5": 1, "owlvit": 12,
    "pegasus": 1, "sam": 2, "siglip": 1, "speech_to_text": 3, "t5": 1, "t5-unmerged": 1, "vits": 5, "xlm-roberta": 3,
}  # fmt: skip


def _check(name: str, zoo_model: ZooModel, exported: ZooModel) -> None:
    from optimum.exporters.onnx import main_export as plain_export

    model = zoo_model(name)
    kwargs = zoo.ZOO[name].main_export_kwargs(model)

    def export(output: Path) -> None:
        plain_export(str(model), output, do_validation=False, **kwargs)

    verdict = check_package(exported(name), export)
    assert verdict.scoped > 0
    assert verdict.wrong == []
    assert verdict.unresolved == 0
    assert verdict.at_root_by_dataflow == AT_ROOT.get(name, 0)


@pytest.mark.parametrize("name", zoo.names(quick=True))
def test_tags_agree_with_the_oracle(name: str, zoo_model: ZooModel, exported: ZooModel) -> None:
    """Path and call of every scoped node; of every other the lowest module around its readers, and its weights'."""
    _check(name, zoo_model, exported)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(zoo.names(quick=True))))
def test_tags_agree_with_the_oracle_everywhere(name: str, zoo_model: ZooModel, exported: ZooModel) -> None:
    """The same for the rest of the zoo."""
    _check(name, zoo_model, exported)
