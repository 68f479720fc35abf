"""ONNX Runtime's conversion to float16: `node_block_list` of `convert_float_to_float16`."""

from __future__ import annotations

from optimum_htp.verbs.select.file_selection import FileSelection
from optimum_htp.verbs.select.formats.base import NameFormat


class OrtFp16(NameFormat):
    """The names of the nodes."""

    def names(self, file: FileSelection) -> list[str]:
        """As they are."""
        return file.names
