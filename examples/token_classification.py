"""Export a tagger of words, run it in a `transformers` pipeline, and see how much of the graph each layer is.

The model is a tiny ELECTRA with random weights, so the labels mean nothing, and nothing is downloaded.

    python examples/token_classification.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForTokenClassification
from tiny_models import run, save_tokenizer
from transformers import AutoTokenizer, ElectraConfig, ElectraForTokenClassification, pipeline

from optimum_htp import load_package, main_export

SENTENCE = "Ada met Grace in London"
LABELS = {0: "O", 1: "B-PER", 2: "B-LOC"}


def save_model(directory: Path) -> None:
    config = ElectraConfig(
        vocab_size=save_tokenizer(directory, [SENTENCE]),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=LABELS,
        label2id={label: index for index, label in LABELS.items()},
    )
    torch.manual_seed(0)
    ElectraForTokenClassification(config).save_pretrained(directory)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package)  # the task is read from config.json

    tagger = pipeline(
        "token-classification",
        model=ORTModelForTokenClassification.from_pretrained(package),
        tokenizer=AutoTokenizer.from_pretrained(package),
        ignore_labels=[],
    )
    for found in tagger(SENTENCE):
        print(f"{found['word']:8} {found['entity']} ({found['score']:.2f})")

    file = load_package(package).files["model.onnx"]
    print()
    for pattern in ("ElectraLayer", "classifier"):
        for module in file.hierarchy.select(pattern):
            path = ".".join(module.path)
            print(f"{path}: {module.class_name}, {len(file.hierarchy.nodes(path))} of {len(file.tags)} nodes")


if __name__ == "__main__":
    run(main)
