"""Names of tasks, by Optimum's table of them, without importing Optimum: a wrong one is told of at once."""

from __future__ import annotations

from optimum_htp.errors import HtpError
from optimum_htp.package import HtpPackage

# Of Optimum's `TasksManager`, where a test looks whether they are still the same.
SYNONYMS = {
    "audio-ctc": "automatic-speech-recognition",
    "causal-lm": "text-generation",
    "default": "feature-extraction",
    "image-feature-extraction": "feature-extraction",
    "latent-consistency": "text-to-image",
    "mask-generation": "feature-extraction",
    "masked-lm": "fill-mask",
    "pretraining": "feature-extraction",
    "sentence-similarity": "feature-extraction",
    "seq2seq-lm": "text2text-generation",
    "sequence-classification": "text-classification",
    "speech2seq-lm": "automatic-speech-recognition",
    "stable-diffusion": "text-to-image",
    "stable-diffusion-xl": "text-to-image",
    "summarization": "text2text-generation",
    "text-to-speech": "text-to-audio",
    "translation": "text2text-generation",
    "vision2seq-lm": "image-to-text",
    "zero-shot-classification": "text-classification",
}


def check_task(package: HtpPackage, task: str | None) -> None:
    """Raises HtpError if a package was exported for another task, as its sidecar says."""
    recorded = package.sidecar.source.get("task") if package.sidecar is not None else None
    if task in (None, "auto") or not isinstance(recorded, str) or recorded == "auto":
        return
    if _plain(str(task)) != _plain(recorded):
        advice = "leave --task (task=) out, or export the model again for that task"
        raise HtpError(f"{package.path}: exported for {recorded}, so it can't do {task!r}: {advice}")


def _plain(task: str) -> str:
    plain = task.removesuffix("-with-past")
    return SYNONYMS.get(plain, plain)
