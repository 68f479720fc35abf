"""ONNX Runtime's layer annotations: the value that stands for a module, and the rules that select modules by it.

A node's `layer_ann` is matched against the rules in the session option `session.layer_assignment_settings`:
`gpu(encoder/layer.1/, =encoder/layer.1)`. A rule is a *prefix*, and after `=` the whole value, because `layer.1` alone
would match `layer.10` too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import quote, unquote

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy import NodeKey, split_tag

SESSION_OPTION = "session.layer_assignment_settings"
"""The option of ONNX Runtime that maps layer annotations to devices."""

MAX_SETTING_CHARACTERS = 8192
"""The longest value of a session option that ONNX Runtime takes (1.31; older releases take 1,024 or 2,048)."""

_ROOT = "."
# The separators of rules and of ours, the escape, and what would be trimmed.
_RESERVED = frozenset(",();=/% ")


def check_device(device: str) -> None:
    """Raises PackageError if a text can't be ONNX Runtime's name for a device."""
    if not device.strip() or set(device) & set("();,="):
        raise PackageError(f"{device!r} is not a device of ONNX Runtime: give one such as cpu, gpu, npu or gpu:1")


def layer_value(tag: str) -> str:
    """The `layer_ann` of the nodes that a module owns.

    >>> layer_value("/Net/Encoder.encoder/Block.layer.0"), layer_value("/Net")
    ('encoder/layer.0', '.')
    """
    names = (unquote(segment.split(".", 1)[1]) for segment in split_tag(tag)[1:])
    return "/".join("".join(map(_escaped, name)) for name in names) or _ROOT


def _escaped(char: str) -> str:
    return quote(char, safe="") if char in _RESERVED or not char.isprintable() else char


def layer_rules(values: Mapping[NodeKey, str], selected: Collection[NodeKey], *, where: str) -> list[str]:
    """The fewest rules that match the selected nodes and no others; `values` has the `layer_ann` of all that have one.

    Raises PackageError if a selected node has the same value as one that is not selected.

    >>> values = {("", 0): "a", ("", 1): "a/x", ("", 2): "a/y", ("", 3): "b"}
    >>> layer_rules(values, [("", 0), ("", 1), ("", 2)], where="model.onnx")
    ['a/', '=a']
    >>> layer_rules(values, [("", 0), ("", 1)], where="model.onnx")
    ['=a', '=a/x']
    """
    hit = {value for key, value in values.items() if key in selected}
    missed = {value for key, value in values.items() if key not in selected}
    mixed = next((value for value in values.values() if value in hit and value in missed), None)
    if mixed is not None:
        raise PackageError(
            f"{where}: some of the nodes of the layer {mixed!r} are selected and some are not, which layer annotations "
            "can't express: select whole modules, without calls or with --no-fused"
        )
    modules = dict.fromkeys(above for value in values.values() for above in _with_modules_above(value))
    partial = {above for value in missed for above in _with_modules_above(value)}
    parents = {module.rpartition("/")[0] for module in modules}
    rules: list[str] = []
    for module in modules:
        parent = module.rpartition("/")[0]
        if module in partial:
            rules += [f"={module}"] if module in hit else []
        elif not parent or parent in partial:  # else a rule for the parent matches it
            rules += [f"{module}/", f"={module}"] if module in parents else [f"={module}"]
    return rules


def _with_modules_above(value: str) -> list[str]:
    parts = value.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
