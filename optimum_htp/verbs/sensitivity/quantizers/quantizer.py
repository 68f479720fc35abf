"""What all quantizers have in common, and what becomes of a node that one of them changes."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimum_htp.errors import HtpError, reason
from optimum_htp.hierarchy import NodeKey
from optimum_htp.models import Array
from optimum_htp.onnxfile import OnnxModel
from optimum_htp.verbs.sensitivity.protos import Proto


@dataclass(frozen=True, slots=True)
class QuantizerOptions:
    """The options of ONNX Runtime's quantizers that people set.

    Attributes:
        per_channel: A scale for each channel of a weight (`dynamic`, `static`).
        reduce_range: Weights in 7 bits, for processors whose sums of 8-bit products saturate (`dynamic`, `static`).
        block_size: How many weights share a scale (`int4`).
        operators: Quantize these operators only; None means all that the quantizer can.
    """

    per_channel: bool = False
    reduce_range: bool = False
    block_size: int = 32
    operators: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Rounding:
    """What a quantizer does to the values of a tensor.

    Attributes:
        kind: `"range"`, in 8 bits over the range that they have; `"steps"`, of a scale and a zero point; `"half"`.
        scale: The scale of steps.
        zero: Their zero point, whose type is that of the steps.
        axis: The axis that several scales are for.
    """

    kind: str
    scale: Array | None = None
    zero: Array | None = None
    axis: int = 1

    def nodes(self, source: str, result: str) -> list[Proto]:
        """The nodes that round a tensor."""
        from onnx import TensorProto, helper, numpy_helper

        if self.kind == "half":
            # Through a sequence, which ONNX Runtime does not see through: it drops a Cast and one back.
            return [
                helper.make_node("Cast", [source], [f"{result}/half"], to=TensorProto.FLOAT16),
                helper.make_node("Constant", [], [f"{result}/zero"], value_int=0),
                helper.make_node("SequenceConstruct", [f"{result}/half"], [f"{result}/list"]),
                helper.make_node("SequenceAt", [f"{result}/list", f"{result}/zero"], [f"{result}/item"]),
                helper.make_node("Cast", [f"{result}/item"], [result], to=TensorProto.FLOAT),
            ]
        steps = [f"{result}/steps", f"{result}/scale", f"{result}/zero"]
        if self.kind == "range":
            return [
                helper.make_node("DynamicQuantizeLinear", [source], steps),
                helper.make_node("DequantizeLinear", steps, [result]),
            ]
        assert self.scale is not None and self.zero is not None
        constants = [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
            for name, value in ((steps[1], self.scale), (steps[2], self.zero))
        ]
        return [
            *constants,
            helper.make_node("QuantizeLinear", [source, *steps[1:]], [steps[0]], axis=self.axis),
            helper.make_node("DequantizeLinear", steps, [result], axis=self.axis),
        ]


@dataclass(frozen=True, slots=True)
class NodeChange:
    """What a quantizer makes of a node.

    Attributes:
        weights: By the index of an input, how to get the values that the node computes with then.
        shared: By the name of a weight, how to get the values that all that read it compute with then.
        reads: By the index of an input, how its values are rounded for this node.
        tensors: By the names of tensors that the node reads or gives, how they are rounded for all that read them.
    """

    weights: dict[int, Callable[[], Array]] = field(default_factory=dict)
    shared: dict[str, Callable[[], Array]] = field(default_factory=dict)
    reads: dict[int, Rounding] = field(default_factory=dict)
    tensors: dict[str, Rounding] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.has_weights or self.has_activations

    @property
    def has_weights(self) -> bool:
        """Whether weights are quantized."""
        return bool(self.weights or self.shared)

    @property
    def has_activations(self) -> bool:
        """Whether activations are."""
        return bool(self.reads or self.tensors)


Changes = Mapping[NodeKey, NodeChange]


class Quantizer(ABC):
    """One of ONNX Runtime's quantizers.

    Attributes:
        mode: What it is called here.
        into: What it makes of float32.
        form: The format of `select` in which it takes the nodes that it leaves alone.
        needs: What has to be installed for it.
        in_bodies: Whether it leaves nodes alone, and quantizes others, in branches and loops too.
        rounds_results: Whether its files have to be run with float16 rounded, which the CPU does not do by itself.
    """

    mode: str
    into: str
    form: str = "ort-quantize"
    needs: str = "onnxruntime"
    in_bodies: bool = False
    rounds_results: bool = False

    def __init__(self, options: QuantizerOptions) -> None:
        self.options = options

    @abstractmethod
    def run(
        self,
        source: Path,
        target: Path,
        *,
        left_out: Sequence[str],
        samples: Sequence[Mapping[str, Array]],
        external: bool,
        bodies: bool,
    ) -> None:
        """Quantizes a file all but some nodes; `external` writes weights beside it, `bodies` is whether it has any."""

    @abstractmethod
    def changes(self, model: OnnxModel, source: Proto, quantized: Proto) -> Changes:
        """What became of each node of a model that was quantized as a whole; both are of the `onnx` library."""

    def quantize(
        self,
        source: Path,
        target: Path,
        *,
        name: str,
        left_out: Sequence[str] = (),
        samples: Sequence[Mapping[str, Array]] = (),
        external: bool = False,
        bodies: bool = False,
    ) -> None:
        """Quantizes a file all but some nodes. Raises HtpError, with `name`, if the quantizer can't."""
        try:
            with _quietly():
                self.run(source, target, left_out=left_out, samples=samples, external=external, bodies=bodies)
        except ImportError as error:
            raise HtpError(
                f"--mode {self.mode} runs ONNX Runtime's quantizer, which can't be imported here ({reason(error)}): "
                f"pip install {self.needs}"
            ) from error
        except HtpError:
            raise
        except Exception as error:  # whatever a quantizer raises
            raise HtpError(f"{name}: ONNX Runtime's quantizer can't quantize it: {reason(error)}") from error


def scaled(steps: Array, scale: Array, zero: Array | None, *, axis: int) -> Array:
    """Numbers of steps in floating point; a scale may be for all or for each channel on an axis."""
    import numpy as np

    def along(values: Array) -> Array:
        if values.size == 1:
            return values.reshape(())
        shape = [1] * steps.ndim
        shape[axis] = values.size
        return values.reshape(shape)

    exact = steps.astype(np.float32)
    if zero is not None:
        exact -= along(zero.astype(np.float32))
    result: Array = exact * along(scale.astype(np.float32))
    return result


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what quantizers log, and what importing them makes of everybody's log."""
    root: Any = logging.getLogger()
    before = logging.root.manager.disable, root.level, list(root.handlers)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before[0])
        root.setLevel(before[1])
        root.handlers[:] = before[2]
