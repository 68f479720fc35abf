"""What the examples share: a tokenizer for a handful of words, and the directory that a script works in.

The models of the examples are tiny and have random weights, so that everything runs offline in seconds; with a model
of your own only the part that makes the model goes away.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")  # with the ids 0 to 3


def save_tokenizer(directory: Path, text: Iterable[str], *, template: str = "[CLS] $A [SEP]") -> int:
    """Save a tokenizer that knows the words of `text`, and return how many tokens it has."""
    words = sorted({word for line in text for word in line.split()})
    vocabulary = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    pair = template.replace("$A", "$A [SEP] $B:1") if "[SEP]" in template else None
    tokenizer.post_processor = TemplateProcessing(
        single=template, pair=pair, special_tokens=[(token, vocabulary[token]) for token in SPECIAL_TOKENS]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(directory)
    return len(vocabulary)


def run(main: Callable[[Path], None]) -> None:
    """Call `main` with the directory that the command line names, or with one that is deleted afterwards."""
    if len(sys.argv) > 1:
        directory = Path(sys.argv[1])
        directory.mkdir(parents=True, exist_ok=True)
        main(directory)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
