"""For each task that Optimum exports, a zoo model and what to put through it: shared by tests and `make compat`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXT = "the cat sat on the tree"


@dataclass(frozen=True, slots=True)
class Case:
    """One task.

    Attributes:
        task: Optimum's name for it.
        model: The zoo model that is exported for it.
        expected: The class that `AutoModelForONNX` picks.
        pipeline: The task of the transformers pipeline; None where transformers has none.
        inputs: What the pipeline is called with (or, without one, the model's inputs by name), made when needed.
        options: What else the pipeline is called with.
        needs: Libraries that the pipeline's processor needs.
        fails: What running it says where upstream is broken; None where it works.
    """

    task: str
    model: str
    expected: str
    pipeline: str | None
    inputs: Callable[[], Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    fails: str | None = None


def _image() -> Any:
    from PIL import Image

    return Image.new("RGB", (40, 36), (120, 30, 200))


def _wave() -> Any:
    import numpy as np

    return {"raw": np.sin(np.arange(4000, dtype=np.float32) / 20), "sampling_rate": 16000}


def _tensors(**shapes: tuple[int, ...]) -> Callable[[], Any]:
    """Random inputs: `input_ids` and the like are numbers of tokens, masks are ones, the others floats."""

    def make() -> Any:
        import torch

        made = {}
        for name, shape in shapes.items():
            if name.endswith("mask") and not name.startswith("past_observed"):
                made[name] = torch.ones(shape, dtype=torch.int64)
            elif name in ("input_ids", "timesteps"):
                made[name] = torch.randint(5, 40, shape)
            else:
                made[name] = torch.rand(shape)
        return made

    return make


def _text(text: str = TEXT) -> Callable[[], Any]:
    return lambda: text


_NEW = {"max_new_tokens": 4}
_PIL = ("PIL",)
_OURS = "ORTSessionModel"

CASES = (
    Case("text-classification", "bert", "ORTModelForSequenceClassification", "text-classification", _text()),
    Case(
        "zero-shot-classification", "bert", "ORTModelForSequenceClassification", "zero-shot-classification", _text(),
        {"candidate_labels": ["cat", "dog"]},
    ),
    Case("token-classification", "camembert", "ORTModelForTokenClassification", "token-classification", _text()),
    Case(
        "question-answering", "distilbert", "ORTModelForQuestionAnswering", "question-answering",
        lambda: {"question": "the cat sat on", "context": TEXT},
    ),
    Case("fill-mask", "roberta", "ORTModelForMaskedLM", "fill-mask", _text("the <mask> sat on")),
    Case(
        "multiple-choice", "xlm-roberta", "ORTModelForMultipleChoice", None,
        _tensors(input_ids=(1, 2, 8), attention_mask=(1, 2, 8)),
    ),
    Case("feature-extraction", "mpnet", "ORTModelForFeatureExtraction", "feature-extraction", _text()),
    Case("sentence-similarity", "sentence-transformers", _OURS, "feature-extraction", _text()),
    Case("text-generation-with-past", "gpt2", "ORTModelForCausalLM", "text-generation", _text(), _NEW),
    Case("text-generation", "gpt2-no-past", "ORTModelForCausalLM", "text-generation", _text(), _NEW),
    Case("text2text-generation-with-past", "t5", "ORTModelForSeq2SeqLM", "text2text-generation", _text(), _NEW),
    Case("text2text-generation", "t5-unmerged", "ORTModelForSeq2SeqLM", "text2text-generation", _text(), _NEW),
    Case("summarization", "bart", "ORTModelForSeq2SeqLM", "summarization", _text(), _NEW | {"min_length": 1}),
    Case("translation", "marian", "ORTModelForSeq2SeqLM", "translation_en_to_fr", _text(), _NEW),
    Case("image-classification", "vit", "ORTModelForImageClassification", "image-classification", _image, {}, _PIL),
    Case(
        "image-segmentation", "segformer", "ORTModelForSemanticSegmentation", "image-segmentation", _image, {}, _PIL
    ),
    Case("object-detection", "yolos", _OURS, "object-detection", _image, {"threshold": 0.0}, _PIL),
    Case("depth-estimation", "glpn", _OURS, "depth-estimation", _image, {}, _PIL),
    Case("image-to-image", "swin2sr", "ORTModelForImageToImage", "image-to-image", _image, {}, _PIL),
    Case(
        "zero-shot-image-classification", "clip", "ORTModelForZeroShotImageClassification",
        "zero-shot-image-classification", _image, {"candidate_labels": ["cat", "dog"]}, _PIL,
    ),
    Case(
        "zero-shot-object-detection", "owlvit", _OURS, "zero-shot-object-detection", _image,
        {"candidate_labels": ["cat", "dog"]}, _PIL,
    ),
    Case(
        "image-feature-extraction", "clip-vision", "ORTModelForFeatureExtraction", "image-feature-extraction", _image,
        {}, _PIL,
    ),
    Case(
        "image-to-text-with-past", "vision-encoder-decoder", "ORTModelForVision2Seq", "image-to-text", _image, _NEW,
        _PIL,
    ),
    Case(
        "image-to-text-with-past (pix2struct)", "pix2struct", "ORTModelForPix2Struct", "image-to-text", _image, _NEW,
        _PIL,
    ),
    Case("automatic-speech-recognition (CTC)", "wav2vec2", "ORTModelForCTC", "automatic-speech-recognition", _wave),
    Case(
        "automatic-speech-recognition-with-past", "whisper", "ORTModelForWhisper", "automatic-speech-recognition",
        _wave, {"generate_kwargs": {"max_new_tokens": 4}},
    ),
    Case(
        "automatic-speech-recognition-with-past (speech_to_text)", "speech_to_text", "ORTModelForSpeechSeq2Seq",
        "automatic-speech-recognition", _wave, {"generate_kwargs": {"max_new_tokens": 4}},
    ),
    Case("audio-classification", "wav2vec2-classifier", "ORTModelForAudioClassification", "audio-classification", _wave),
    Case(
        "audio-frame-classification", "wav2vec2-frame", "ORTModelForAudioFrameClassification", None,
        _tensors(input_values=(1, 900)),
    ),
    Case("audio-xvector", "wav2vec2-xvector", "ORTModelForAudioXVector", None, _tensors(input_values=(1, 900))),
    Case("text-to-audio", "vits", _OURS, "text-to-audio", _text()),
    Case("text-to-audio (encoder and decoder)", "speecht5", "HtpError", "text-to-audio", _text()),
    Case("time-series-forecasting", "patchtst", _OURS, None, _tensors(past_values=(1, 16, 2))),
    Case(
        "reinforcement-learning", "decision_transformer", _OURS, None,
        _tensors(
            states=(1, 3, 4), actions=(1, 3, 2), returns_to_go=(1, 3, 1), timesteps=(1, 3), attention_mask=(1, 3)
        ),
        fails="Reshape",  # Optimum's own validation of its export fails in the same way
    ),
    Case("custom model type, with its code", "remote-code", "ORTModelForSequenceClassification",
         "text-classification", _text()),
    Case(
        "text-to-image", "stable-diffusion", "ORTStableDiffusionPipeline", None,
        lambda: {"prompt": TEXT, "num_inference_steps": 1, "output_type": "np"},
    ),
)  # fmt: skip


def processors(directory: Path) -> dict[str, str]:
    """The arguments of `pipeline` that say where the processors of a package are, for those that it has."""
    found = {}
    if (directory / "tokenizer_config.json").is_file():
        found["tokenizer"] = str(directory)
    preprocessor = directory / "preprocessor_config.json"
    if preprocessor.is_file():
        config = json.loads(preprocessor.read_text())
        kind = "image_processor" if "image_processor_type" in config else "feature_extractor"
        found[kind] = str(directory)
        if str(config.get("processor_class", "")).startswith("Pix2Struct"):
            found["processor"] = str(directory)
    return found


def run(case: Case, model: Any, directory: Path, *, accelerated: bool = False) -> Any:
    """Runs a loaded model on the case's inputs: in a pipeline of transformers (or Optimum's), or by itself."""
    if case.pipeline is None:
        return model(**case.inputs())
    if accelerated:
        from optimum.pipelines import pipeline

        call = pipeline(case.pipeline, model=model, accelerator="ort", **processors(directory))
    else:
        from transformers import pipeline

        call = pipeline(case.pipeline, model=model, **processors(directory))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(case.inputs(), **case.options)
