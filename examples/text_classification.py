"""Export a classifier, run it in a `transformers` pipeline, and see which module each node comes from.

`optimum_htp.main_export` is called like Optimum's own, and what it writes is the package that Optimum writes: the same
`ORTModelForSequenceClassification` loads it. What is new stands on the nodes.

The model is a tiny BERT with random weights, so its verdicts mean nothing, and nothing is downloaded.

    python examples/text_classification.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from tiny_models import run, save_tokenizer
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, pipeline

from optimum_htp import main_export

SENTENCES = ["the film was a delight", "the plot was thin and the end was dull"]


def save_model(directory: Path) -> None:
    size = save_tokenizer(directory, SENTENCES)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(directory)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package)  # the task is read from config.json

    classifier = pipeline(
        "text-classification",
        model=ORTModelForSequenceClassification.from_pretrained(package),
        tokenizer=AutoTokenizer.from_pretrained(package),
    )
    for sentence, verdict in zip(SENTENCES, classifier(SENTENCES), strict=True):
        print(f"{verdict['label']} ({verdict['score']:.2f}): {sentence}")

    print("\nThe matrix products, and where they come from:")
    for node in onnx.load(package / "model.onnx", load_external_data=False).graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            tag = next(entry.value for entry in node.metadata_props if entry.key == "pkg.optimum_htp.tag")
            print(f"{node.op_type:<6} {tag}")


if __name__ == "__main__":
    run(main)
