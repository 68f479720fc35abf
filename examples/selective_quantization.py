"""Which layers does int8 hurt most, and what is the model like when these stay in float?

`compare` ranks the modules by what each adds itself (SQNR in dB: the lower, the worse), `select` gives the names of
their nodes in the form that the quantizer takes, and `compare` tells whether it helped.

The model is a small BERT with random weights in which one layer got a few large weights, as trained models have them.

    python examples/selective_quantization.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import torch
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from tiny_models import run, save_tokenizer
from transformers import BertConfig, BertModel

from optimum_htp import compare, main_export, project, select


def save_model(directory: Path) -> None:
    config = BertConfig(
        vocab_size=save_tokenizer(directory, ["the cat sat on the sofa"]),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = BertModel(config)
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[::16] *= 60  # one scale for all of them: the others lose their bits
    model.save_pretrained(directory)


def quantize(package: Path, output: Path, *, in_float: list[str]) -> None:
    settings = AutoQuantizationConfig.avx2(is_static=False, per_channel=False, nodes_to_exclude=in_float)
    ORTQuantizer.from_pretrained(package).quantize(save_dir=output, quantization_config=settings)
    project(output)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package, task="feature-extraction")

    quantize(package, directory / "int8", in_float=[])
    part = compare(directory / "int8", reference=package).parts[0]
    print(f"all in int8: the outputs are off by {part.output_error:.3f}; {part.verdict}")
    worst = [*part.culprits, *part.carriers][0].row.path
    print(f"most of it comes from {worst}")

    names = list(select(package, worst).names_for("ort-quantize"))
    quantize(package, directory / "mixed", in_float=names)
    part = compare(directory / "mixed", reference=package).parts[0]
    print(f"with that in float ({len(names)} nodes): off by {part.output_error:.3f}")


if __name__ == "__main__":
    run(main)
