"""NVIDIA's Model Optimizer: `nodes_to_exclude` of its quantizer and of AutoCast, its converter to float16 and bfloat16.

A regular expression for each name. It ends in `$`, because the tool's `re.match` takes whatever begins like the name.
"""

from __future__ import annotations

import re

from optimum_htp.selections.formats.base import NameFormat

FORMAT = NameFormat(
    use="a JSON list of regular expressions for nodes_to_exclude of NVIDIA's quantizer and of its AutoCast",
    checked="nvidia-modelopt 0.47.0",
    entry=lambda name: f"{re.escape(name)}$",
)
