"""ONNX Runtime's layer annotations: what stands for a module in them, and rules that select modules by them.

A node's `layer_ann` is held against the rules in the session option `session.layer_assignment_settings`:
`gpu(encoder/layer.1/, =encoder/layer.1)`. A rule is a *prefix*, and after `=` the whole value, so that `layer.1` alone
would hit `layer.10` too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import quote, unquote

from optimum_htp.hierarchy import NodeKey, split_tag


SESSION_OPTION = "session.layer_assignment_settings"
"""The option of ONNX Runtime that maps layer annotations to devices."""

MAX_SETTING_CHARACTERS = 8192
"""The longest value of a session option that ONNX Runtime takes (1.31; older releases take 1,024 or 2,048)."""

_ROOT = "."
# The separators of rules and of ours, the escape, and what would be trimmed or is no text.
_RESERVED = frozenset(",();=/% ")


def layer_value(tag: str) -> str:
    """The `layer_ann` of the nodes that a module owns.

    >>> layer_value("/Net/Encoder.encoder/Block.layer.0"), layer_value("/Net")
    ('encoder/layer.0', '.')
    """
    parts = (unquote(segment.split(".", 1)[1]) for segment in split_tag(tag)[1:])
    return "/".join(map(_escape, parts)) or _ROOT


def _escape(name: str) -> str:
    if name.isprintable() and _RESERVED.isdisjoint(name):
        return name
    return "".join(quote(char, safe="") if char in _RESERVED or not char.isprintable() else char for char in name)


def layer_rules(values: Mapping[NodeKey, str], selected: Collection[NodeKey]) -> tuple[list[str], str | None]:
    """The fewest rules that hit all the selected nodes and no others.

    Args:
        values: The `layer_ann` of each node that has one.
        selected: The nodes to hit.

    Returns:
        The rules, and a value that selected nodes have and others too, in which case no rules can tell them apart.
    """
    state: dict[str, set[bool]] = {}
    for key, value in values.items():
        state.setdefault(value, set()).add(key in selected)
    mixed = next((value for value, states in state.items() if len(states) == 2), None)
    if mixed is not None:
        return [], mixed
    # For each value and each above it: whether all that is at and below it is selected, and whether there is any below.
    whole: dict[str, bool] = {}
    branches = set()
    for value, states in state.items():
        parts = value.split("/")
        for length in range(1, len(parts) + 1):
            above = "/".join(parts[:length])
            whole[above] = whole.get(above, True) and True in states
            if length < len(parts):
                branches.add(above)
    rules: list[str] = []
    for value in whole:
        own = True in state.get(value, ())
        if whole[value]:
            if not _inside(value, whole):
                rules += [f"{value}/", f"={value}"] if value in branches else [f"={value}"]
        elif own:
            rules.append(f"={value}")
    return rules, None


def _inside(value: str, whole: Mapping[str, bool]) -> bool:
    """Whether the value right above is hit already, with all below it."""
    above = value.rpartition("/")[0]
    return bool(above) and whole[above]
