"""Polygraphy: `--layer-precisions`, which keeps the nodes in float32 beside `--fp16`.

Words of `name:type`, split at the last colon, of which a name that the network lacks is warned of. A line for each word, as
a shell takes it: `xargs polygraphy run model.onnx --trt --fp16 < FILE`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from optimum_htp.selections.file_selection import FileSelection
from optimum_htp.selections.formats.tensorrt_layers import TensorRTFormat


@dataclass(frozen=True, slots=True)
class _Polygraphy(TensorRTFormat):
    """The arguments."""

    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        words = ["--precision-constraints", "obey", "--layer-precisions", *self.entries(file)]
        return [shlex.quote(word) for word in words]


FORMAT = _Polygraphy(
    use="Polygraphy's --layer-precisions, to keep the nodes in float32 beside --fp16",
    checked="polygraphy 0.53.6",
    entry=lambda name: f"{name}:float32",
)
