"""Olive: a pattern of `fnmatch` for each name, which its passes take that go by patterns (`OnnxKQuantQuantization`).

Others go by the names themselves, as the tools do that they run: `ort-quantize` and `ort-fp16` are for these.
"""

from __future__ import annotations

import re

from optimum_htp.selections.formats.base import NameFormat

FORMAT = NameFormat(
    use="a JSON list of fnmatch patterns for those of Olive's passes that take patterns",
    checked="olive-ai 0.13.0, whose passes take names",
    entry=lambda name: re.sub(r"([*?[])", r"[\1]", name),
)
