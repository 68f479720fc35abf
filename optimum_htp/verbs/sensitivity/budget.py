"""What a quantized model may cost: a figure that its outputs have to reach."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.verbs.sensitivity.judging import METRICS, Figures

_FORM = re.compile(r"(\d{1,6}(?:\.\d{1,20})?|\.\d{1,20}) ?(db|%)?", re.IGNORECASE | re.ASCII)
_EXAMPLES = "30dB, or with --metric cosine 0.999, relative 1%, top1 99%"


@dataclass(frozen=True, slots=True)
class Budget:
    """A figure to reach.

    Attributes:
        metric: Of which metric.
        limit: The least that it may be; of `relative` the most.
    """

    metric: str
    limit: float

    @classmethod
    def parse(cls, text: str | float, metric: str | None = None) -> Budget:
        """Reads a budget: `30dB`, `0.999`, `1%`. Raises HtpError if it is none, or of another metric.

        >>> Budget.parse("30dB"), Budget.parse("99%", "top1").limit
        (Budget(metric='sqnr', limit=30.0), 0.99)
        """
        check_metric(metric)
        match = _FORM.fullmatch(str(text).strip())
        if match is None:
            raise HtpError(f"{text!r} is not a budget: give one such as {_EXAMPLES}")
        unit = (match[2] or "").lower()
        if unit and (unit == "db") != (metric in (None, "sqnr")):
            raise HtpError(f"{text!r} is not a budget for {metric or 'sqnr'}: give one such as {_EXAMPLES}")
        limit = float(match[1]) / (100 if unit == "%" else 1)
        metric = metric or "sqnr"
        if metric in ("cosine", "top1") and limit > 1:
            raise HtpError(f"{text!r} can't be reached: {metric} is 1 at most")
        return cls(metric, limit)

    def is_met(self, figures: Figures) -> bool:
        """Whether figures reach it."""
        value = figures.value(self.metric)
        return value <= self.limit if self.metric == "relative" else value >= self.limit

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"metric": self.metric, "limit": self.limit}


def check_metric(metric: str | None) -> None:
    """Raises HtpError if there is no such metric."""
    if metric is not None and metric not in METRICS:
        raise HtpError(f"{metric!r} is not a metric: give one of {', '.join(METRICS)}")
