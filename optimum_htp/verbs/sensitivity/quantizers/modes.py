"""The quantizers by the names that `--mode` has for them."""

from __future__ import annotations

from optimum_htp.verbs.sensitivity.quantizers.dynamic import DynamicQuantizer
from optimum_htp.verbs.sensitivity.quantizers.int4 import Int4Quantizer
from optimum_htp.verbs.sensitivity.quantizers.quantizer import Quantizer
from optimum_htp.verbs.sensitivity.quantizers.static import StaticQuantizer
from optimum_htp.verbs.sensitivity.quantizers.to_half import HalfConverter

QUANTIZERS: dict[str, type[Quantizer]] = {
    quantizer.mode: quantizer for quantizer in (DynamicQuantizer, StaticQuantizer, Int4Quantizer, HalfConverter)
}
