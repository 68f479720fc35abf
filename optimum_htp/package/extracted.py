"""What an extracted part says of the file that it was cut from: so that it can be run on what it is given there.

It is in the model's metadata, under a key of its own, which stays when tools change the part or put several together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from optimum_htp.errors import HtpError, PackageError
from optimum_htp.onnxfile import OnnxModel, graph_digest
from optimum_htp.package.json_files import as_count, as_object, as_text, as_texts, parse_json
from optimum_htp.package.limits import MAX_CALLS
from optimum_htp.package.marks import CUT_FROM
from optimum_htp.package.package import HtpFile, HtpPackage


@dataclass(frozen=True, slots=True, kw_only=True)
class CutFrom:
    """Where an extracted part is from.

    Attributes:
        package: The path of the package, as seen from the part's directory.
        file: The path of the file in it.
        digest: That file's `graph_digest` then.
        graph: The path of the graph in it.
        modules: The dotted paths of the modules.
        call: The index of their call; None where they ran once.
        inputs: What that graph calls the tensors that are the part's inputs, in order.
        outputs: What it calls its outputs.
    """

    package: str
    file: str
    digest: str
    graph: str
    modules: tuple[str, ...]
    call: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def entries(self) -> dict[str, str]:
        """The metadata of a model that was cut from there."""
        text = json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False)
        return {CUT_FROM + hashlib.sha256(text.encode()).hexdigest()[:12]: text}

    def source(self, part: Path, *, given: HtpPackage | None = None) -> tuple[HtpPackage, HtpFile]:
        """The package and the file that a part was cut from: in the one that is given, or else where it was.

        Raises PackageError, which says why, if neither has a file with that graph.
        """
        for package in self._packages(part, given):
            for file in sorted(package.files.values(), key=lambda each: each.name != self.file):
                with suppress(HtpError):
                    if graph_digest(file.model) == self.digest and self.graph in dict(file.model.graphs()):
                        return package, file
        where = " or ".join(map(str, filter(None, (given and given.path, self._path(part)))))
        raise PackageError(f"{part}: what it was cut from ({self.file}) is not in {where}, or was changed since")

    def _packages(self, part: Path, given: HtpPackage | None) -> Iterator[HtpPackage]:
        if given is not None:
            yield given
        with suppress(HtpError):
            yield HtpPackage(self._path(part))

    def _path(self, part: Path) -> Path:
        return Path(os.path.normpath(part.absolute().parent / self.package))


def cut_from(model: OnnxModel) -> CutFrom | None:
    """What a model was cut from; None if it was not, or does not say it of itself as a whole."""
    texts = [text for key, text in model.metadata.items() if key.startswith(CUT_FROM)]
    if len(texts) != 1:
        return None
    try:
        document = as_object(parse_json(texts[0]))
        call = document["call"]
        modules, inputs, outputs = (tuple(as_texts(document[key])) for key in ("modules", "inputs", "outputs"))
        return CutFrom(
            package=as_text(document["package"]),
            file=as_text(document["file"]),
            digest=as_text(document["digest"]),
            graph=as_text(document["graph"]),
            modules=modules,
            call=None if call is None else as_count(call, MAX_CALLS),
            inputs=inputs,
            outputs=outputs,
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
