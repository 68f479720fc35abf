"""The line of Python that a node comes from, as torch's dynamo exporter writes it: `pkg.torch.onnx.stack_trace`.

A trace is a stranger's text. Its file is opened only if one of that name is among the packages that are installed here,
and its line shown only if it is the one that the trace quotes.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from optimum_htp.onnxfile import Node, OnnxModel

STACK_TRACE = "pkg.torch.onnx.stack_trace"

_FRAME = re.compile(
    r'^[ \t]*File "(?P<file>[^"\n]*)", line (?P<line>\d{1,9}), in (?P<function>[^\n]*)(?:\n(?![ \t]*File ")(?P<code>[^\n]*))?',
    re.M,
)
_LONGEST = 200_000  # characters; torch does not write longer traces
_LARGEST = 8_000_000  # bytes of a file of Python
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_EXPORTERS = frozenset(("torch", "onnxscript"))
# What is in the directory `torch`, where that is not among installed packages.
_IN_TORCH = frozenset(
    "_decomp _dynamo _export _functorch _higher_order_ops _jit_internal.py _ops.py _refs _tensor.py __init__.py autograd "
    "export functional.py fx jit nn onnx overrides.py utils".split()
)


@dataclass(frozen=True, slots=True)
class PythonLine:
    """A line of the model's own code.

    Attributes:
        file: The file, as the exporter wrote it: it need not be there.
        line: The line in it, from 1 on.
        function: The function or method that it is in.
        code: What the exporter quotes of it; empty if it quotes nothing.
    """

    file: str
    line: int
    function: str
    code: str = ""

    @property
    def place(self) -> str:
        """In short: `transformers/models/bert/modeling_bert.py:345`; of a file outside of packages just its name."""
        parts = _parts(self.file)
        return f"{'/'.join(_below_packages(parts) or parts[-1:])}:{self.line}"

    def source(self) -> str | None:
        """The line, where the file is among the packages installed here and says what the exporter quotes; else None."""
        parts = _below_packages(_parts(self.file))
        lines = _installed_lines("/".join(parts)) if parts else ()
        text = lines[self.line - 1].strip() if self.line <= len(lines) else ""
        return text if text and self.code in ("", text) else None

    def to_dict(self) -> dict[str, str | int]:
        """The document of it in those of reports."""
        return {"file": self.file, "line": self.line, "function": self.function}


def python_line(node: Node) -> PythonLine | None:
    """The innermost line of a node's stack trace that is not the exporter's or torch's; None if there is none."""
    text = node.metadata.get(STACK_TRACE, "")
    if not text or len(text) > _LONGEST:
        return None
    own = None
    for frame in _FRAME.finditer(text):
        if (
            frame["file"]
            and not frame["file"].startswith("<")
            and int(frame["line"])
            and not _is_torchs(frame["file"])
        ):
            own = frame
    if own is None:
        return None
    return PythonLine(own["file"], int(own["line"]), own["function"].strip(), (own["code"] or "").strip())


def lines_by_output(model: OnnxModel) -> dict[str, PythonLine]:
    """The line that each tensor of the main graph and the bodies comes from, where the file says that."""
    return {
        name: line
        for (graph, _), node in model.nodes()
        if "::" not in graph.split("/", 1)[0] and (line := python_line(node)) is not None
        for name in node.outputs
        if name
    }


def _parts(file: str) -> tuple[str, ...]:
    return PurePosixPath(file.replace("\\", "/")).parts


def _below_packages(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The end of a path below the directory of installed packages; empty if it is not in one."""
    places = [index for index, part in enumerate(parts) if part in _INSTALLED]
    return parts[places[-1] + 1 :] if places else ()


def _is_torchs(file: str) -> bool:
    parts = _parts(file)
    installed = _below_packages(parts)
    if installed:
        return installed[0] in _EXPORTERS
    return any(one == "torch" and other in _IN_TORCH for one, other in itertools.pairwise(parts))


@functools.lru_cache(maxsize=32)
def _installed_lines(name: str) -> tuple[str, ...]:
    """The lines of a Python file of an installed package; none if it is not there, or leads out of the packages."""
    parts = PurePosixPath(name).parts
    if not name.endswith(".py") or ".." in parts or PurePosixPath(name).is_absolute() or "\0" in name:
        return ()
    for root in _package_directories():
        try:
            file = root.joinpath(*parts).resolve(strict=True)
            if file.is_relative_to(root) and file.is_file() and file.stat().st_size <= _LARGEST:
                return tuple(file.read_text(encoding="utf-8", errors="replace").split("\n"))
        except (OSError, ValueError, RuntimeError):  # it is not there, or no path; links lead in a circle
            continue
    return ()


def _package_directories() -> Iterator[Path]:
    known = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path)
    for name in dict.fromkeys(known):
        if name and Path(name).name in _INSTALLED and Path(name).is_dir():
            yield Path(name).resolve()
