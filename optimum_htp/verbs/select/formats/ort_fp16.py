"""ONNX Runtime's conversion to float16: `node_block_list` of `convert_float_to_float16`."""

from __future__ import annotations

from optimum_htp.verbs.select.formats.base import NameFormat

FORMAT = NameFormat()
