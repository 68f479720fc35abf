"""Export a speech model, transcribe with Optimum's own class, and count what encoder and decoder are made of.

Optimum writes an encoder and a merged decoder with a cache. The model is a tiny Whisper with random weights, so it
hears nothing right, and nothing is downloaded.

    python examples/speech_recognition.py [DIRECTORY]
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForSpeechSeq2Seq
from tiny_models import run
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from optimum_htp import load_package, main_export

# What Whisper's decoder is started with, after the 256 bytes and the end of the text.
CONTROL = ("<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>",
           "<|nospeech|>", "<|notimestamps|>")  # fmt: skip


def save_processor(directory: Path) -> None:
    """A tokenizer of single bytes, and the feature extractor of every Whisper: thirty seconds of sound."""
    directory.mkdir(parents=True)
    vocabulary = {
        token: index for index, token in enumerate([*bytes_to_unicode().values(), "<|endoftext|>", *CONTROL])
    }
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = WhisperTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"))
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(directory)


def save_model(directory: Path) -> None:
    save_processor(directory)
    config = WhisperConfig(
        vocab_size=272,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_target_positions=64,
        decoder_start_token_id=257,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(directory)


def main(directory: Path) -> None:
    source, package = directory / "model", directory / "onnx"
    save_model(source)
    main_export(str(source), package)

    processor = WhisperProcessor.from_pretrained(package)
    model = ORTModelForSpeechSeq2Seq.from_pretrained(package)
    sound = np.sin(np.arange(16_000, dtype=np.float32) / 20)  # one second
    features = processor(sound, sampling_rate=16_000, return_tensors="pt").input_features
    tokens = model.generate(features, max_new_tokens=8)
    print("transcript:", repr(processor.decode(tokens[0], skip_special_tokens=True)))

    for name, file in load_package(package).files.items():
        counts = file.counts
        print(f"{name}: {len(file.tags)} nodes, {counts.unresolved} of them unresolved")


if __name__ == "__main__":
    run(main)
