"""A name on each line: for people and for shells."""

from __future__ import annotations

from optimum_htp.selections.formats.base import NameFormat

FORMAT = NameFormat(use="the names of the nodes, one on a line", one_file=False, as_json=False)
