"""Export an image classifier, classify a picture with Optimum's own class, and cut one layer out as a model of its own.

The model is a tiny ViT with random weights, so its verdict means nothing, and nothing is downloaded.

    python examples/image_classification.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForImageClassification
from PIL import Image
from tiny_models import run
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

from optimum_htp import extract, main_export


def save_model(directory: Path) -> None:
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
    )
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(directory)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package)

    classifier = pipeline(
        "image-classification",
        model=ORTModelForImageClassification.from_pretrained(package),
        image_processor=AutoImageProcessor.from_pretrained(package),
    )
    for verdict in classifier(Image.new("RGB", (40, 36), (120, 30, 200))):
        print(f"{verdict['label']}: {verdict['score']:.2f}")

    part = directory / "layer1.onnx"
    extract(package, "vit.encoder.layer.1", output=part)
    session = onnxruntime.InferenceSession(part)
    print("\nlayer 1 by itself")
    for kind, values in (("takes", session.get_inputs()), ("gives", session.get_outputs())):
        for value in values:
            print(f"  {kind} {value.name}: {value.type} {value.shape}")


if __name__ == "__main__":
    run(main)
