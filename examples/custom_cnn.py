"""Export a plain PyTorch network, no transformers model at all, and see which module each node comes from.

`export_module` takes any `torch.nn.Module` and example inputs, and writes the package that `main_export` would:
the ONNX file with its tags, a config.json with what is known of the module, and export_metadata.json.

    python examples/custom_cnn.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from tiny_models import run
from torch import nn

from optimum_htp import export_module, load_package


class Block(nn.Module):
    """A convolution with an activation, around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.activation = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        return x + self.activation(self.convolution(x))


class SmallCNN(nn.Module):
    """A stem, two blocks and a classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, kernel_size=3, stride=2)
        self.blocks = nn.ModuleList(Block(8) for _ in range(2))
        self.head = nn.Linear(8, classes)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pictures, `(batch, 3, height, width)`, to scores, `(batch, classes)`."""
        x = self.stem(pixel_values)
        for block in self.blocks:
            x = block(block(x))  # each block runs twice: its nodes know in which call they ran
        return self.head(x.mean(dim=(2, 3)))


def main(directory: Path) -> None:
    torch.manual_seed(0)
    model = SmallCNN(classes=4)
    images = torch.randn(2, 3, 16, 16)
    axes = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}}
    export_module(model, images, directory, task="image-classification", dynamic_axes=axes)

    file = load_package(directory).files["model.onnx"]
    for position, node in enumerate(file.model.graph.nodes):
        tag = file.tags["", position]
        call = "" if tag.call is None else f" (call {tag.call})"
        print(f"{node.op_type:12} {tag.tag}{call}")

    session = onnxruntime.InferenceSession(file.path)
    (logits,) = session.run(["logits"], {"pixel_values": images[:1].numpy()})
    with torch.no_grad():
        difference = (torch.from_numpy(logits) - model.eval()(images[:1])).abs().max()
    print(f"ONNX Runtime and PyTorch differ by less than 1e-4: {bool(difference < 1e-4)}")


if __name__ == "__main__":
    run(main)
