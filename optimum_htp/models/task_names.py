"""Names of tasks, by Optimum's table of them, without importing Optimum: a wrong one is told of at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from optimum_htp.errors import HtpError
from optimum_htp.models.auto import TASK_CLASSES
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
    """Raises HtpError if a package can't do a task: it was exported for another, or its graphs lack the outputs."""
    if task in (None, "auto"):
        return
    asked, recorded = _plain(str(task)), package.sidecar.source.get("task") if package.sidecar is not None else None
    if isinstance(recorded, str) and recorded != "auto":
        if asked != _plain(recorded):
            advice = "leave --task (task=) out, or export the model again for that task"
            raise HtpError(f"{package.path}: exported for {recorded}, so it can't do {task!r}: {advice}")
        return
    _, needed = TASK_CLASSES.get(asked, ("", ()))
    outputs = set(_outputs(package))
    if outputs and not outputs.issuperset(needed):
        lacking = ", ".join(name for name in needed if name not in outputs)
        raise HtpError(f"{package.path}: can't do {task!r} without the output {lacking}; leave --task (task=) out")


def _outputs(package: HtpPackage) -> Iterator[str]:
    for file in package.files.values():
        with suppress(HtpError):  # a file that can't be read is told of elsewhere
            yield from (value.name for value in file.model.graph.outputs)


def _plain(task: str) -> str:
    plain = task.removesuffix("-with-past")
    return SYNONYMS.get(plain, plain)
