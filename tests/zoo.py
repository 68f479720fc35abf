"""A zoo of tiny models, made offline from configs, each in a directory as a user would have it.

``build("bert", directory)`` writes a seeded model, its config with ``architectures``, and the tokenizer, image
processor or feature extractor that Optimum's export or a ``pipeline`` needs. Nothing here is trained: what matters is
the module tree, the way the modules are called, and the files.

    >>> sorted(names(tags={"moe"}))  # doctest: +SKIP
    ['mixtral', 'qwen3_moe']

Every entry is known to export with Optimum's own ``main_export(directory, output, task=entry.task,
**entry.shapes)`` (more exactly ``**entry.main_export_kwargs(directory)``). ``QUICK`` has one entry of every shape.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCAB_SIZE = 96
WORDS = tuple(
    "the a cat dog house tree sat on ran to from under over big small red blue green one two three hello world "
    "this that is was not and or of in it he she we they you good bad new old day night sun moon rain".split()
)
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One tiny model: how to build it and how to export it."""

    name: str
    task: str
    write: Callable[[Path], None]
    tags: frozenset[str]
    shapes: Mapping[str, int] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    library: str = "transformers"
    export_kwargs: Callable[[Path], dict[str, Any]] | None = None

    @property
    def available(self) -> bool:
        """Whether the optional libraries that this model is made with are installed."""
        return all(importlib.util.find_spec(package) is not None for package in self.needs)

    def main_export_kwargs(self, directory: Path) -> dict[str, Any]:
        """Everything ``main_export`` needs beside the two directories, for the model built in `directory`."""
        kwargs: dict[str, Any] = {"task": self.task, **self.shapes}
        if self.export_kwargs is not None:
            kwargs.update(self.export_kwargs(directory))
        return kwargs


ZOO: dict[str, ZooEntry] = {}


def build(name: str, directory: Path) -> Path:
    """Build the model `name` in `directory` (made if it is not there) and return the directory."""
    import torch

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        ZOO[name].write(directory)
    finally:
        torch.set_rng_state(state)
    return directory


def names(*, tags: Iterable[str] = (), quick: bool = False) -> list[str]:
    """The names of the available entries that have all of `tags`, in the table's order."""
    wanted = set(tags)
    return [
        name
        for name, entry in ZOO.items()
        if wanted <= entry.tags and (not quick or name in QUICK) and entry.available
    ]


# --- Tokenizers and processors ------------------------------------------------------------------------------------


def save_tokenizer(directory: Path, *, max_length: int = 32, **kwargs: Any) -> None:
    """A word-level tokenizer with a few dozen words: `<s> words </s>`, pad id 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate((*SPECIALS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_max_length=max_length,
        **kwargs,
    )
    fast.save_pretrained(str(directory))


def save_ctc_tokenizer(directory: Path) -> None:
    """The character tokenizer that CTC heads decode with (32 entries)."""
    from transformers import Wav2Vec2CTCTokenizer

    characters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
    vocabulary_file = directory / "vocab.json"
    vocabulary_file.write_text(json.dumps({character: index for index, character in enumerate(characters)}))
    Wav2Vec2CTCTokenizer(str(vocabulary_file)).save_pretrained(str(directory))


def save_byte_tokenizer(directory: Path, *, class_name: str, extra: tuple[str, ...] = ()) -> None:
    """A byte-level BPE tokenizer without merges (256 bytes, ``<|endoftext|>``, `extra`) of a `transformers` class."""
    import transformers
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    tokens = [*bytes_to_unicode().values(), "<|endoftext|>", *extra]
    vocabulary_file, merges_file = directory / "vocab.json", directory / "merges.txt"
    vocabulary_file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    merges_file.write_text("#version: 0.2\n")
    getattr(transformers, class_name)(str(vocabulary_file), str(merges_file)).save_pretrained(str(directory))


def _processor(class_name: str, **kwargs: Any) -> Callable[[Path], None]:
    def save(directory: Path) -> None:
        import transformers

        getattr(transformers, class_name)(**kwargs).save_pretrained(str(directory))

    return save


def image_config(class_name: str, **kwargs: Any) -> Callable[[Path], None]:
    """Save an image processor's config, as short as may be: the class needs Pillow, its file does not."""

    def save(directory: Path) -> None:
        config = {"image_processor_type": class_name, **kwargs}
        (directory / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")

    return save


def image_processor(class_name: str = "ViTImageProcessor", size: int = 32, **kwargs: Any) -> Callable[[Path], None]:
    """Save an image processor that resizes to `size` × `size`."""
    return image_config(class_name, size={"height": size, "width": size}, **kwargs)


def edge_processor(class_name: str, size: int = 32, **kwargs: Any) -> Callable[[Path], None]:
    """Save an image processor that resizes the shortest edge to `size`."""
    return image_config(class_name, **{"size": {"shortest_edge": size}, **kwargs})


def _text(directory: Path) -> None:
    save_tokenizer(directory)


def _whisper_tokenizer(directory: Path) -> None:
    extra = (
        "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
        "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
    )  # fmt: skip
    save_byte_tokenizer(directory, class_name="WhisperTokenizerFast", extra=extra)


# --- The table's two helpers --------------------------------------------------------------------------------------


def _model(
    prefix: str,
    head: str,
    config: Mapping[str, Any],
    *processors: Callable[[Path], None],
    config_class: str | None = None,
    finish: Callable[[Any], None] | None = None,
) -> Callable[[Path], None]:
    """Write ``{prefix}{head}`` made from ``{prefix}Config(**config)``, and its processors."""

    def write(directory: Path) -> None:
        import transformers

        configuration = getattr(transformers, config_class or f"{prefix}Config")(**config)
        model = getattr(transformers, f"{prefix}{head}")(configuration).eval()
        if finish is not None:
            finish(model)
        model.save_pretrained(str(directory))
        for save in processors:
            save(directory)

    return write


def _add(name: str, task: str, write: Callable[[Path], None], tags: str, **options: Any) -> None:
    ZOO[name] = ZooEntry(name=name, task=task, write=write, tags=frozenset(tags.split()), **options)


# --- Text encoders ------------------------------------------------------------------------------------------------

_BERT: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_SEQ = "ForSequenceClassification"

_add("bert", "text-classification", _model("Bert", _SEQ, _BERT | {"num_labels": 3}, _text), "text encoder")
_add(
    "albert",  # one layer object, called three times
    "text-classification",
    _model("Albert", _SEQ, _BERT | {"num_hidden_layers": 3, "embedding_size": 8}, _text),
    "text encoder reused-layers",
)
_add(
    "albert-groups",  # two groups of two inner layers over four calls
    "feature-extraction",
    _model(
        "Albert",
        "Model",
        _BERT | {"num_hidden_layers": 4, "embedding_size": 8, "num_hidden_groups": 2, "inner_group_num": 2},
        _text,
    ),
    "text encoder reused-layers",
)
_add(
    "distilbert",
    "question-answering",
    _model(
        "DistilBert",
        "ForQuestionAnswering",
        {"vocab_size": VOCAB_SIZE, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2,
         "max_position_embeddings": 64},
        _text,
    ),
    "text encoder",
)  # fmt: skip
_add("roberta", "fill-mask", _model("Roberta", "ForMaskedLM", _BERT, _text), "text encoder tied-weights")
_add("camembert", "token-classification", _model("Camembert", "ForTokenClassification", _BERT, _text), "text encoder")
_add("xlm-roberta", "multiple-choice", _model("XLMRoberta", "ForMultipleChoice", _BERT, _text), "text encoder")
_add(
    "electra",
    "token-classification",
    _model("Electra", "ForTokenClassification", _BERT | {"embedding_size": 8}, _text),
    "text encoder",
)
_add(
    "deberta",
    "text-classification",
    _model(
        "Deberta",
        _SEQ,
        _BERT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False,
                 "max_relative_positions": -1},
        _text,
    ),
    "text encoder scripted",
)  # fmt: skip
_add(
    "deberta-v2",
    "text-classification",
    _model(
        "DebertaV2",
        _SEQ,
        _BERT
        | {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
           "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "conv_kernel_size": 3},
        _text,
    ),
    "text encoder scripted bodies",
)  # fmt: skip
_add(
    "mobilebert",
    "text-classification",
    _model(
        "MobileBert",
        _SEQ,
        _BERT | {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2},
        _text,
    ),
    "text encoder",
)
_add("mpnet", "feature-extraction", _model("MPNet", "Model", _BERT, _text), "text encoder")
_add(
    "convbert",
    "text-classification",
    _model("ConvBert", _SEQ, _BERT | {"embedding_size": 16, "conv_kernel_size": 3, "head_ratio": 1}, _text),
    "text encoder",
)
_add(
    "squeezebert",
    "text-classification",
    _model(
        "SqueezeBert",
        _SEQ,
        _BERT
        | {"embedding_size": 16, "q_groups": 2, "k_groups": 2, "v_groups": 2, "post_attention_groups": 1,
           "intermediate_groups": 2, "output_groups": 2},
        _text,
    ),
    "text encoder",
)  # fmt: skip
_add("ibert", "feature-extraction", _model("IBert", "Model", _BERT, _text), "text encoder")
_add(
    "nystromformer",
    "text-classification",
    _model("Nystromformer", _SEQ, _BERT | {"num_landmarks": 4, "segment_means_seq_len": 16}, _text),
    "text encoder",
)
_add("roformer", "text-classification", _model("RoFormer", _SEQ, _BERT, _text), "text encoder")
_add("rembert", "text-classification", _model("RemBert", _SEQ, _BERT | {"input_embedding_size": 16,
     "output_embedding_size": 16}, _text), "text encoder")  # fmt: skip
_add("megatron-bert", "fill-mask", _model("MegatronBert", "ForMaskedLM", _BERT, _text), "text encoder")
_add(
    "big_bird",
    "text-classification",
    _model("BigBird", _SEQ, _BERT | {"attention_type": "original_full"}, _text),
    "text encoder",
)
_add("data2vec-text", "text-classification", _model("Data2VecText", _SEQ, _BERT, _text), "text encoder")
_add(
    "xlm",
    "text-classification",
    _model(
        "XLM", _SEQ, {"vocab_size": VOCAB_SIZE, "emb_dim": 16, "n_layers": 2, "n_heads": 2,
                      "max_position_embeddings": 64}, _text
    ),
    "text encoder",
)  # fmt: skip
_add(
    "flaubert",
    "text-classification",
    _model(
        "Flaubert", _SEQ, {"vocab_size": VOCAB_SIZE, "emb_dim": 16, "n_layers": 2, "n_heads": 2,
                           "max_position_embeddings": 64}, _text
    ),
    "text encoder",
)  # fmt: skip
_add("splinter", "question-answering", _model("Splinter", "ForQuestionAnswering", _BERT, _text), "text encoder")
_add(
    "modernbert",
    "text-classification",
    _model(
        "ModernBert",
        _SEQ,
        {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32, "max_position_embeddings": 64, "global_attn_every_n_layers": 2,
         "local_attention": 8, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
         "sep_token_id": 3},
        _text,
    ),
    "text encoder",
)  # fmt: skip
_add(
    "perceiver",
    "fill-mask",
    _model(
        "Perceiver",
        "ForMaskedLM",
        {"num_latents": 8, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 2,
         "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "qk_channels": 16, "v_channels": 16,
         "vocab_size": 262, "max_position_embeddings": 64},
        _processor("PerceiverTokenizer"),
    ),
    "text encoder",
)  # fmt: skip

# --- Decoders -----------------------------------------------------------------------------------------------------

_LM = "text-generation-with-past"
_IDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    **_IDS,
}
_GPT2 = {"vocab_size": VOCAB_SIZE, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, **_IDS}


def _causal(name: str, prefix: str, config: Mapping[str, Any], tags: str = "", **options: Any) -> None:
    _add(name, _LM, _model(prefix, "ForCausalLM", config, _text), f"text decoder past {tags}", **options)


_add("gpt2", _LM, _model("GPT2", "LMHeadModel", _GPT2, _text), "text decoder past tied-weights")
_add("gpt2-no-past", "text-generation", _model("GPT2", "LMHeadModel", _GPT2, _text), "text decoder tied-weights")
_add("gpt2-classifier", "text-classification", _model("GPT2", _SEQ, _GPT2, _text), "text decoder")
_causal(
    "gpt_neo",
    "GPTNeo",
    {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32,
     "attention_types": [[["global", "local"], 1]], "window_size": 8, "max_position_embeddings": 64, **_IDS},
)  # fmt: skip
_causal("gpt_neox", "GPTNeoX", _BERT | _IDS)
_causal("gptj", "GPTJ", _GPT2 | {"rotary_dim": 4})
_causal("codegen", "CodeGen", _GPT2 | {"n_head": 4, "rotary_dim": 2})
_causal("gpt_bigcode", "GPTBigCode", _GPT2)
_causal("llama", "Llama", _LLAMA)
_causal("mistral", "Mistral", _LLAMA | {"sliding_window": 8})
_causal("qwen2", "Qwen2", _LLAMA)
_causal("qwen3", "Qwen3", _LLAMA | {"head_dim": 8})
_causal(
    "qwen3_moe",
    "Qwen3Moe",
    _LLAMA | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
              "norm_topk_prob": True},
    "moe",
)  # fmt: skip
_causal("gemma", "Gemma", _LLAMA | {"head_dim": 8})
_causal("gemma2", "Gemma2", _LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8})
_add(
    "gemma3_text",
    _LM,
    _model(
        "Gemma3",
        "ForCausalLM",
        _LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8, "sliding_window_pattern": 2},
        _text,
        config_class="Gemma3TextConfig",
    ),
    "text decoder past",
)
_causal("phi", "Phi", _LLAMA | {"num_key_value_heads": 2, "partial_rotary_factor": 0.5})
_causal("phi3", "Phi3", _LLAMA)
_causal(
    "opt",
    "OPT",
    {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
     "max_position_embeddings": 64, "word_embed_proj_dim": 8, "do_layer_norm_before": False, **_IDS},
    "bypassed-parent tied-weights",
)  # fmt: skip
_causal("bloom", "Bloom", {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "n_layer": 2, "n_head": 2, **_IDS})
_causal("falcon", "Falcon", _LLAMA | {"alibi": False, "multi_query": True, "new_decoder_architecture": False})
_causal(
    "mpt", "Mpt", {"vocab_size": VOCAB_SIZE, "d_model": 16, "n_layers": 2, "n_heads": 2, **_IDS, "max_seq_len": 64}
)
_causal("stablelm", "StableLm", _LLAMA | {"num_key_value_heads": 2, "partial_rotary_factor": 0.5})
_causal("olmo", "Olmo", _LLAMA)
_causal("olmo2", "Olmo2", _LLAMA)
_causal("granite", "Granite", _LLAMA)
_causal("smollm3", "SmolLM3", _LLAMA | {"no_rope_layers": [1, 0]})
_causal("cohere", "Cohere", _LLAMA)
_causal("glm", "Glm", _LLAMA | {"head_dim": 8})
_causal("helium", "Helium", _LLAMA | {"head_dim": 8})
_causal("arcee", "Arcee", _LLAMA)
_causal("nemotron", "Nemotron", _LLAMA | {"head_dim": 8})
_causal(
    "gpt_oss",
    "GptOss",
    _LLAMA | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
              "layer_types": ["sliding_attention", "full_attention"]},
    "moe",
)  # fmt: skip
_causal(
    "deepseek_v3",
    "DeepseekV3",
    _LLAMA
    | {"num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
       "v_head_dim": 8, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
       "n_shared_experts": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
    "moe",
)  # fmt: skip

# --- Encoder-decoder ----------------------------------------------------------------------------------------------

_S2S = "text2text-generation-with-past"
_T5: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
    "relative_attention_num_buckets": 8, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 3,
}  # fmt: skip
_BART: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
    "decoder_start_token_id": 2, "forced_eos_token_id": None, **_IDS,
}  # fmt: skip
_CG = "ForConditionalGeneration"

_add("t5", _S2S, _model("T5", _CG, _T5, _text), "text encoder-decoder past shared-module tied-weights")
_add("t5-unmerged", "text2text-generation", _model("T5", _CG, _T5, _text), "text encoder-decoder shared-module")
_add("mt5", _S2S, _model("MT5", _CG, _T5 | {"feed_forward_proj": "gated-gelu"}, _text),
     "text encoder-decoder past shared-module")  # fmt: skip
_add("longt5", _S2S, _model("LongT5", _CG, _T5 | {"local_radius": 3, "encoder_attention_type": "local"}, _text),
     "text encoder-decoder past shared-module")  # fmt: skip
_add("bart", _S2S, _model("Bart", _CG, _BART, _text), "text encoder-decoder past tied-weights")
_add("bart-classifier", "text-classification", _model("Bart", _SEQ, _BART, _text), "text encoder-decoder")
_add("mbart", _S2S, _model("MBart", _CG, _BART, _text), "text encoder-decoder past")
_add("m2m_100", _S2S, _model("M2M100", _CG, _BART, _text), "text encoder-decoder past")
_add("pegasus", _S2S, _model("Pegasus", _CG, _BART, _text), "text encoder-decoder past")
_add("blenderbot", _S2S, _model("Blenderbot", _CG, _BART, _text), "text encoder-decoder past")
_add("blenderbot-small", _S2S, _model("BlenderbotSmall", _CG, _BART, _text), "text encoder-decoder past")
_add("marian", _S2S, _model("Marian", "MTModel", _BART, _text), "text encoder-decoder past")


def _write_encoder_decoder(directory: Path) -> None:
    from transformers import BertConfig, BertModel, EncoderDecoderModel, GPT2Config, GPT2LMHeadModel

    model = EncoderDecoderModel(
        encoder=BertModel(BertConfig(**_BERT)),
        decoder=GPT2LMHeadModel(GPT2Config(**_GPT2, is_decoder=True, add_cross_attention=True)),
    ).eval()
    model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id = 2, 0, 3
    model.save_pretrained(str(directory))
    save_tokenizer(directory)


_add("encoder-decoder", _S2S, _write_encoder_decoder, "text encoder-decoder past")

# --- Vision -------------------------------------------------------------------------------------------------------

_VIT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 8, "num_channels": 3, "num_labels": 4,
}  # fmt: skip
_IC = "image-classification"
_FIC = "ForImageClassification"


def _image(name: str, prefix: str, config: Mapping[str, Any], save: Callable[[Path], None], tags: str = "",
           head: str = _FIC, task: str = _IC, **options: Any) -> None:  # fmt: skip
    _add(name, task, _model(prefix, head, config, save), f"vision {tags}", **options)


_image("vit", "ViT", _VIT, image_processor())
_image("deit", "DeiT", _VIT, image_processor("DeiTImageProcessor", do_center_crop=False))
_image("beit", "Beit", _VIT | {"use_relative_position_bias": True}, image_processor("BeitImageProcessor",
       do_center_crop=False))  # fmt: skip
_image("data2vec-vision", "Data2VecVision", _VIT, image_processor("BeitImageProcessor", do_center_crop=False))
# Optimum reads the image processor of this one, and with it Pillow, to know the crop
_image("dinov2", "Dinov2", _VIT, edge_processor("BitImageProcessor", crop_size={"height": 32, "width": 32}),
       needs=("PIL",))  # fmt: skip
_image("vit_msn", "ViTMSN", _VIT, image_processor())
_image(
    "hiera",
    "Hiera",
    {"embed_dim": 8, "image_size": [32, 32], "patch_kernel": [7, 7], "patch_stride": [4, 4],
     "patch_padding": [3, 3], "mlp_ratio": 2.0, "depths": [1, 1], "num_heads": [1, 2],
     "embed_dim_multiplier": 2.0, "num_query_pool": 1, "query_stride": [2, 2], "masked_unit_size": [8, 8],
     "masked_unit_attention": [True, False]},
    edge_processor("BitImageProcessor", crop_size=32),
)  # fmt: skip
_image(
    "resnet",
    "ResNet",
    {"num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic",
     "num_labels": 4},
    edge_processor("ConvNextImageProcessor"),
    "sequential batch-norm",
)  # fmt: skip
_image(
    "regnet",
    "RegNet",
    {"num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8,
     "layer_type": "y", "num_labels": 4},
    edge_processor("ConvNextImageProcessor"),
    "sequential batch-norm",
)  # fmt: skip
_CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4,
                             "num_labels": 4, "image_size": 32}  # fmt: skip
_image("convnext", "ConvNext", _CONVNEXT, edge_processor("ConvNextImageProcessor"), "sequential")
_image("convnextv2", "ConvNextV2", _CONVNEXT, edge_processor("ConvNextImageProcessor"), "sequential")
_SWIN: dict[str, Any] = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2],
                         "window_size": 4, "num_labels": 4}  # fmt: skip
_image("swin", "Swin", _SWIN, image_processor())
_image("swinv2", "Swinv2", _SWIN, image_processor())
_image("mobilenet_v1", "MobileNetV1", {"image_size": 32, "depth_multiplier": 0.25, "min_depth": 4, "num_labels": 4},
       edge_processor("MobileNetV1ImageProcessor", crop_size={"height": 32, "width": 32}), "batch-norm")  # fmt: skip
_image("mobilenet_v2", "MobileNetV2", {"image_size": 32, "depth_multiplier": 0.25, "min_depth": 4,
       "depth_divisible_by": 4, "num_labels": 4},
       edge_processor("MobileNetV2ImageProcessor", crop_size={"height": 32, "width": 32}), "batch-norm")  # fmt: skip
_image(
    "mobilevit",
    "MobileViT",
    {"image_size": 32, "patch_size": 2, "hidden_sizes": [8, 12, 16], "neck_hidden_sizes": [4, 8, 8, 12, 12, 16, 32],
     "num_attention_heads": 2, "mlp_ratio": 2.0, "num_labels": 4},
    edge_processor("MobileViTImageProcessor", crop_size={"height": 32, "width": 32}),
    "batch-norm",
)  # fmt: skip
_image(
    "levit",
    "Levit",
    {"image_size": 32, "kernel_size": 3, "stride": 2, "padding": 1, "patch_size": 16, "hidden_sizes": [8, 12, 16],
     "num_attention_heads": [1, 1, 2], "depths": [1, 1, 1], "key_dim": [4, 4, 4], "drop_path_rate": 0,
     "attention_ratio": [2, 2, 2], "mlp_ratio": [2, 2, 2], "num_labels": 4},
    edge_processor("LevitImageProcessor", crop_size={"height": 32, "width": 32}),
    "batch-norm",
)  # fmt: skip
_image(
    "poolformer",
    "PoolFormer",
    {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "mlp_ratio": 2.0, "num_labels": 4},
    edge_processor("PoolFormerImageProcessor", crop_size={"height": 32, "width": 32}),
)
_image(
    "cvt",
    "Cvt",
    {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3], "num_labels": 4},
    edge_processor("ConvNextImageProcessor"),
    "sequential batch-norm",
)
_image(
    "efficientnet",
    "EfficientNet",
    {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.25, "depth_divisor": 4, "hidden_dim": 320,
     "kernel_sizes": [3, 3], "in_channels": [32, 16], "out_channels": [16, 32], "strides": [1, 2],
     "num_block_repeats": [1, 1], "expand_ratios": [1, 2], "depthwise_padding": [], "num_labels": 4},
    image_processor("EfficientNetImageProcessor"),
    "batch-norm",
)  # fmt: skip
_image(
    "pvt",
    "Pvt",
    {"image_size": 32, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2],
     "sequence_reduction_ratios": [2, 2, 1, 1], "mlp_ratios": [2, 2, 2, 2]},  # it forgets other numbers of labels
    image_processor("PvtImageProcessor"),
)  # fmt: skip
_SEG = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16],
        "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
        "decoder_hidden_size": 16, "num_labels": 4}  # fmt: skip
_image("segformer", "Segformer", _SEG, image_processor("SegformerImageProcessor"), "segmentation batch-norm",
       "ForSemanticSegmentation", "image-segmentation")  # fmt: skip
_image("glpn", "GLPN", _SEG, image_config("GLPNImageProcessor"), "depth", "ForDepthEstimation",
       "depth-estimation", shapes={"height": 32, "width": 32})  # fmt: skip
_image(
    "dpt",
    "DPT",
    _VIT | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 8, 8],
            "fusion_hidden_size": 8, "is_hybrid": False},
    image_processor("DPTImageProcessor"),
    "depth",
    "ForDepthEstimation",
    "depth-estimation",
)  # fmt: skip
_RESNET_BACKBONE: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
                                    "layer_type": "basic", "out_features": ["stage4"]}  # fmt: skip
_DETR: dict[str, Any] = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
                         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
                         "num_queries": 4, "num_labels": 4, "use_timm_backbone": False,
                         "use_pretrained_backbone": False, "backbone": None}  # fmt: skip


def _write_detr(prefix: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        from transformers import ResNetConfig

        backbone = ResNetConfig(**_RESNET_BACKBONE)
        save = image_config("DetrImageProcessor", size={"shortest_edge": 64, "longest_edge": 64})
        _model(prefix, "ForObjectDetection", _DETR | {"backbone_config": backbone}, save)(directory)

    return write


_add("detr", "object-detection", _write_detr("Detr"), "vision detection")
_add("table-transformer", "object-detection", _write_detr("TableTransformer"), "vision detection")
_image(
    "yolos",
    "Yolos",
    _VIT | {"image_size": [32, 32], "num_detection_tokens": 4},
    image_config("YolosImageProcessor", size={"shortest_edge": 32, "longest_edge": 32}),
    "detection",
    "ForObjectDetection",
    "object-detection",
)
_image("vit_mae", "ViTMAE", _VIT | {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1,
       "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}, image_processor(), "", "Model",
       "feature-extraction")  # fmt: skip
_image(
    "swin2sr",
    "Swin2SR",
    {"image_size": 32, "patch_size": 1, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4,
     "upscale": 2},
    image_config("Swin2SRImageProcessor", pad_size=4),
    "image-to-image",
    "ForImageSuperResolution",
    "image-to-image",
)  # fmt: skip

# --- Audio --------------------------------------------------------------------------------------------------------

_W2V: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 4], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0, "pad_token_id": 0,
    "num_labels": 4,
}  # fmt: skip
_AUDIO_SHAPES = {"audio_sequence_length": 800}
_WAVE = _processor("Wav2Vec2FeatureExtractor", sampling_rate=16000)
_CTC = "automatic-speech-recognition"


def _speech(name: str, prefix: str, config: Mapping[str, Any], tags: str = "", head: str = "ForCTC",
            task: str = _CTC) -> None:  # fmt: skip
    processors = (_WAVE, save_ctc_tokenizer) if head == "ForCTC" else (_WAVE,)
    _add(name, task, _model(prefix, head, config, *processors), f"audio {tags}", shapes=_AUDIO_SHAPES)


_speech("wav2vec2", "Wav2Vec2", _W2V, "weight-norm")
_speech("wav2vec2-classifier", "Wav2Vec2", _W2V | {"classifier_proj_size": 8}, "weight-norm", _SEQ,
        "audio-classification")  # fmt: skip
_speech("wav2vec2-frame", "Wav2Vec2", _W2V, "weight-norm", "ForAudioFrameClassification", "audio-frame-classification")
_speech("wav2vec2-xvector", "Wav2Vec2", _W2V | {"tdnn_dim": [8, 8], "tdnn_kernel": [3, 1], "tdnn_dilation": [1, 1],
        "xvector_output_dim": 8}, "weight-norm", "ForXVector", "audio-xvector")  # fmt: skip
_speech("hubert", "Hubert", _W2V | {"feat_extract_norm": "layer"}, "weight-norm")
_speech("wavlm", "WavLM", _W2V | {"num_buckets": 8, "max_bucket_distance": 16}, "weight-norm")
_speech("unispeech", "UniSpeech", _W2V | {"num_ctc_classes": 32}, "weight-norm")
_speech("unispeech-sat", "UniSpeechSat", _W2V, "weight-norm")
_speech("sew", "SEW", _W2V | {"squeeze_factor": 2}, "weight-norm")
_speech("sew-d", "SEWD", _W2V | {"squeeze_factor": 2, "position_buckets": 8, "max_position_embeddings": 64,
        "share_att_key": True, "relative_attention": True}, "weight-norm scripted")  # fmt: skip
_speech("data2vec-audio", "Data2VecAudio", _W2V | {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2})
_speech("wav2vec2-conformer", "Wav2Vec2Conformer", _W2V | {"position_embeddings_type": "relative"})
_add(
    "audio-spectrogram-transformer",
    "audio-classification",
    _model(
        "AST",
        "ForAudioClassification",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16,
         "num_labels": 4},
        _processor("ASTFeatureExtractor", max_length=32, num_mel_bins=16),
    ),
    "audio",
)  # fmt: skip
_add(
    "whisper",
    "automatic-speech-recognition-with-past",
    _model(
        "Whisper",
        _CG,
        {"vocab_size": 272, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 16,
         "max_source_positions": 50, "max_target_positions": 300, "decoder_start_token_id": 257,
         "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256, "begin_suppress_tokens": None},
        _processor("WhisperFeatureExtractor", feature_size=16, chunk_length=1),
        _whisper_tokenizer,
    ),
    "audio encoder-decoder past",
    shapes={"nb_max_frames": 100},
)  # fmt: skip
_add(
    "speech_to_text",
    "automatic-speech-recognition-with-past",
    _model(
        "Speech2Text",
        _CG,
        {"vocab_size": VOCAB_SIZE, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
         "max_source_positions": 120, "max_target_positions": 64, "conv_channels": 16, "input_feat_per_channel": 16,
         "num_conv_layers": 2, "decoder_start_token_id": 3, **_IDS},
        _processor("Speech2TextFeatureExtractor", feature_size=16, num_mel_bins=16),
        _text,
    ),
    "audio encoder-decoder past",
    shapes={"nb_max_frames": 100},
)  # fmt: skip


def _save_hifigan(directory: Path) -> None:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(
        model_in_dim=8, upsample_initial_channel=8, upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
    )  # fmt: skip
    SpeechT5HifiGan(config).save_pretrained(str(directory / "vocoder"))


_add(
    "speecht5",
    "text-to-audio",
    _model(
        "SpeechT5",
        "ForTextToSpeech",
        {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
         "encoder_ffn_dim": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32,
         "num_mel_bins": 8, "speech_decoder_prenet_units": 16, "speech_decoder_postnet_units": 16,
         "speech_decoder_postnet_layers": 2, "speaker_embedding_dim": 8, "conv_dim": [8, 8], "conv_stride": [5, 4],
         "conv_kernel": [10, 4], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
         "num_conv_pos_embedding_groups": 2, **_IDS},
        _text,
        _save_hifigan,
    ),
    "audio encoder-decoder submodel-patched weight-norm",
    export_kwargs=lambda directory: {"model_kwargs": {"vocoder": str(directory / "vocoder")}},
)  # fmt: skip
_add(
    "vits",
    "text-to-audio",
    _model(
        "Vits",
        "Model",
        {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "ffn_dim": 32, "flow_size": 8, "spectrogram_bins": 9, "duration_predictor_num_flows": 2,
         "duration_predictor_filter_channels": 16, "depth_separable_num_layers": 1, "prior_encoder_num_flows": 2,
         "prior_encoder_num_wavenet_layers": 1, "posterior_encoder_num_wavenet_layers": 1,
         "upsample_initial_channel": 16, "upsample_rates": [4, 4], "upsample_kernel_sizes": [8, 8],
         "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]], "wavenet_dilation_rate": 1},
        _text,
    ),
    "audio weight-norm",
)  # fmt: skip

# --- Several modalities -------------------------------------------------------------------------------------------

_CLIP_TEXT = _BERT | {"projection_dim": 8, **_IDS}
_CLIP_VISION = {k: v for k, v in _VIT.items() if k != "num_labels"} | {"projection_dim": 8}
_ZERO = "zero-shot-image-classification"
_CLIP_IMAGE = image_processor("CLIPImageProcessor", size=32, do_center_crop=False)


def _dual(text: Mapping[str, Any] = _CLIP_TEXT, vision: Mapping[str, Any] = _CLIP_VISION) -> dict[str, Any]:
    return {"text_config": dict(text), "vision_config": dict(vision), "projection_dim": 8}


_add("clip", _ZERO, _model("CLIP", "Model", _dual(), _CLIP_IMAGE, _text), "multimodal vision text")
_add("clip-vision", "feature-extraction", _model("CLIPVision", "Model", _CLIP_VISION, _CLIP_IMAGE), "vision")
_add("siglip", _ZERO, _model("Siglip", "Model", {"text_config": _CLIP_TEXT, "vision_config": _CLIP_VISION},
     image_processor("SiglipImageProcessor"), _text), "multimodal vision text multihead-attention")  # fmt: skip
_add("chinese_clip", _ZERO, _model("ChineseCLIP", "Model", _dual(_BERT), _CLIP_IMAGE, _text),
     "multimodal vision text")  # fmt: skip
_add(
    "owlvit",
    "zero-shot-object-detection",
    _model(
        "OwlViT",
        "ForObjectDetection",
        _dual() | {"projection_dim": 16},
        image_processor("OwlViTImageProcessor", do_center_crop=False),
        _text,
    ),
    "multimodal vision text detection",
)
_add("groupvit", "feature-extraction", _model("GroupViT", "Model", {
    "text_config": _BERT | _IDS,
    "vision_config": {"hidden_size": 16, "depths": [1, 1], "num_hidden_layers": 2, "num_group_tokens": [4, 2],
                      "num_output_groups": [4, 2], "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
                      "intermediate_size": 32},
    "projection_dim": 8, "projection_intermediate_dim": 16}, _CLIP_IMAGE, _text),
     "multimodal vision text")  # fmt: skip
_add("visual_bert", "feature-extraction", _model("VisualBert", "Model", _BERT | {"visual_embedding_dim": 8}, _text),
     "multimodal text")  # fmt: skip


def _write_vision_encoder_decoder(kind: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        import transformers as t

        encoder: Any  # 320 positions: the image-to-text pipeline asks for 256 new tokens
        decoder: Any
        if kind == "gpt2":
            encoder = t.ViTModel(t.ViTConfig(**_VIT), add_pooling_layer=False)
            decoder = t.GPT2LMHeadModel(
                t.GPT2Config(**_GPT2 | {"n_positions": 320}, is_decoder=True, add_cross_attention=True)
            )
        elif kind == "trocr":
            encoder = t.DeiTModel(t.DeiTConfig(**_VIT), add_pooling_layer=False)
            decoder = t.TrOCRForCausalLM(t.TrOCRConfig(
                vocab_size=VOCAB_SIZE, d_model=16, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=32,
                max_position_embeddings=320, cross_attention_hidden_size=16, is_decoder=True, **_IDS))  # fmt: skip
        else:
            encoder = t.DonutSwinModel(t.DonutSwinConfig(**_SWIN))
            decoder = t.MBartForCausalLM(
                t.MBartConfig(**_BART | {"max_position_embeddings": 320}, is_decoder=True, add_cross_attention=True)
            )
        model = t.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
        model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id = 2, 0, 3
        model.save_pretrained(str(directory))
        save_tokenizer(directory)
        image_processor("DeiTImageProcessor" if kind == "trocr" else "ViTImageProcessor")(directory)

    return write


def _save_pix2struct_processor(directory: Path) -> None:
    save_tokenizer(directory)
    image_config(
        "Pix2StructImageProcessor",
        processor_class="Pix2StructProcessor",
        max_patches=32,
        patch_size={"height": 4, "width": 4},
    )(directory)
    file = directory / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.update(processor_class="Pix2StructProcessor", tokenizer_class="T5TokenizerFast", extra_ids=0)
    file.write_text(json.dumps(config, indent=2))


_I2T = "image-to-text-with-past"
_add("vision-encoder-decoder", _I2T, _write_vision_encoder_decoder("gpt2"), "multimodal vision encoder-decoder past")
_add("trocr", _I2T, _write_vision_encoder_decoder("trocr"), "multimodal vision encoder-decoder past")
_add("donut", _I2T, _write_vision_encoder_decoder("donut"), "multimodal vision encoder-decoder past")
_add(
    "pix2struct",
    "image-to-text-with-past",
    _model(
        "Pix2Struct",
        _CG,
        {"text_config": {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2,
                         "num_heads": 2, "decoder_start_token_id": 0, "eos_token_id": 3, "pad_token_id": 0},
         "vision_config": {"hidden_size": 16, "patch_embed_hidden_size": 48, "d_ff": 32, "d_kv": 8,
                           "num_hidden_layers": 2, "num_attention_heads": 2, "seq_len": 32, "patch_size": 4},
         "decoder_start_token_id": 0},
        _save_pix2struct_processor,
    ),
    "multimodal vision encoder-decoder past",
    needs=("PIL",),
)  # fmt: skip

# Left out, as upstream stands (optimum-onnx 0.1.0, transformers 4.57.6):
# - imagegpt: the export's dummy inputs lack what its forward adds ("Tensor + NoneType");
# - encoder-decoder with a BERT decoder: "bert ... does not need past key values";
# - musicgen: the dummy decoder ids of a tiny audio vocabulary are out of range;
# - speecht5 with past: only the plain text-to-audio task is registered, past is part of it.

# --- Others -------------------------------------------------------------------------------------------------------

_add("patchtst", "time-series-forecasting", _model("PatchTST", "ForPrediction", {
    "num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "num_hidden_layers": 2,
    "d_model": 16, "num_attention_heads": 2, "ffn_dim": 32, "prediction_length": 4, "num_targets": 2}),
    "time-series")  # fmt: skip
_add("decision_transformer", "reinforcement-learning", _model("DecisionTransformer", "Model", {
    "state_dim": 4, "act_dim": 2, "hidden_size": 16, "max_ep_len": 64, "n_layer": 2, "n_head": 2,
    "n_positions": 64}), "reinforcement-learning")  # fmt: skip

_add(
    "sam",  # a vision encoder and a prompt encoder with mask decoder, both below one root
    "feature-extraction",
    _model(
        "Sam",
        "Model",
        {
            "vision_config": {"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2,
                              "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "mlp_dim": 32,
                              "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 4},
            "prompt_encoder_config": {"hidden_size": 8, "image_size": 32, "patch_size": 8, "mask_input_channels": 4},
            "mask_decoder_config": {"hidden_size": 8, "mlp_dim": 16, "num_hidden_layers": 2,
                                    "num_attention_heads": 2, "iou_head_hidden_dim": 8, "iou_head_depth": 2},
        },
        image_config("SamImageProcessor", size={"longest_edge": 32}, pad_size={"height": 32, "width": 32}),
    ),
    "multimodal vision segmentation",
)  # fmt: skip
_image("mgp-str", "Mgpstr", {
    "image_size": [32, 32], "patch_size": 8, "num_channels": 3, "max_token_length": 8, "num_character_labels": 8,
    "num_bpe_labels": 8, "num_wordpiece_labels": 8, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "mlp_ratio": 2.0}, image_processor(), "", "ForSceneTextRecognition",
    "feature-extraction")  # fmt: skip
_add("patchtsmixer", "time-series-forecasting", _model("PatchTSMixer", "ForPrediction", {
    "num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "num_layers": 2,
    "d_model": 8, "prediction_length": 4}), "time-series")  # fmt: skip


def _write_rt_detr(directory: Path) -> None:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 16, 16], encoder_layers=1,
        encoder_ffn_dim=16, encoder_attention_heads=2, d_model=16, num_queries=4, decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16, decoder_layers=2, decoder_attention_heads=2, num_denoising=0, num_labels=4,
        hidden_expansion=0.5, feat_strides=[8, 16, 32], decoder_n_points=2,
    )  # fmt: skip
    RTDetrForObjectDetection(config).eval().save_pretrained(str(directory))
    image_processor("RTDetrImageProcessor", size=64)(directory)


_add("rt_detr", "object-detection", _write_rt_detr, "vision detection batch-norm")
_add("longformer", "feature-extraction", _model("Longformer", "Model", _BERT | {"attention_window": 8}, _text),
     "text encoder")  # fmt: skip

# --- Special directories ------------------------------------------------------------------------------------------

_REMOTE_CONFIGURATION = """
from transformers import PretrainedConfig


class TinyRemoteConfig(PretrainedConfig):
    model_type = "tiny_remote"

    def __init__(self, vocab_size=96, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        super().__init__(**kwargs)
"""

_REMOTE_MODELING = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from .configuration_tiny import TinyRemoteConfig


class TinyBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, 2 * config.hidden_size),
            nn.GELU(),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
        )

    def forward(self, hidden_states):
        return hidden_states + self.mlp(self.norm(hidden_states))


class TinyRemotePreTrainedModel(PreTrainedModel):
    config_class = TinyRemoteConfig
    base_model_prefix = "trunk"
    main_input_name = "input_ids"

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.1)


class TinyRemoteModel(TinyRemotePreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(TinyBlock(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, return_dict=None):
        hidden_states = self.embed(input_ids)
        if attention_mask is not None:
            hidden_states = hidden_states * attention_mask.unsqueeze(-1).to(hidden_states.dtype)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return BaseModelOutput(last_hidden_state=hidden_states)


class TinyRemoteForSequenceClassification(TinyRemotePreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.trunk = TinyRemoteModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, return_dict=None):
        hidden_states = self.trunk(input_ids, attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(torch.tanh(hidden_states.mean(1))))
"""


def _write_remote_code(directory: Path) -> None:
    """A model whose code lies beside its weights (``auto_map``) and whose model type nobody else knows."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    (directory / "configuration_tiny.py").write_text(_REMOTE_CONFIGURATION.lstrip())
    (directory / "modeling_tiny.py").write_text(_REMOTE_MODELING.lstrip())
    config = {
        "model_type": "tiny_remote",
        "architectures": ["TinyRemoteForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "configuration_tiny.TinyRemoteConfig",
            "AutoModel": "modeling_tiny.TinyRemoteModel",
            "AutoModelForSequenceClassification": "modeling_tiny.TinyRemoteForSequenceClassification",
        },
        "id2label": {"0": "no", "1": "yes"},
        "label2id": {"no": 0, "yes": 1},
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    loaded = AutoConfig.from_pretrained(str(directory), trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_config(loaded, trust_remote_code=True).eval()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    from safetensors.torch import save_file

    save_file(state, str(directory / "model.safetensors"), metadata={"format": "pt"})
    save_tokenizer(directory)


def _remote_onnx_config(directory: Path, task: str) -> Any:
    from optimum.exporters.onnx.config import TextEncoderOnnxConfig
    from optimum.utils import NormalizedTextConfig
    from transformers import AutoConfig

    class TinyRemoteOnnxConfig(TextEncoderOnnxConfig):
        NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
        DEFAULT_ONNX_OPSET = 14
        ATOL_FOR_VALIDATION = 1e-4

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            axes = {0: "batch_size", 1: "sequence_length"}
            return {"input_ids": axes, "attention_mask": axes}

    config = AutoConfig.from_pretrained(str(directory), trust_remote_code=True)
    return TinyRemoteOnnxConfig(config, task=task)


def _remote_kwargs(directory: Path) -> dict[str, Any]:
    return {
        "trust_remote_code": True,
        "custom_onnx_configs": {"model": _remote_onnx_config(directory, "text-classification")},
    }


def _submodels_kwargs(directory: Path) -> dict[str, Any]:
    return {
        "trust_remote_code": True,
        "fn_get_submodels": lambda model: {"trunk_model": model.trunk, "model": model},
        "custom_onnx_configs": {
            "trunk_model": _remote_onnx_config(directory, "feature-extraction"),
            "model": _remote_onnx_config(directory, "text-classification"),
        },
    }


def _attentions_kwargs(directory: Path) -> dict[str, Any]:
    """What Optimum's guide shows for more outputs: a config of one's own, and ``model_kwargs``."""
    from optimum.exporters.onnx.model_configs import BertOnnxConfig
    from transformers import AutoConfig

    class BertWithAttentions(BertOnnxConfig):
        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            axes = {0: "batch_size", 2: "sequence_length", 3: "sequence_length"}
            return {**super().outputs, "attentions.0": axes, "attentions.1": axes}

    config = AutoConfig.from_pretrained(str(directory))
    return {
        "model_kwargs": {"output_attentions": True},
        "custom_onnx_configs": {"model": BertWithAttentions(config, task="text-classification")},
    }


_add("remote-code", "text-classification", _write_remote_code, "text encoder remote-code custom-config",
     export_kwargs=_remote_kwargs)  # fmt: skip
_add("submodels", "text-classification", _write_remote_code, "text encoder remote-code custom-config submodels",
     export_kwargs=_submodels_kwargs)  # fmt: skip
_add("bert-attentions", "text-classification", _model("Bert", _SEQ, _BERT, _text), "text encoder custom-config",
     export_kwargs=_attentions_kwargs)  # fmt: skip


def _write_sentence_transformers(directory: Path) -> None:
    import tempfile

    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer import modules as models
    except ImportError:  # before sentence-transformers 5.7
        from sentence_transformers import models

    with tempfile.TemporaryDirectory() as scratch:
        _model("Bert", "Model", _BERT, _text)(Path(scratch))
        transformer = models.Transformer(scratch, max_seq_length=32)
        pooling = models.Pooling(_BERT["hidden_size"])
        SentenceTransformer(modules=[transformer, pooling, models.Normalize()], device="cpu").save(
            str(directory), create_model_card=False
        )


_add(
    "sentence-transformers",
    "sentence-similarity",
    _write_sentence_transformers,
    "text encoder sentence-transformers",
    needs=("sentence_transformers",),
    library="sentence_transformers",
)


def _write_stable_diffusion(directory: Path) -> None:
    """A whole Stable Diffusion pipeline, of a few thousand weights (diffusers 0.35 and Pillow)."""
    import tempfile

    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    alphabet = list(bytes_to_unicode().values())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary_file, merges_file = Path(scratch, "vocab.json"), Path(scratch, "merges.txt")
        vocabulary_file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        merges_file.write_text("#version: 0.2\n")
        tokenizer = CLIPTokenizer(str(vocabulary_file), str(merges_file), model_max_length=16)
    text_config = {**_BERT, "vocab_size": len(tokens), "bos_token_id": 512, "eos_token_id": 513}
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
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_config)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(str(directory))


_add(
    "stable-diffusion",
    "text-to-image",
    _write_stable_diffusion,
    "multimodal diffusers",
    needs=("diffusers", "PIL"),
    library="diffusers",
)


def write_timm_repository(cache: Path, name: str = "test_vit") -> str:
    """Write a tiny timm model as the Hub's cache keeps it, and return the repository's name.

    Optimum asks timm for ``hf_hub:<name>``, so a local directory does not do; with ``HF_HUB_CACHE`` (and
    ``huggingface_hub.constants.HF_HUB_CACHE``) at `cache`, ``main_export("tiny/timm", output, library_name="timm",
    task="image-classification", cache_dir=cache)`` works offline. Needs timm, and with it torchvision (built for the
    same torch) and Pillow.
    """
    import timm
    import torch

    commit = "0" * 40
    repository = cache / "models--tiny--timm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    timm.models.save_for_hf(model, repository / "snapshots" / commit, model_config={"num_classes": 1000})
    return "tiny/timm"


QUICK = frozenset(
    """
    bert albert albert-groups deberta deberta-v2 mobilebert squeezebert nystromformer
    perceiver gpt2 llama qwen3_moe gemma2 opt bloom t5 t5-unmerged bart resnet convnext vit swin
    segformer dpt yolos swin2sr detr levit wav2vec2 wavlm sew-d whisper speecht5
    vits clip siglip vision-encoder-decoder patchtst decision_transformer remote-code submodels
    bert-attentions sentence-transformers
    """.split()
)
"""One entry of every shape: what a change is tried on first."""
