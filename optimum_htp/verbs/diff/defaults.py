"""What an attribute is that a node does not give: an exporter may write down what another leaves out."""

from __future__ import annotations

from functools import cache

from optimum_htp.onnxfile import Content, attribute_value


@cache
def default_value(domain: str, op_type: str, opset: int, attribute: str) -> Content | None:
    """The default of an operator's attribute in an opset; None if there is none, or the operator is not ONNX's."""
    import onnx.defs

    try:
        schema = onnx.defs.get_schema(op_type, opset, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None
    declared = schema.attributes.get(attribute)
    if declared is None or not declared.default_value.name:
        return None
    encoded = declared.default_value.SerializeToString()
    return attribute_value(encoded, (0, len(encoded)), lambda *_: ())
