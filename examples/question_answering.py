"""Export a reader, ask it a question with Optimum's own class, and check the export against PyTorch.

`validate` looks at the files; with a model it also runs them, at two sizes, and compares what comes out with PyTorch.

The model is a tiny DistilBERT with random weights, so the answer means nothing, and nothing is downloaded.

    python examples/question_answering.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForQuestionAnswering
from tiny_models import run, save_tokenizer
from transformers import AutoTokenizer, DistilBertConfig, DistilBertForQuestionAnswering, pipeline

from optimum_htp import main_export, validate

QUESTION = "where does the cat sleep"
CONTEXT = "the dog sleeps in the house and the cat sleeps on the sofa"


def save_model(directory: Path) -> None:
    config = DistilBertConfig(
        vocab_size=save_tokenizer(directory, [QUESTION, CONTEXT]), dim=32, n_layers=2, n_heads=2, hidden_dim=64
    )
    torch.manual_seed(0)
    DistilBertForQuestionAnswering(config).save_pretrained(directory)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package)

    reader = pipeline(
        "question-answering",
        model=ORTModelForQuestionAnswering.from_pretrained(package),
        tokenizer=AutoTokenizer.from_pretrained(package),
    )
    answer = reader(question=QUESTION, context=CONTEXT)
    print(f"{QUESTION}? {answer['answer']} ({answer['score']:.2f})\n")

    report = validate(package, model=str(source))
    for check in report.checks:
        print(f"{check.name:12} {check.status:8} {check.reason}")
    print(f"nothing failed: {report.ok}")


if __name__ == "__main__":
    run(main)
