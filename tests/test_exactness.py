"""Tags agree with the two-export oracle for every scoped node, and no node of an unoptimized export is unresolved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import zoo
from exactness import check_export
from onnx import numpy_helper

from optimum_htp.hierarchy.tags import tag_module_path
from optimum_htp.package.package import HtpFile


Owners = dict[bytes, set[str]]


def _check(name: str, zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    from optimum.exporters.onnx import main_export as plain_export

    model = zoo_model(name)
    kwargs = zoo.ZOO[name].main_export_kwargs(model)
    owners: dict[str, Owners] = {}

    def export(output: Path) -> None:
        with _parameters_recorded(output, owners):
            plain_export(str(model), output, do_validation=False, **kwargs)

    verdict, package = check_export(export, model, tmp_path / "package", **kwargs)
    assert verdict.scoped > 0
    assert verdict.wrong == []
    assert verdict.unresolved == 0
    for file in package.files.values():
        assert _weights_elsewhere(file, owners.get(file.name, {})) == []


@pytest.mark.parametrize("name", zoo.names(quick=True))
def test_tags_agree_with_the_oracle(name: str, zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Path and call of every scoped node, and the owner of every weight that an unscoped node reads or names."""
    _check(name, zoo_model, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(zoo.names(quick=True))))
def test_tags_agree_with_the_oracle_everywhere(name: str, zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """The same for the rest of the zoo."""
    _check(name, zoo_model, tmp_path)


@contextlib.contextmanager
def _parameters_recorded(output: Path, owners: dict[str, Owners]) -> Iterator[None]:
    """Records, for each file that torch exports, the modules that hold a parameter of each value.

    A value that is all one number says nothing of its owner and is left out.
    """
    original = torch.onnx.export

    def export(model: torch.nn.Module, args: Any, f: str, **kwargs: Any) -> Any:
        known = owners.setdefault(Path(f).relative_to(output).as_posix(), {})
        for name, parameter in model.named_parameters(remove_duplicate=False):
            value = parameter.detach().numpy()
            if value.size > 1 and value.min() != value.max():
                for content in (_content(value), _content(value.T)):
                    known.setdefault(content, set()).add(name.rpartition(".")[0])
        return original(model, args, f=f, **kwargs)

    torch.onnx.export = export
    try:
        yield
    finally:
        torch.onnx.export = original


def _weights_elsewhere(file: HtpFile, owners: Owners) -> list[str]:
    """Unscoped nodes that read a weight of the model, and whose tag is neither its owner nor above it.

    The weight is known by its value: the exporter transposes, renames and de-duplicates. The names of initializers,
    which the rules go by, play no part.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file.path).graph.initializer}
    wrong = []
    for position, node in enumerate(file.model.graph.nodes):
        tag = file.tags["", position]
        path = tag_module_path(tag.tag)
        for name in node.inputs if tag.source != "scope" else ():
            known = owners.get(_content(values[name]), set()) if name in values else set()
            if known and not any(holder == path or not path or holder.startswith(path + ".") for holder in known):
                wrong.append(f"{node.op_type} {node.outputs[0]}: {tag}, but {name} belongs to {sorted(known)}")
    return wrong


def _content(value: np.ndarray) -> bytes:
    return repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()
