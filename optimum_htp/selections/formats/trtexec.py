"""NVIDIA's trtexec: `--layerPrecisions` and `--layerOutputTypes`, which keep the nodes in float32 beside `--fp16`.

Both are lists with commas, of `name:type`, split at the last colon, and single quotes in them are taken away. Without
`--precisionConstraints` neither has an effect; with `obey` it fails where one can't be met. A line for each argument, as a
shell takes it: `xargs trtexec --onnx=model.onnx --fp16 < FILE`.
https://github.com/NVIDIA/TensorRT/blob/release/10.0/samples/common/sampleOptions.cpp
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from optimum_htp.selections.file_selection import FileSelection
from optimum_htp.selections.formats.tensorrt_layers import TensorRTFormat


@dataclass(frozen=True, slots=True)
class _Trtexec(TensorRTFormat):
    """The three arguments."""

    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        listed, results = self.entries(file), self.names_of_results(file)
        arguments = ["--precisionConstraints=obey", f"--layerPrecisions={','.join(listed)}"]
        if results:
            arguments.append(f"--layerOutputTypes={','.join(f'{name}:fp32' for name in results)}")
        return [shlex.quote(argument) for argument in arguments]


FORMAT = _Trtexec(
    use="trtexec's --layerPrecisions and --layerOutputTypes, to keep the nodes in float32 beside --fp16",
    checked="TensorRT 10.0 (its source)",
    entry=lambda name: f"{name}:fp32",
    refused=",'",
)
