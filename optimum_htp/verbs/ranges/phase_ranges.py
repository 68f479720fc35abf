"""What flows through one file, in one phase: run, counted, and put together by module call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from optimum_htp.hierarchy import NodeKey, NodeTag, tag_module_path
from optimum_htp.models import HALF_NOTE, Array, Prober
from optimum_htp.onnxfile import Initializer, element_type, reads
from optimum_htp.tagging import TaggedGraph
from optimum_htp.verbs.ranges.consequences import Consequences
from optimum_htp.verbs.ranges.number_format import ALL_LOST, LARGEST_HALF, Question, fits_int32
from optimum_htp.verbs.ranges.partial_sums import CLOSED, products
from optimum_htp.verbs.ranges.report import CallRanges, PhaseRanges, TensorRange
from optimum_htp.verbs.ranges.run_in_parts import RunInParts, Seen
from optimum_htp.verbs.ranges.stored_weights import weight_blocks
from optimum_htp.verbs.ranges.tally import Tally, tally, tally_blocks

_ROWS = ("Softmax", "LogSoftmax")
_QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear")  # what they give is of those that read it
_FEWEST = 16  # smaller numbers of a tensor, of which all but none may be lost by chance


@dataclass(slots=True)
class _Tensor:
    """A tensor that was counted, and by whom it is made: the index of a node, or of the first that reads it."""

    shown: TensorRange
    tally: Tally
    node: int


@dataclass(slots=True)
class _Group:
    """The nodes of one call of a module, and its tensors."""

    tag: NodeTag
    nodes: list[int] = field(default_factory=list)
    tensors: list[_Tensor] = field(default_factory=list)
    made: dict[str, None] = field(default_factory=dict)
    read: dict[str, None] = field(default_factory=dict)


class PhaseMeasure:
    """Measures a file in one phase, on samples."""

    def __init__(
        self, file: TaggedGraph, prober: Prober, question: Question, *, notes: tuple[str, ...], max_bytes: int
    ) -> None:
        self._file = file
        self._prober = prober
        self._flat = prober.flat
        self._question = question
        self._notes = notes
        self._max_bytes = max_bytes
        self._tensors: dict[str, _Tensor] = {}
        self._inside: dict[int, _Tensor] = {}
        self._masked: set[str] = set()  # of which a Softmax has rows without a number that fits
        self._shapes: dict[str, tuple[int, ...]] = {
            tensor.name: tensor.dims for graph in self._flat.scopes for tensor in graph.initializers
        }
        self._is_converted = any(prober.type_of(name) == "float16" for name in prober.flat.producer)
        self._bad: dict[NodeKey, None] = {}

    def measure(self, samples: Sequence[Mapping[str, Array]], *, phase: str) -> PhaseRanges:
        """What flows through. Raises HtpError if it can't be run."""
        run = RunInParts(self._prober, samples, inside=self._question.dtype == "fp16", max_bytes=self._max_bytes)
        self._count_inputs(samples)
        for seen in run:
            self._count(seen)
            del seen  # before the next part is there
        self._count_weights()
        groups = self._groups()
        self._judge(groups.values())
        hidden = len(self._flat.hidden) + sum("::" in path.split("/", 1)[0] for path, _ in self._file.tags)
        closed = Counter(flat.node.op_type for flat in self._flat.nodes if flat.node.op_type in CLOSED)
        return PhaseRanges(
            file=self._file.name,
            phase=phase,
            samples=len(samples),
            inputs={name: tuple(array.shape) for name, array in samples[0].items()},
            calls=tuple(self._of_call(group) for group in groups.values()),
            unseen=hidden,
            closed=dict(closed) if self._question.dtype == "fp16" else {},
            parts=len(run.parts),
            notes=(*self._notes, *self._half_notes()),
        )

    def _half_notes(self) -> Iterator[str]:
        if self._is_converted and self._question.dtype == "fp16":
            yield _CONVERTED
        if self._prober.rounds_half:
            yield HALF_NOTE

    @property
    def nodes(self) -> Mapping[NodeKey, None]:
        """The nodes that have to be left out."""
        return self._bad

    # --- Counting -----------------------------------------------------------------------------------------------------

    def _count_inputs(self, samples: Sequence[Mapping[str, Array]]) -> None:
        for name in samples[0]:
            arrays = [sample[name] for sample in samples]
            self._shapes[name] = arrays[0].shape
            readers = self._flat.consumers.get(name, ())
            if arrays[0].dtype.kind == "f" and readers:
                self._add(name, "", "input", tally(arrays, self._asked(name)), readers[0])

    def _count(self, seen: Seen) -> None:
        import numpy as np

        for index in seen.nodes:
            node = self._flat.nodes[index].node
            for name in filter(None, node.outputs):
                arrays = seen.arrays.get(name, ())
                if not arrays or not isinstance(arrays[0], np.ndarray):
                    continue  # not shown, or a sequence
                self._shapes[name] = arrays[0].shape
                if arrays[0].dtype.kind != "f":
                    continue
                kind = "result" if index in self._flat.varying else "constant"
                tensor = self._add(name, node.operator, kind, tally(arrays, self._asked(name)), index)
                sums = seen.sums.get(index)
                if sums is not None and sums.result == name and not self._asked(name).is_settled:
                    numbers = int(np.prod(self._shapes.get(sums.read, (0,))))
                    largest = sums.largest(arrays, seen.arrays[sums.magnitudes], numbers=numbers)
                    tensor.shown = replace(tensor.shown, largest_sum=largest)
            if index in seen.inside:
                arrays = seen.arrays[seen.inside[index]]
                counted = tally(arrays, self._question)
                first = next(filter(None, node.outputs))
                self._inside[index] = self._made(first, node.operator, "inside", counted, index, "float32")
            if node.op_type in _ROWS and node.inputs[0] in seen.arrays:
                self._look_for_masked(index, seen.arrays[node.inputs[0]])

    def _look_for_masked(self, index: int, arrays: Sequence[Array]) -> None:
        import numpy as np
        import onnx

        node = onnx.NodeProto.FromString(self._prober.encoded(index))
        opset = self._file.model.opset_imports.get("", 13)
        axis = next(
            (attribute.i for attribute in node.attribute if attribute.name == "axis"), -1 if opset >= 13 else 1
        )
        for array in arrays:
            if array.size and array.ndim:
                rows = array.max(axis=axis if opset >= 13 else tuple(range(axis % array.ndim, array.ndim)))
                if bool((rows.astype(np.float64) <= -self._question.limit).any()):
                    self._masked.add(node.input[0])

    def _count_weights(self) -> None:
        for graph in self._flat.scopes:
            for tensor in graph.initializers:
                readers = self._flat.consumers.get(tensor.name, ())
                if readers and element_type(tensor.data_type).is_float:
                    self._add(tensor.name, "", "weight", self._tally_weight(tensor), readers[0])

    def _tally_weight(self, tensor: Initializer) -> Tally:
        def blocks() -> Iterator[Array]:
            return weight_blocks(self._file.model, tensor, self._prober)

        return tally_blocks(blocks, self._asked(tensor.name), is_weight=True)

    def _asked(self, name: str) -> Question:
        """What is asked of a tensor: nothing of one in float32, in a file that is in float16 already."""
        if self._question.dtype == "fp16" and self._is_converted and self._prober.type_of(name) != "float16":
            return replace(self._question, dtype=None, is_settled=True)
        return self._question

    def _add(self, name: str, operator: str, kind: str, counted: Tally, node: int) -> _Tensor:
        type_name = self._prober.type_of(name)
        tensor = self._made(name, operator, kind, counted, node, type_name)
        if name not in self._tensors:
            self._tensors[name] = tensor
        return tensor

    def _made(self, name: str, operator: str, kind: str, counted: Tally, node: int, type_name: str) -> _Tensor:
        shown = TensorRange(
            name=name,
            operator=operator,
            kind=kind,
            type=type_name,
            count=counted.count,
            minimum=counted.minimum if counted.finite else None,
            maximum=counted.maximum if counted.finite else None,
            mean=counted.mean,
            zeros=counted.zeros,
            nans=counted.nans,
            infinite=counted.infinite,
            over=counted.over,
            lost=counted.lost,
        )
        return _Tensor(shown, counted, node)

    # --- Judging ------------------------------------------------------------------------------------------------------

    def _groups(self) -> dict[tuple[str, int | None, bool], _Group]:
        groups: dict[tuple[str, int | None, bool], _Group] = {}
        self._group_of: list[_Group] = []
        for index, flat in enumerate(self._flat.nodes):
            tag = flat.tag or NodeTag(
                f"/{self._file.trees[0].root.class_name}" if self._file.trees else "/", "unresolved"
            )
            group = groups.setdefault((tag.tag, tag.call, tag.source != "unresolved"), _Group(tag))
            group.nodes.append(index)
            self._group_of.append(group)
        varying = self._flat.varying
        order = {
            id(group): min(group.nodes, key=lambda index: (index not in varying, index)) for group in groups.values()
        }
        groups = dict(sorted(groups.items(), key=lambda item: order[id(item[1])]))
        for tensor in (*self._tensors.values(), *self._inside.values()):
            self._group_of[tensor.node].tensors.append(tensor)
        for group in groups.values():
            group.tensors.sort(key=lambda tensor: tensor.node)
        return groups

    def _judge(self, groups: Iterable[_Group]) -> None:
        consequences = Consequences(
            self._flat,
            over={name for name, tensor in self._tensors.items() if tensor.tally.over},
            masked=self._masked,
            sign=self._sign,
            is_float=self._prober.may_be_float,
        )
        for group in groups:
            for tensor in group.tensors:
                self._judge_one(group, tensor, consequences)

    def _sign(self, name: str) -> int:
        """The sign of all numbers of a tensor; 0 where they differ, or are not known."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.tally.finite < tensor.tally.count or not tensor.tally.count:
            return 0
        return (tensor.tally.minimum > 0) - (tensor.tally.maximum < 0)

    def _judge_one(self, group: _Group, tensor: _Tensor, consequences: Consequences) -> None:
        shown = tensor.shown
        is_stored = shown.kind == "weight" or shown.operator == "Constant"
        if tensor.tally.over and shown.kind != "inside":
            is_number = is_stored and prod(self._shapes.get(shown.name, (0,))) == 1
            harmless = consequences.is_harmless(shown.name, tensor.tally)
            is_cut = (is_number or not is_stored) and consequences.is_cut(shown.name)
            shown = replace(shown, harmless=harmless or is_cut)
        whole, inner = self._problem_of_numbers(shown, tensor.tally, consequences, is_stored), None
        if whole is None:
            inner = self._problem_inside(tensor, shown)
        tensor.shown = replace(shown, problem=whole or inner)
        if tensor.shown.problem is None:
            return
        group.made[shown.name] = None
        if shown.kind == "result" or shown.kind == "inside":
            self._leave_out(tensor.node)
        if whole is None or shown.kind == "inside" or whole in (_NAN, _GIVEN_NAN):
            return
        for reader in consequences.readers(shown.name):
            self._leave_out(reader)
            if self._group_of[reader] is not group:
                self._group_of[reader].read[shown.name] = None

    def _leave_out(self, index: int) -> None:
        self._bad[self._key(index)] = None

    def _key(self, index: int) -> NodeKey:
        flat = self._flat.nodes[index]
        return self._flat.path if flat.scope else "", flat.index

    def _problem_of_numbers(
        self, shown: TensorRange, counted: Tally, consequences: Consequences, is_stored: bool
    ) -> str | None:
        """Why the type can't hold the numbers of a tensor; who reads it has to be left out then, too."""
        question = self._question
        if shown.nans and not self._has_nan(shown):
            return _GIVEN_NAN if shown.kind in ("input", "weight") else _NAN
        if question.dtype == "fp16":
            if counted.over and not shown.harmless:
                if not counted.finite or max(-counted.minimum, counted.maximum) < question.limit:
                    return f"{counted.over:,} of {counted.count:,} numbers are infinite"
                largest = max(-counted.minimum, counted.maximum)
                if is_stored:
                    return f"{largest:.3g} is stored, which a converter cuts to {LARGEST_HALF:.0f}"
                return f"reaches {largest:.3g}"
            if counted.lost and shown.kind == "result" and consequences.divides(shown.name):
                return "what is divided by becomes 0"
        if question.dtype == "int8" and shown.type in ("float32", "float64", "float16", "bfloat16"):
            if shown.infinite and shown.kind != "weight":
                return f"{shown.infinite:,} of {shown.count:,} numbers are infinite: no step is large enough"
            lost = counted.lost / counted.smaller if counted.smaller >= _FEWEST else 0.0
            is_activation = shown.kind == "result" and not shown.operator.endswith("Softmax")
            if lost >= ALL_LOST and (is_activation or self._is_matrix(shown)):
                return f"{lost:.1%} of its numbers become 0 beside one of {max(-counted.minimum, counted.maximum):.3g}"
        return None

    def _problem_inside(self, tensor: _Tensor, shown: TensorRange) -> str | None:
        """Why the type can't hold what is added up for a tensor, though it holds the tensor."""
        question = self._question
        adds_in_half = question.dtype == "fp16" and question.accumulate == "float16"
        if adds_in_half and (shown.largest_sum or 0.0) >= question.limit:
            return f"a sum inside may reach {shown.largest_sum:.3g}"
        if question.dtype == "int8" and shown.kind == "result":
            number = products(self._flat.nodes[tensor.node].node, self._shapes)
            if number is not None and not fits_int32(number):
                return f"the sum of {number:,} products of 8 bits may pass int32"
        return None

    def _has_nan(self, shown: TensorRange) -> bool:
        """Whether there is a NaN in what a tensor is made of: then it is not the first."""
        if shown.kind not in ("result", "inside", "constant"):
            return False
        tensor = self._tensors.get(shown.name)
        node = self._flat.nodes[tensor.node].node if tensor is not None else None
        read = (self._tensors.get(name) for name in reads(node)) if node is not None else ()
        return any(each is not None and each.shown.nans for each in read)

    def _is_matrix(self, shown: TensorRange) -> bool:
        return shown.kind == "weight" and len(self._shapes.get(shown.name, ())) > 1

    # --- Report -------------------------------------------------------------------------------------------------------

    def _of_call(self, group: _Group) -> CallRanges:
        tag = group.tag
        path = tag_module_path(tag.tag)
        found = self._file.roots.find(tag.tag)
        class_name = found[0].tree.module(found[1]).class_name if found is not None else ""
        return CallRanges(
            module=tag.tag,
            path=path,
            class_name=class_name,
            call=tag.call,
            known=tag.source != "unresolved",
            result=self._result(group),
            tensors=tuple(tensor.shown for tensor in group.tensors),
            made=tuple(group.made),
            read=tuple(name for name in group.read if name not in group.made),
            nodes=len(group.nodes),
            place=min((index for index in group.nodes if self._key(index) in self._bad), default=None),
        )

    def _result(self, group: _Group) -> TensorRange | None:
        """The last tensor of a group that others read, or that the graph returns; the last of all if there is none."""
        made = [
            tensor.shown
            for tensor in reversed(group.tensors)
            if tensor.shown.kind == "result" and tensor.shown.operator not in _QUANTIZERS
        ]
        own = {index for index in group.nodes if self._flat.nodes[index].node.op_type not in _QUANTIZERS}
        for shown in made:
            if shown.name in self._flat.outputs or not own.issuperset(self._flat.consumers.get(shown.name, ())):
                return shown
        return made[0] if made else None


_NAN = "makes NaN"
_GIVEN_NAN = "is given NaN"
_CONVERTED = "the file is in float16 already: what is in float32 in it stays so, and is not held against the range"
