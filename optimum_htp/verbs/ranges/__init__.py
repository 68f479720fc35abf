"""`ranges`: how large the numbers are that flow through each module, and what a narrower type would lose of them."""

from optimum_htp.verbs.ranges.report import CallRanges, PhaseRanges, RangesReport, TensorRange
from optimum_htp.verbs.ranges.verb import ranges
