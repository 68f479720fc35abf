"""Export an encoder-decoder model, translate with it, and look into both branches of its merged decoder.

Optimum writes an encoder and one decoder whose `If` node holds two graphs: one for the first token, one that uses the
cache. The nodes in both branches know their modules like any others. Only the first branch computes the keys and values
of the cross-attention (`Linear.k`, `Linear.v`); the other finds them in the cache.

The model is a tiny T5 with random weights, so it translates nothing right, and nothing is downloaded.

    python examples/translation.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from optimum.onnxruntime import ORTModelForSeq2SeqLM
from tiny_models import run, save_tokenizer
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration, pipeline

from optimum_htp import main_export

TEXT = "translate English to German : the house is small das Haus ist klein"


def save_model(directory: Path) -> None:
    size = save_tokenizer(directory, [TEXT], template="$A [SEP]")
    config = T5Config(
        vocab_size=size,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(directory)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package)
    print("wrote", ", ".join(sorted(path.name for path in package.glob("*.onnx"))))

    translator = pipeline(
        "translation_en_to_de",
        model=ORTModelForSeq2SeqLM.from_pretrained(package),
        tokenizer=AutoTokenizer.from_pretrained(package),
    )
    print("translation:", translator("the house is small", max_new_tokens=8)[0]["translation_text"])

    graph = onnx.load(package / "decoder_model_merged.onnx", load_external_data=False).graph
    branches = {branch.name: branch.g for node in graph.node if node.op_type == "If" for branch in node.attribute}
    for name, branch in branches.items():
        print(f"\n{name}: {len(branch.node)} nodes; its cross-attention's matrix products come from")
        for node in branch.node:
            tag = next(entry.value for entry in node.metadata_props if entry.key == "pkg.optimum_htp.tag")
            if node.op_type == "MatMul" and "EncDecAttention" in tag:
                print(" ", tag)


if __name__ == "__main__":
    run(main)
