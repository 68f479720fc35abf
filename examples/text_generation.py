"""Export a decoder with its key-value cache, generate with it, and count the nodes of each module.

For a local directory `task="auto"` gives `text-generation-with-past` here, as it does for a model on the Hub: the graph
takes the keys and values of the tokens so far, and `generate` feeds it one token at a time.

The model is a tiny Llama with random weights, so it writes nonsense, and nothing is downloaded.

    python examples/text_generation.py [DIRECTORY]
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from tiny_models import run, save_tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from optimum_htp import main_export

TEXT = "once upon a time there was a model that knew its modules"


def save_model(directory: Path) -> None:
    size = save_tokenizer(directory, [TEXT], template="$A")
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package)

    tokenizer = AutoTokenizer.from_pretrained(package)
    model = ORTModelForCausalLM.from_pretrained(package)
    print(f"with past: {model.can_use_cache}")
    prompt = tokenizer("once upon a time", return_tensors="pt", return_token_type_ids=False)
    tokens = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    print(tokenizer.decode(tokens[0]))

    nodes = onnx.load(package / "model.onnx", load_external_data=False).graph.node
    tags = (entry.value for node in nodes for entry in node.metadata_props if entry.key == "pkg.optimum_htp.tag")
    print(f"\n{len(nodes)} nodes, and the modules that most of them come from:")
    for tag, count in Counter(tags).most_common(8):
        print(f"{count:4} {tag}")


if __name__ == "__main__":
    run(main)
