"""Export a network built from PyTorch's own `nn.Transformer`, and show its modules with the nodes that each owns.

Its forward takes two arguments. There is no transformers config to save: config.json says what is known of the module.
The batch size stays free; the lengths do not, because torch's TorchScript exporter fixes those that
`nn.MultiheadAttention` sees (with `dynamo=True` and `dynamic_shapes` they could).

    python examples/custom_transformer.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from tiny_models import run
from torch import nn

from optimum_htp import export_module, load_package


class Translator(nn.Module):
    """Two texts in, a score for every word at every place of the second out."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.transformer = nn.Transformer(
            width, nhead=2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=32, batch_first=True
        )
        self.head = nn.Linear(width, words)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Word ids, `(batch, length)` each, to `(batch, target length, words)`."""
        return self.head(self.transformer(self.embedding(source), self.embedding(target)))


def main(directory: Path) -> None:
    torch.manual_seed(0)
    model = Translator(words=32, width=16).eval()
    source, target = torch.randint(32, (2, 7)), torch.randint(32, (2, 5))
    axes = {name: {0: "batch"} for name in ("source", "target", "scores")}
    export_module(model, (source, target), directory, output_names=["scores"], dynamic_axes=axes)

    file = load_package(directory).files["model.onnx"]
    for module in file.hierarchy.trees[0]:
        path = ".".join(module.path)
        nodes = len(file.hierarchy.nodes(path))
        if nodes and len(module.path) < 4:
            print(f"{'  ' * len(module.path)}{path or '(root)'}: {module.class_name}, {nodes} nodes")
    print(f"unresolved nodes: {file.counts.unresolved}")

    session = onnxruntime.InferenceSession(file.path)
    (scores,) = session.run(["scores"], {"source": source[:1].numpy(), "target": target[:1].numpy()})
    with torch.no_grad():
        difference = (torch.from_numpy(scores) - model(source[:1], target[:1])).abs().max()
    print(f"ONNX Runtime and PyTorch differ by less than 1e-4: {bool(difference < 1e-4)}")


if __name__ == "__main__":
    run(main)
