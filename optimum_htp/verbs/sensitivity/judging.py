"""How good outputs are beside those of the model in float32, in one figure for each metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.models import Array, Measure, finite
from optimum_htp.onnxfile import OnnxModel, element_type
from optimum_htp.package import cache_leaf

METRICS = ("sqnr", "cosine", "relative", "top1")
"""The names of the metrics; `Figures` says what they are."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How far outputs are from those of the model in float32; of several outputs, those of the worst.

    Attributes:
        sqnr_db: The signal to quantization noise ratio, in dB: ten times the decimal logarithm of the sum of squares of
            the float32 model's output over that of the difference; infinite where there is none.
        cosine: The cosine of the angle between both.
        relative: The largest difference over the largest value.
        top1: The share of the rows of logits whose largest is in the same place; None where there are no logits.
    """

    sqnr_db: float
    cosine: float
    relative: float
    top1: float | None = None

    def value(self, metric: str) -> float:
        """The figure of a metric."""
        found = self.sqnr_db if metric == "sqnr" else getattr(self, metric)
        return -inf if found is None else float(found)

    @property
    def noise(self) -> float:
        """The power of the difference over that of the output."""
        return inf if self.sqnr_db == -inf else float(10 ** (-self.sqnr_db / 10))

    def badness(self, metric: str) -> tuple[float, float]:
        """What figures are sorted by, the worst last; what a metric can't tell apart, noise does."""
        value = self.value(metric)
        return value if metric == "relative" else -value, -self.sqnr_db

    def to_dict(self) -> dict[str, float | None]:
        """As JSON has it: null for what is infinite."""
        return {
            "sqnr_db": finite(self.sqnr_db),
            "cosine": self.cosine,
            "relative": finite(self.relative),
            "top1": self.top1,
        }


NO_NUMBER = Figures(-inf, 0.0, inf)
"""Those of a model that does not run, as where an index is quantized."""


class Judge:
    """Holds outputs against those of the model in float32, on the same samples.

    Caches are outputs of a decoder for itself, and count where there are no others. What an attention mask says is padding
    does not count.
    """

    def __init__(self, model: OnnxModel, samples: Sequence[Mapping[str, Array]], *, metric: str) -> None:
        floats = [value.name for value in model.graph.outputs if element_type(value.elem_type).is_float]
        self.outputs = [name for name in floats if cache_leaf(name) is None] or floats
        if not self.outputs:
            raise HtpError(f"{model.path}: no output is of floating-point numbers, so there is no error to measure")
        self._logits = [name for name in self.outputs if "logits" in name.rpartition(".")[2]]
        if metric == "top1" and not self._logits:
            raise HtpError(
                f"{model.path}: top1 is for logits, and its outputs are {', '.join(self.outputs)}; give --metric sqnr"
            )
        self._samples = samples
        self._expected: Sequence[Sequence[Array]] = ()

    def expect(self, runs: Sequence[Sequence[Array]]) -> None:
        """Takes what the model in float32 gives for the outputs, a run for each sample."""
        self._expected = [
            [self._kept(array, sample) for array in run] for run, sample in zip(runs, self._samples, strict=True)
        ]

    def figures(self, runs: Sequence[Sequence[Array]]) -> Figures:
        """How far other runs are from what is expected."""
        measures = [Measure() for _ in self.outputs]
        same = [0] * len(self.outputs)
        rows = [0] * len(self.outputs)
        for run, sample, expected in zip(runs, self._samples, self._expected, strict=True):
            for index, (array, right) in enumerate(zip(run, expected, strict=True)):
                ours = self._kept(array, sample)
                if not right.size or ours.shape != right.shape:
                    measures[index].special |= ours.shape != right.shape
                    continue
                measures[index].add(ours, right)
                if self.outputs[index] in self._logits:
                    matches = ours.argmax(-1) == right.argmax(-1)
                    same[index] += int(matches.sum())
                    rows[index] += matches.size
        errors = [measure.errors() for measure in measures]
        shares = [count / total for count, total in zip(same, rows, strict=True) if total]
        return Figures(
            sqnr_db=min(error.sqnr_db for error in errors),
            cosine=min(error.cosine for error in errors),
            relative=max(error.relative for error in errors),
            top1=min(shares, default=None),
        )

    @staticmethod
    def _kept(array: Array, sample: Mapping[str, Array]) -> Array:
        """An output without what is padding."""
        masks: Iterable[Any] = (sample.get(name) for name in ("decoder_attention_mask", "attention_mask"))
        for mask in masks:
            if mask is not None and mask.ndim == 2 and array.ndim > 1 and array.shape[:2] == mask.shape and mask.any():
                kept: Array = array[mask.astype(bool)]
                return kept
        return array
