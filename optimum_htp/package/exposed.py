"""Which outputs of a file are no outputs of the model, but were added to show what modules make: `strip` takes them off.

They are in the model's metadata, under a key with a digest of its value, so that files can be merged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from optimum_htp.onnxfile import OnnxModel
from optimum_htp.package.json_files import json_or_none
from optimum_htp.package.marks import EXPOSED


def exposed_entries(names: Iterable[str]) -> dict[str, str]:
    """The metadata of a model that got these outputs."""
    text = json.dumps(list(names), separators=(",", ":"), ensure_ascii=False)
    return {EXPOSED + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]: text}


def exposed_outputs(model: OnnxModel) -> tuple[str, ...]:
    """The outputs that were added to a model, by name."""
    lists = (json_or_none(text) for key, text in model.metadata.items() if key.startswith(EXPOSED))
    names = dict.fromkeys(name for each in lists if isinstance(each, list) for name in each if isinstance(name, str))
    return tuple(names)
