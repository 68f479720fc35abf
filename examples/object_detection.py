"""Export an object detector and run it in a `transformers` pipeline, though Optimum has no class for its task.

`AutoModelForONNX` loads any package as the `ORTModel` of its task; where Optimum has none, as a model that runs the
session and gives what the transformers class would.

The model is a tiny YOLOS with random weights, so what it finds means nothing, and nothing is downloaded.

    python examples/object_detection.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from tiny_models import run
from transformers import AutoImageProcessor, YolosConfig, YolosForObjectDetection, YolosImageProcessor, pipeline

from optimum_htp import AutoModelForONNX, load_package, main_export


def save_model(directory: Path) -> None:
    config = YolosConfig(
        image_size=[32, 32],
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_detection_tokens=4,
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
    )
    torch.manual_seed(0)
    YolosForObjectDetection(config).save_pretrained(directory)
    YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 32}).save_pretrained(directory)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package)

    detector = pipeline(
        "object-detection",
        model=AutoModelForONNX.from_pretrained(package),
        image_processor=AutoImageProcessor.from_pretrained(package),
        threshold=0.0,
    )
    for found in detector(Image.new("RGB", (32, 32), (120, 30, 200))):
        print(f"{found['label']} ({found['score']:.2f}) at {found['box']}")

    hierarchy = load_package(package).files["model.onnx"].hierarchy
    print()
    for head in ("class_labels_classifier", "bbox_predictor"):
        print(f"{head}: {len(hierarchy.nodes(head))} nodes")


if __name__ == "__main__":
    run(main)
