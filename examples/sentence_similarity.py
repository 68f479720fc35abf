"""Load an exported sentence encoder with Optimum's own class, offline, and show which sentences mean the same.

`make demo` exports all-MiniLM-L6-v2 and runs this on it. The package is any export for `feature-extraction` with mean
pooling, whose graph puts out `last_hidden_state`.

    python examples/sentence_similarity.py PACKAGE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForFeatureExtraction
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

SENTENCES = [
    "A cat sleeps on the sofa",
    "A kitten naps on a couch",
    "The bank raised rates",
    "Loans cost more now",
    "It will rain tomorrow",
    "Bring an umbrella",
]


def embed(sentences: list[str], *, package: Path) -> torch.Tensor:
    """Unit vectors, one row for each sentence: the mean over its tokens, as the model was trained."""
    tokenizer = AutoTokenizer.from_pretrained(package)
    model = ORTModelForFeatureExtraction.from_pretrained(package, local_files_only=True)
    tokens = tokenizer(sentences, padding=True, return_tensors="pt")
    hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1))


def similarity_table(sentences: list[str], similarity: torch.Tensor) -> Table:
    """A row and a column for each sentence; the nearest other sentence of each row is marked with a star."""
    others = similarity.clone().fill_diagonal_(-1)
    table = Table(title="Cosine similarity (* the nearest other sentence)", box=box.SIMPLE_HEAD)
    table.add_column("", justify="right")
    table.add_column("sentence")
    for number in range(1, len(sentences) + 1):
        table.add_column(str(number), justify="right")
    for row, sentence in enumerate(sentences):
        nearest = int(others[row].argmax())
        cells = [
            "" if column == row else f"[bold]*{value:.2f}[/]" if column == nearest else f"{value:.2f}"
            for column, value in enumerate(similarity[row].tolist())
        ]
        table.add_row(str(row + 1), sentence, *cells)
    return table


def main(package: Path) -> None:
    vectors = embed(SENTENCES, package=package)
    Console().print(similarity_table(SENTENCES, vectors @ vectors.T))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/sentence_similarity.py PACKAGE")
    main(Path(sys.argv[1]))
