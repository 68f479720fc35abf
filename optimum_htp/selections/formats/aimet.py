"""Qualcomm's AIMET: `nodes_to_exclude` of its functions that set how weights of an ONNX model are quantized.

They go over the nodes of the main graph and compare names as they are: `set_blockwise_quantization_for_weights`,
`set_grouped_blockwise_quantization_for_weights`, `set_lpbq_for_params`.
"""

from __future__ import annotations

from optimum_htp.selections.formats.main_graph import MainGraphFormat

FORMAT = MainGraphFormat(
    use="a JSON list for nodes_to_exclude= of aimet_onnx.quantsim's set_..._for_weights and set_..._for_params",
    checked="aimet-onnx 2.42.0",
)
