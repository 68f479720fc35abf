"""Sessions that show any tensor of a graph as an output, or take it as an input instead of computing it.

The parts of the file are copied byte by byte; weights are neither parsed nor held in memory, and external ones are read
from where they are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, open_session, run_session, session_options
from optimum_htp.onnxfile import (
    NUMBERS,
    GraphSpans,
    OnnxModel,
    Piece,
    SourceFiles,
    Span,
    Splice,
    TensorField,
    Value,
    element_type,
    encode_node,
    external_data_files,
    graph_pieces,
    initializer_span,
    model_pieces,
    model_spans,
    pieces_length,
    reads,
    rewrite_tensors,
    scope_spans,
    scopes_of,
    tensor_types,
)
from optimum_htp.package import is_inside
from optimum_htp.verbs.compare.flat_graph import FlatGraph

_LENGTH = "/optimum_htp_length"
_IN_MEMORY_BYTES = 64_000_000
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


class Prober:
    """Runs a graph, or a part of it, with any of its tensors as outputs. A context manager."""

    def __init__(self, model: OnnxModel, flat: FlatGraph, *, provider: str, threads: int | None = None) -> None:
        self.flat = flat
        self._model = model
        self._provider = provider
        self._threads = threads
        self._stack = ExitStack()
        self._files = self._stack.enter_context(SourceFiles(model.path))
        self._spans = model_spans(self._files.data)
        self._scopes: list[GraphSpans] = scope_spans(self._files.data, self._spans.graph, flat.path)
        self._declared = {value.name: value for value in model.graph.inputs}
        self._external = bool(external_data_files(model))
        self._folder, self._places = _places(model)
        self.types = tensor_types(self._files.data, self._spans, scopes_of(model, flat.path), self._scopes)

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def may_be_float(self, name: str) -> bool:
        """Whether a tensor is of a floating-point type, or of an unknown one."""
        value = self.types.get(name)
        return value is None or not value.elem_type or element_type(value.elem_type).is_float

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """What is known of a tensor's shape; None if not even the number of its axes is."""
        value = self.types.get(name)
        return value.shape if value is not None else None

    def run(
        self, names: Sequence[str], inputs: Mapping[str, Array], *, given: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """The values of some tensors; `given` ones are not computed. Raises HtpError if the part can't be run."""
        given = given or {}
        values = {**inputs, **given}
        passed = {name: values[name] for name in names if name in values}
        wanted = [name for name in dict.fromkeys(names) if name not in passed]
        if not wanted:
            return passed
        nodes, needed = self.flat.slice_to(wanted, stop=given)
        missing = [name for name in needed if name not in values]
        if missing:
            raise HtpError(f"{self._model.path}: needs the inputs {', '.join(missing)}, which are not given")
        computed = self._compute(wanted, nodes, {name: values[name] for name in needed})
        return {**passed, **dict(zip(wanted, computed, strict=True))}

    def lengths(self, names: Sequence[str], inputs: Mapping[str, Array]) -> dict[str, int]:
        """How many elements some tensors have; they are not held. Raises HtpError as `run` does."""
        wanted = list(dict.fromkeys(names))
        nodes, needed = self.flat.slice_to(wanted)
        counted = [f"{name}{_LENGTH}" for name in wanted]
        counters = [encode_node("Size", [name], [counter]) for name, counter in zip(wanted, counted, strict=True)]
        lengths = self._compute(counted, nodes, {name: inputs[name] for name in needed}, more=counters)
        return {name: int(length) for name, length in zip(wanted, lengths, strict=True)}

    def _compute(
        self, outputs: Sequence[str], nodes: Sequence[int], feed: Mapping[str, Array], *, more: Iterable[bytes] = ()
    ) -> list[Any]:
        inputs = [self._input(name, array) for name, array in feed.items()]
        session = self._open(self._pieces(nodes, inputs, outputs, more=more))
        return run_session(session, outputs, feed, name=str(self._model.path))

    def _input(self, name: str, array: Array) -> Value:
        declared = self._declared.get(name)
        if declared is not None:
            return declared
        return Value(name, NUMBERS[str(array.dtype)], tuple(f"{name}_{axis}" for axis in range(array.ndim)))

    def _pieces(
        self, nodes: Sequence[int], inputs: Iterable[Value], outputs: Iterable[str], *, more: Iterable[bytes]
    ) -> list[Piece]:
        chosen = [self.flat.nodes[index] for index in nodes]
        used = dict.fromkeys(name for flat in chosen for name in reads(flat.node))
        stored = [span for name in used if (span := initializer_span(self._scopes, name)) is not None]
        graph = graph_pieces(
            name="probe",
            nodes=[
                *(self._placed("node", self._scopes[flat.scope].nodes[flat.index]) for flat in chosen),
                *([node] for node in more),
            ],
            initializers=(self._placed("tensor", span) for span, is_sparse in stored if not is_sparse),
            sparse_initializers=(self._placed("sparse", span) for span, is_sparse in stored if is_sparse),
            inputs=inputs,
            outputs=map(Value, outputs),
        )
        return model_pieces(self._spans, graph)

    def _placed(self, kind: str, span: Span) -> list[Piece]:
        """A message of the file, with external data where the session finds it."""
        if not self._places:
            return [span]

        def move(field: TensorField) -> Splice | None:
            if not field.is_external:
                return None
            entries = (
                (key, self._places.get(value, value) if key == "location" else value) for key, value in field.entries
            )
            return field.with_entries(tuple(entries))

        splice = rewrite_tensors(self._files.data, move, kind=kind, span=span)
        return [span] if splice is None else splice.pieces

    def _open(self, pieces: list[Piece]) -> Any:
        options = session_options(threads=self._threads)
        name = str(self._model.path)
        if self._external:
            options.add_session_config_entry(_EXTERNAL_FOLDER, str(self._folder))
        if self._external or pieces_length(pieces) <= _IN_MEMORY_BYTES:
            data = self._files.data
            content = b"".join(piece if isinstance(piece, bytes) else data[slice(*piece)] for piece in pieces)
            return open_session(content, options, provider=self._provider, name=name)
        with tempfile.TemporaryDirectory(prefix="optimum-htp-") as directory:
            file = Path(directory, "probe.onnx")
            with file.open("wb") as stream:
                self._files.write(pieces, stream.fileno())
            return open_session(file, options, provider=self._provider, name=name)


def _places(model: OnnxModel) -> tuple[Path, dict[str, str]]:
    """The folder of a model's external data, and where in it each file lies that is a link, as in the Hub's cache.

    ONNX Runtime reads nothing from outside the folder, and a link leads out of it. Links out of the model's directory
    stay as they are: it says what is wrong with them.
    """
    directory = model.path.parent.resolve()
    files = {location: directory / location for location in external_data_files(model)}
    links = {name: file.resolve() for name, file in files.items() if file.is_symlink() and is_inside(file, directory)}
    if not links:
        return directory, {}
    real = {name: links.get(name, file) for name, file in files.items()}
    folder = Path(os.path.commonpath([file.parent for file in real.values()]))
    return folder, {name: file.relative_to(folder).as_posix() for name, file in real.items()}
