"""onnxruntime-genai's model builder: `nodes_to_exclude` of its extra options, `int4_nodes_to_exclude` up to 0.9.

It builds a graph of its own from the PyTorch model, so what it knows are not the nodes of this file. It has one product for
each Linear, named after the layer's number and the Linear, whatever modules are between: `/model/layers.3/attn/q_proj/MatMul`
of `model.layers.3.self_attn.q_proj`. What the query, the key and the value are made by may be one product,
`qkv_proj`; so both names are there. A name that it has not does no harm.
https://github.com/microsoft/onnxruntime-genai/blob/main/src/python/py/models/builders/base.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import NodeKey, tag_module_path
from optimum_htp.selections.file_selection import FileSelection, counted
from optimum_htp.selections.formats.base import NameFormat

_PRODUCTS = ("MatMul", "Gemm", "MatMulNBits", "FusedMatMul")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
# What the builder calls the Linears of PyTorch models, by the last part of their paths; empty for what is in one with others.
_ATTENTION = {
    "q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "qkv_proj": "", "query_key_value": "", "o_proj": "o_proj",
    "dense": "o_proj", "out_proj": "o_proj",
}  # fmt: skip
_MLP = {
    "gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj", "gate_up_proj": "gate_up_proj", "fc1": "fc1",
    "fc2": "fc2",
}  # fmt: skip
_PACKED = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class _GenaiInt4(NameFormat):
    """One line, the names with commas between them, as the option takes them."""

    as_json: bool = False

    def listed(self, file: FileSelection) -> set[NodeKey]:
        """The products and embeddings whose names in the builder's graph are known. Raises PackageError if there are none."""
        found = {(node.graph, node.position) for node in file.nodes if self._built(node.tag, node.operator)}
        if not found:
            raise PackageError(
                f"{file.name}: none of the nodes is a Linear that onnxruntime-genai's builder has a name for: it builds "
                "decoders, with q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, fc1, fc2 and lm_head"
            )
        return found

    def names(self, file: FileSelection) -> list[str]:
        """The names in the builder's graph."""
        self.listed(file)
        return list(dict.fromkeys(name for node in file.nodes for name in self._built(node.tag, node.operator)))

    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        return [",".join(self.entries(file))]

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        """What is left out, and what goes along."""
        products = [node for node in file.nodes if node.operator.rpartition("::")[2] in _PRODUCTS]
        unknown = sum(not self._built(node.tag, node.operator) for node in products)
        if unknown:
            yield f"left out {counted(unknown)} that multiply and that the builder has no name for"
        names = set(self.names(file))
        for layer in sorted(
            {name.removesuffix("/qkv_proj/MatMul") for name in names if name.endswith("/qkv_proj/MatMul")}
        ):
            if not {f"{layer}/{each}/MatMul" for each in _PACKED} <= names:
                yield (
                    f"{layer}: where the builder packs query, key and value into one product, all three are left out; "
                    "extra option disable_qkv_fusion=true keeps them apart"
                )
                break

    @staticmethod
    def _built(tag: str, operator: str) -> tuple[str, ...]:
        """What the builder calls the product of a module."""
        path = tag_module_path(tag)
        leaf = path.rpartition(".")[2]
        operator = operator.rpartition("::")[2]
        if operator in ("Gather", "GatherBlockQuantized") and leaf in ("embed_tokens", "wte"):
            return ("/model/embed_tokens/Gather",)
        if operator not in _PRODUCTS:
            return ()
        if leaf in ("lm_head", "embed_out"):
            return ("/lm_head/MatMul",)
        match = _LAYER.search(path)
        if match is None:
            return ()
        layer, inside = match[1], match[2]
        if "mlp" in inside or leaf in _MLP:
            name = _MLP.get(leaf)
            return (f"/model/layers.{layer}/mlp/{name}/MatMul",) if name else ()
        name = _ATTENTION.get(leaf)
        if name is None:
            return ()
        packed = (f"/model/layers.{layer}/attn/qkv_proj/MatMul",) if name in ("", *_PACKED) else ()
        return ((f"/model/layers.{layer}/attn/{name}/MatMul",) if name else ()) + packed


FORMAT = _GenaiInt4(
    use="onnxruntime-genai's builder: --extra_options nodes_to_exclude=... (int4_nodes_to_exclude= up to 0.9)",
    checked="onnxruntime-genai 0.9.2, 0.18.0",
)
