"""Which parameter of the PyTorch model each stored tensor of a package is, and what was done to it.

Exporters and optimizers lose the names of weights: a transposed weight is `onnx::MatMul_302` afterwards. The values say
what it is, and the module of the nodes that read it says which, where several parameters have equal values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from optimum_htp.annotations import SOURCE_KEYS
