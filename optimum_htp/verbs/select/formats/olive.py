"""Olive: a pattern of `fnmatch` for each name."""

from __future__ import annotations

import re

from optimum_htp.verbs.select.formats.base import NameFormat

FORMAT = NameFormat(entry=lambda name: re.sub(r"([*?[])", r"[\1]", name))
