"""Which file of one package goes with which file of another, or of the same package, that it was made from.

One rule for all that compare files. Content comes first: files that were made from one export carry the same skeleton, and
files of one model the same root module, inputs and outputs, and weights of the same shapes. Where several are alike in all
that, as the variants of a model are that lie side by side (`onnx/model.onnx`, `onnx/model_q4.onnx`), their names decide, then
which of them the others were made from, then what they have in common. What none of these decide stays open, with the
candidates: `Partner.problem` says how to settle it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from optimum_htp.package.file_traits import FileTraits, in_common, same_shapes, same_values
from optimum_htp.package.value_pairing import paired_values

# What tools append to the name of a file that they made from another. `_merged` is not among them: a merged decoder is made
# from two files, and has the inputs of neither.
_VARIANT = re.compile(
    r"""([-_.](
        optimized | opt | o[1-4] | slim | slimmed | simplified | sim | infer  # the same model, in fewer nodes
      | (fp | float)(32 | 16) | f16 | half | bf16 | fp8                       # other weights
      | quantized | quant | qdq | dynamic | static | (q | u | qu)?int(4 | 8 | 16) | q[1-8](f16)? | bnb4 | hqq | gptq | awq
      | w(4|8)a(8|16) | nf4 | fp4 | rtn | smoothquant | qoperator
      | arm64 | avx2 | avx512 | vnni | ppc64le                                # for a processor: qint8_avx512_vnni
      | tagged | projected
    ))+$""",
    re.IGNORECASE | re.VERBOSE,
)
# Inputs that tell a decoder's step from its start, and a decoder that does both from one that does either.
_ROLES = ("past_key_values", "use_cache_branch")


def plain_name(file: str) -> str:
    """A file's path without what tools append to names, in any combination and order.

    >>> plain_name("model_O2.onnx"), plain_name("unet/model-opt_fp16.onnx"), plain_name("decoder_model_merged_q4f16.onnx")
    ('model.onnx', 'unet/model.onnx', 'decoder_model_merged.onnx')
    """
    path = PurePosixPath(file)
    return str(path.with_name(_VARIANT.sub("", path.stem) + path.suffix))


@dataclass(frozen=True, slots=True)
class Partner:
    """The file that goes with another.

    Attributes:
        file: The file.
        other: Its partner, by its path in the other package; None if there is none, or it is open.
        candidates: If it is open, those that it may be.
    """

    file: str
    other: str | None
    candidates: tuple[str, ...] = ()

    def problem(self, package: str | Path) -> str:
        """Why there is none in a package, and how to settle it."""
        if not self.candidates:
            return f"{package} has no file that goes with it"
        listed = " or ".join(self.candidates)
        return f"it may go with {listed} of {package}: give that file as the reference, {package}/{self.candidates[0]}"


def partners(files: Sequence[FileTraits], others: Sequence[FileTraits]) -> dict[str, Partner]:
    """The file of another package that goes with each of some files; several may have the same one.

    A file that is itself in the other package goes with the one there that it was made from, or with itself, if it was
    made from none.

    >>> files = {name: FileTraits(name=name) for name in ("model.onnx", "model_q4.onnx", "model_O2.onnx", "other.onnx")}
    >>> [found.other for found in partners(list(files.values()), [files["model.onnx"], files["other.onnx"]]).values()]
    ['model.onnx', 'model.onnx', 'model.onnx', 'other.onnx']
    """
    if len(files) == len(others) == 1:  # whatever they are called, and whatever they have in common
        return {files[0].name: Partner(files[0].name, others[0].name)}
    return {file.name: _partner(file, others) for file in files}


def _partner(file: FileTraits, others: Sequence[FileTraits]) -> Partner:
    itself = next((other for other in others if file.place is not None and other.place == file.place), None)
    alike = [other for other in others if other is not itself and _fits(file, other)]
    if itself is not None:
        alike = [other for other in alike if _origin(other) > _origin(file)]
        if not alike:
            return Partner(file.name, itself.name)
    if not alike:  # of what differs in its content, the name still tells what it has become
        same = [name for name in (file.name, plain_name(file.name)) if any(other.name == name for other in others)]
        return Partner(file.name, same[0] if same else None)
    tests: tuple[Callable[[FileTraits], Any], ...] = (
        lambda other: (_same_export(file, other), -_difference(file, other)),
        lambda other: same_values(file, other) is not False,
        lambda other: _nearness(file.name, other.name),
        _origin,
        lambda other: in_common(file, other),
    )
    for test in tests:
        alike = _most(alike, test)
    found = tuple(other.name for other in alike)
    return Partner(file.name, found[0]) if len(found) == 1 else Partner(file.name, None, found)


def _fits(file: FileTraits, other: FileTraits) -> bool:
    """Whether two files may be of one model, and of the same part of it."""
    if not file.is_known or not other.is_known:
        return plain_name(file.name) == plain_name(other.name)
    if _same_export(file, other):
        return True
    if (file.roots and other.roots and file.roots.isdisjoint(other.roots)) or not same_shapes(file, other):
        return False
    missing = _difference(file, other)
    shared = (len(file.inputs) + len(file.outputs) + len(other.inputs) + len(other.outputs) - missing) / 2
    return not missing or (missing <= shared and _role(file) == _role(other)) or _is_cut_of(file, other)


def _same_export(file: FileTraits, other: FileTraits) -> bool:
    return file.skeleton is not None and file.skeleton == other.skeleton


def _difference(file: FileTraits, other: FileTraits) -> int:
    """How many inputs and outputs one has and the other lacks, whatever they are called."""
    sides = ((file.inputs, other.inputs), (file.outputs, other.outputs))
    pairs = [paired_values(*values) for values in sides]
    return (
        sum(len(each.only_ours) + len(each.only_theirs) for each in pairs) if file.is_known and other.is_known else 0
    )


def _role(file: FileTraits) -> list[bool]:
    return [any(word in value.name for value in file.inputs) for word in _ROLES]


def _is_cut_of(part: FileTraits, whole: FileTraits) -> bool:
    """Whether a file is a module cut out of another: it takes and returns what is a tensor inside that."""
    ends = {value.name for value in (*part.inputs, *part.outputs)}
    own = {value.name for value in (*whole.inputs, *whole.outputs)}
    return ends <= own | whole.tensors and not ends <= own


def _nearness(name: str, other: str) -> int:
    """How surely one name says that it is the other file, or was made from it; 0 if it does not say so.

    >>> _nearness("model_q4.onnx", "model.onnx") > _nearness("onnx/model_q4.onnx", "model.onnx") > 0
    True
    >>> _nearness("model_for_phones.onnx", "model.onnx"), _nearness("model.onnx", "models.onnx")
    (1, 0)
    """
    plain, other_plain = plain_name(name), plain_name(other)
    named = ((other, name), (other, plain), (other_plain, plain))  # by the path, then whatever directory it is in
    based = tuple((PurePosixPath(one).name, PurePosixPath(two).name) for one, two in named)
    stem, made = PurePosixPath(other).stem, PurePosixPath(name).stem
    behind = made[len(stem) :][:1]  # an underscore and what a tool put there that is not known
    says = [*(one == two for one, two in (*named, *based)), made.startswith(stem) and behind in tuple("-_.")]
    return len(says) - says.index(True) if any(says) else 0


def _origin(file: FileTraits) -> tuple[bool, bool, bool]:
    """How much a file looks like what others are made from."""
    return file.is_export, file.is_full, plain_name(file.name) == file.name


def _most(files: Sequence[FileTraits], key: Callable[[FileTraits], Any]) -> list[FileTraits]:
    if len(files) < 2:
        return list(files)
    keys = [key(file) for file in files]
    best = max(keys)
    return [file for file, value in zip(files, keys, strict=True) if value == best]
