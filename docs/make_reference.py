"""Writes docs/reference.md from the docstrings: `make reference`.

Griffe reads the sources, without importing them, and takes the docstrings apart. What is public, and in which order, is
`optimum_htp._ROOMS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

import optimum_htp

DOCS = Path(__file__).parent
WIDTH = 110
HEADER = """\
# Reference

Every name that `optimum_htp` offers, made from the docstrings by `make reference`. Each verb is a function here, a command
of `optimum-htp`, and, where it only reads, a method of `HtpPackage`. A report's `to_dict()` is what `--json` prints;
`print(report)` shows what the command prints, and a notebook shows it as a table.
"""


def main() -> None:
    """Writes the page."""
    package = griffe.load("optimum_htp", search_paths=[DOCS.parent], docstring_parser="google", resolve_aliases=True)
    blocks = [HEADER.rstrip()]
    for room, names in optimum_htp._ROOMS.items():
        blocks.append(f"## {first_line(package[room])}")
        for name in sorted(names.split(), key=lambda name: (name[0].isupper(), name)):  # functions, then their types
            blocks += entry(target(package[f"{room}.{name}"]))
    (DOCS / "reference.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def target(item: griffe.Object | griffe.Alias) -> griffe.Object:
    """What a name stands for, wherever it was imported from."""
    return item.final_target if isinstance(item, griffe.Alias) else item


def first_line(item: griffe.Object) -> str:
    """What a docstring says first, without the full stop."""
    return item.docstring.value.partition("\n")[0].removesuffix(".") if item.docstring else ""


def entry(item: griffe.Object) -> Iterator[str]:
    """A function with its signature, or a class with its members, and all that the docstring says."""
    yield f"### `{item.name}`"
    if isinstance(item, griffe.Function):
        yield code(f"def {signature(item)}: ...")
    yield from sections(item)
    if isinstance(item, griffe.Class):
        ours = [base for base in item.mro() if base.path.startswith("optimum_htp")]
        for base in ours:
            yield from (text for text in sections(base) if text.startswith("**Attributes**"))
        members = {name: member for base in reversed((item, *ours)) for name, member in base.members.items()}
        order = dict.fromkeys(name for base in (item, *ours) for name in base.members)  # its own first
        lines = [line for name in order for line in of_class(members[name])]
        if lines:
            yield "\n".join(lines)


def sections(item: griffe.Object) -> Iterator[str]:
    """The text of a docstring, and its lists of parameters, attributes and exceptions."""
    for section in item.docstring.parsed if item.docstring else ():
        kind = section.kind.value
        if kind == "text":
            yield section.value
        elif kind in ("parameters", "attributes", "raises"):
            lines = [f"- `{name_of(each)}`: {joined(each.description)}" for each in section.value]
            yield "\n".join([f"**{kind.capitalize()}**", "", *lines])
        elif kind in ("returns", "yields"):
            yield f"**{kind.capitalize()}** " + " ".join(joined(each.description) for each in section.value)
        elif kind == "admonition":  # `Example:`
            yield code(re.sub(r" +# doctest: .*", "", section.value.description), "pycon")


def name_of(item: griffe.DocstringElement) -> str:
    """The name of a parameter or attribute; the type of an exception."""
    return str(item.annotation if isinstance(item, griffe.DocstringRaise) else item.name)


def of_class(member: griffe.Object | griffe.Alias) -> Iterator[str]:
    """A line for a public method, a property, or a verb that is a method."""
    item = target(member)
    if member.name == "__getitem__" and item.docstring:
        yield f"- `[{item.parameters[1].name}] -> {item.returns}`: {first_line(item)}."
    if member.name.startswith("_"):
        return
    if isinstance(item, griffe.Attribute) and str(item.value) in optimum_htp._HOMES:
        yield f"- `{member.name}(...)`: the function [`{item.value}`](#{item.value}) with this package as its first argument."
    elif isinstance(item, griffe.Function) and item.docstring:
        yield f"- `{signature(item)}`: {first_line(item)}."
    elif isinstance(item, griffe.Attribute) and "property" in item.labels:
        yield f"- `{item.name}: {item.annotation}`: {first_line(item)}."


def signature(function: griffe.Function) -> str:
    """What a caller gives and gets; a parameter on each line if it is long."""
    text = re.sub(r"\((self|cls)(, )?", "(", function.signature())
    if len(text) <= WIDTH:
        return text
    if isinstance(function.parent, griffe.Class):
        return f"{function.name}(...) -> {function.returns}"
    return f"{function.name}(\n    " + ",\n    ".join(parts(text)) + f",\n) -> {function.returns}"


def parts(text: str) -> Iterator[str]:
    """The parameters in a signature: it is cut at the commas that no bracket holds."""
    inside = text[text.index("(") + 1 : text.rindex(") ->")]
    depth, start = 0, 0
    for index, character in enumerate(inside):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield inside[start:index].strip()
            start = index + 1
    yield inside[start:].strip()


def code(text: str, language: str = "python") -> str:
    """A block of code."""
    return f"```{language}\n{text.strip()}\n```"


def joined(text: str) -> str:
    """A description on one line."""
    return " ".join(text.split())


if __name__ == "__main__":
    main()
