"""Which file of one package was made from which file of another."""

from __future__ import annotations

import re
from pathlib import PurePosixPath


# What tools put behind the names of the files that they make.
_SUFFIX = re.compile(r"(_optimized|_quantized|_fp16|_int8|_merged|-opt|-int8)+$")


def stem(file: str) -> str:
    """A file without what tools put behind its name."""
    path = PurePosixPath(file)
    return str(path.with_name(_SUFFIX.sub("", path.stem)))
