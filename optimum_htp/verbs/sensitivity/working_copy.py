"""A copy of a file for quantizers, which put files beside what they read, and know nodes by their names.

Nodes without a name get one, and so do those that share theirs with a node of another module.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from optimum_htp.errors import HtpError, writing
from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import (
    OnnxModel,
    SourceFiles,
    TensorTypes,
    Value,
    external_data_files,
    model_spans,
    read_model,
    scope_spans,
    scopes_of,
)
from optimum_htp.package import HtpFile, external_file
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.sensitivity.protos import graphs_in, nodes_in


@dataclass(frozen=True, slots=True)
class WorkingCopy:
    """A copy of a file.

    Attributes:
        tagged: The copy, with the tags of the file; its nodes are where they are in the file.
        directory: Where to put what is made of it; it need not be there.
    """

    tagged: TaggedGraph
    directory: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.tagged.model.path

    @property
    def is_external(self) -> bool:
        """Whether its weights are beside it."""
        return bool(external_data_files(self.tagged.model))

    @property
    def has_bodies(self) -> bool:
        """Whether it has branches or loops."""
        return any(path and self.tagged.model.function_of(path) is None for path, _ in self.tagged.model.graphs())


@contextmanager
def working_copy(file: HtpFile, tagged: TaggedGraph) -> Iterator[WorkingCopy]:
    """Copies a file and its external data; they are removed at the end of the block."""
    with TemporaryDirectory(prefix="optimum-htp-") as scratch:
        with writing(scratch):
            target = _copied(file, Path(scratch, "source"))
        _prepare(target, tagged)
        yield WorkingCopy(replace(tagged, model=read_model(target)), Path(scratch, "made"))


def _copied(file: HtpFile, directory: Path) -> Path:
    directory.mkdir()
    target = directory / file.path.name
    shutil.copyfile(file.path, target)
    for location in sorted(external_data_files(file.model)):
        copy = Path(os.path.normpath(directory / location))
        if not copy.is_relative_to(directory):
            raise HtpError(f"{file.path}: its external data {location} is not beside it; move it there")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(external_file(file.path, location, package=file.directory), copy)
    return target


def _prepare(path: Path, tagged: TaggedGraph) -> None:
    """Names nodes, and says the types of tensors where operators are used that ONNX does not know, and so quantizers."""
    names = _new_names(tagged)
    own_operators = any(node.domain not in ("", "ai.onnx") for _, node in tagged.model.nodes())
    if not names and not own_operators:
        return
    import onnx

    model = onnx.load(path, load_external_data=False)
    for key, node in nodes_in(model.graph):
        node.name = names.get(key, node.name)
    if own_operators:
        types = _types(tagged.model)
        for place, graph in graphs_in(model.graph):
            made = {name for node in graph.node for name in node.output}
            known = {value.name for value in (*graph.value_info, *graph.output)}
            graph.value_info.extend(
                onnx.helper.make_tensor_value_info(value.name, value.elem_type, value.shape)
                for value in types[place].values()
                if value.elem_type and value.name in made - known
            )
    onnx.save(model, path)


def _new_names(tagged: TaggedGraph) -> dict[NodeKey, str]:
    owners: dict[str, set[str]] = {}
    for key, node in tagged.model.nodes():
        owners.setdefault(node.name, set()).add(tagged.tags[key].tag if key in tagged.tags else "")
    unclear = {name for name, tags in owners.items() if not name or len(tags) > 1}
    names: dict[NodeKey, str] = {}
    for number, (key, node) in enumerate(tagged.model.nodes()):
        if node.name in unclear:
            name = f"{node.op_type}_{number}"
            while name in owners:
                name += "_"
            owners[name] = set()
            names[key] = name
    return names


def _types(model: OnnxModel) -> dict[str, Mapping[str, Value]]:
    """The types of the tensors of each graph but functions."""
    types: dict[str, Mapping[str, Value]] = {}
    with SourceFiles(model.path) as files:
        whole = model_spans(files.data)
        for path, _ in model.graphs():
            if model.function_of(path) is None:
                spans = scope_spans(files.data, whole.graph, path)
                types[path] = TensorTypes(files.data, whole, scopes_of(model, path), spans).known
    return types
