"""Exports a tiny timm model into a directory: run by a test as a process of its own, with timm on its path.

timm imports torchvision, whose library of operators does not load beside a torch of another build. Nothing that timm
needs is in it, but torchvision describes two of the operators when it is imported: then they have to be declared first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import huggingface_hub.constants
import torch

try:
    import torchvision
except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torchvision  # noqa: F401

import zoo

from optimum_htp import main_export

directory = Path(sys.argv[1])
cache = directory / "cache"
huggingface_hub.constants.HF_HUB_CACHE = str(cache)
repository = zoo.write_timm_repository(cache)
options = {"library_name": "timm", "task": "image-classification", "cache_dir": str(cache)}
main_export(repository, directory / "out", do_validation=False, **options)
