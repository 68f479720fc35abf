"""Where does the time go, by layer, and what has int8 changed about it?

Both sessions are measured as users run them: ONNX Runtime optimizes the graph, its own profiler measures, and the tags
are projected onto the optimized nodes. Times are those of your machine; the model is a small BERT with random weights.

    python examples/profile_by_layer.py [DIRECTORY]
"""

from __future__ import annotations

from pathlib import Path

import torch
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from tiny_models import run, save_tokenizer
from transformers import BertConfig, BertModel

from optimum_htp import main_export, profile, project


def save_model(directory: Path) -> None:
    config = BertConfig(
        vocab_size=save_tokenizer(directory, ["the cat sat on the sofa"]),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(directory)


def quantize(package: Path, output: Path) -> None:
    """Dynamic int8, as `optimum-cli onnxruntime quantize --avx2` does it; then the tags are carried over."""
    quantizer = ORTQuantizer.from_pretrained(package)
    quantizer.quantize(save_dir=output, quantization_config=AutoQuantizationConfig.avx2(is_static=False))
    project(output)


def layer_times(package: Path) -> dict[str, float]:
    """The median time of each encoder layer in milliseconds, all that it calls included."""
    report = profile(package, batch_size=1, sequence_length=64)
    rows = report.phases[0].modules
    return {row.path: row.total_time.median / 1000 for row in rows if row.class_name == "BertLayer"}


def main(directory: Path) -> None:
    source, package, int8 = directory / "model", directory / "onnx", directory / "int8"
    save_model(source)
    main_export(str(source), package, task="feature-extraction")
    quantize(package, int8)

    before, after = layer_times(package), layer_times(int8)
    print(f"{'layer':20} {'float ms':>9} {'int8 ms':>9} {'int8/float':>11}")
    for path, time in before.items():
        print(f"{path:20} {time:9.3f} {after[path]:9.3f} {after[path] / time:11.2f}")


if __name__ == "__main__":
    run(main)
