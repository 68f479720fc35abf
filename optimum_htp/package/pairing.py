"""Which file of one package goes with which file of another: for all that compare two packages, or one and its source."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

# What tools append to the name of a file that they made from another. `_merged` is not among them: a merged decoder is made
# from two files, and has the inputs of neither.
_VARIANT = re.compile(
    r"""([-_.](
        optimized | opt | o[1-4] | slim | slimmed | simplified | sim | infer  # the same model, in fewer nodes
      | (fp | float)(32 | 16) | f16 | half | bf16 | fp8                       # other weights
      | quantized | quant | qdq | dynamic | static | (q | u | qu)?int(4 | 8 | 16) | q[1-8](f16)? | bnb4 | hqq | gptq | awq
      | arm64 | avx2 | avx512 | vnni | ppc64le                                # for a processor: qint8_avx512_vnni
      | tagged | projected
    ))+$""",
    re.IGNORECASE | re.VERBOSE,
)


def plain_name(file: str) -> str:
    """A file's path without what tools append to names, in any combination and order.

    >>> plain_name("model_O2.onnx"), plain_name("unet/model-opt_fp16.onnx"), plain_name("decoder_model_merged_q4f16.onnx")
    ('model.onnx', 'unet/model.onnx', 'decoder_model_merged.onnx')
    """
    path = PurePosixPath(file)
    return str(path.with_name(_VARIANT.sub("", path.stem) + path.suffix))


def partner(file: str, files: Collection[str], others: Collection[str]) -> str | None:
    """The file of another package that goes with one of `files`; None if there is none, or if it is ambiguous.

    By name, else by the name without what tools append; else, if each package has one file, that.

    >>> partner("model.onnx", ["model.onnx"], ["model_quantized.onnx", "model_O2.onnx", "other.onnx"])
    >>> partner("model_q4.onnx", ["model.onnx", "model_q4.onnx"], ["model.onnx"])
    'model.onnx'
    """
    if file in others:
        return file
    plain = plain_name(file)
    if plain in others:
        return plain
    alike = [other for other in others if plain_name(other) == plain]
    if not alike and len(files) == len(others) == 1:
        alike = list(others)
    return alike[0] if len(alike) == 1 else None


def pair_files(files: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """The files of two packages that go with each other as `partner` says, each with one at most.

    >>> pair_files(["encoder.onnx", "model.onnx"], ["model_quantized.onnx", "encoder.onnx"])
    {'encoder.onnx': 'encoder.onnx', 'model.onnx': 'model_quantized.onnx'}
    """
    left, right = list(files), list(others)
    matches = {file: partner(file, left, right) for file in left}
    return {file: other for file, other in matches.items() if other and partner(other, right, left) == file}
