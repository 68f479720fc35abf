"""The page: one HTML file with its style, its program and the data in it, that needs nothing from anywhere else.

Every text of a package is in a block of JSON, in which nothing can end the block, and the program puts it on the page as text,
never as markup. The policy in its head allows these scripts and this style, by their hashes, and nothing else: no network, no
frame, no form, no other script.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

_SCRIPTS = ("data.js", "text.js", "icicle.js", "search.js", "module.js", "tabs.js", "main.js")
"""The parts of the program, in the order in which they are put together."""

_SIZE_DIGITS = 11
_MARK = re.compile("<!--([A-Z_]+)-->")


def page(document: Mapping[str, Any], *, title: str) -> tuple[bytes, int]:
    """The page that shows a document, and how many bytes of it the document takes."""
    assets = files("optimum_htp.verbs.view") / "assets"
    library, style, skeleton = (_read(assets / name) for name in ("d3.min.js", "page.css", "page.html"))
    parts = "\n".join(_read(assets / name) for name in _SCRIPTS)
    program = f'(() => {{\n"use strict";\n{parts}}})();\n'
    data = json_block(document)
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(program)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    blocks = {
        "POLICY": policy,
        # Half of a surrogate pair, as a path that is not UTF-8 has, can't be written.
        "TITLE": html.escape(title.encode("utf-8", "replace").decode()),
        "STYLE": style,
        "LIBRARY": library,
        "PROGRAM": program,
        "DATA": data,
        "DATA_SIZE": f"{len(data):{_SIZE_DIGITS},d}",
    }
    blocks["SIZE"] = " " * _SIZE_DIGITS
    # The page is taken apart before anything is put in: what is put in may look like a mark.
    pieces = _MARK.split(skeleton)
    size = sum(len(text.encode()) for text in _filled(pieces, blocks))
    blocks["SIZE"] = f"{size:{_SIZE_DIGITS},d}"
    text = "".join(_filled(pieces, blocks))
    return text.encode(), len(data)


def json_block(document: Mapping[str, Any]) -> str:
    r"""A document as JSON that stands in a script element: nothing in it can end the element, or start anything.

    >>> json_block({"name": "</script><!--"})
    '{"name":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)  # ASCII only, so no line separators either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(asset: Any) -> str:
    return str(asset.read_text(encoding="utf-8")).replace("\r\n", "\n")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _filled(pieces: Sequence[str], blocks: Mapping[str, str]) -> Iterator[str]:
    """The texts between marks, which stand at even places, and what the marks stand for."""
    return (blocks[piece] if index % 2 else piece for index, piece in enumerate(pieces))
