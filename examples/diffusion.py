"""Export a whole diffusion pipeline, draw with Optimum's own class, and see what each of its models is made of.

Optimum writes one package with a directory for each model: text encoder, UNet, and both halves of the autoencoder.
The models are tiny and have random weights, so the picture is noise, and nothing is downloaded. Needs diffusers.

    python examples/diffusion.py [DIRECTORY]
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from optimum.onnxruntime import ORTStableDiffusionPipeline
from tiny_models import run
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from optimum_htp import load_package, main_export


def make_tokenizer(directory: Path) -> CLIPTokenizer:
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    directory.mkdir(parents=True)
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=16)


def save_model(directory: Path) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(directory / "letters")
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=512,
        eos_token_id=513,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    autoencoder = AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel(text_config),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(directory / "pipeline")


def main(directory: Path) -> None:
    package = directory / "onnx"
    save_model(directory)
    main_export(str(directory / "pipeline"), package)

    draw = ORTStableDiffusionPipeline.from_pretrained(package)
    draw.set_progress_bar_config(disable=True)
    picture = draw("a house by the sea", num_inference_steps=2, output_type="np").images[0]
    print("drew a picture of shape", picture.shape)

    for name, file in load_package(package).files.items():
        parts = Counter(tag.tag.split("/")[2] if tag.tag.count("/") > 1 else "(itself)" for tag in file.tags.values())
        print(f"\n{name}: {len(file.tags)} nodes")
        for part, nodes in parts.most_common(4):
            print(f"{nodes:6} {part}")


if __name__ == "__main__":
    run(main)
