"""What `params` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optimum_htp.package import StoredParameter
from optimum_htp.reports import Report, called

KINDS = ("parameter", "constant", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRow(StoredParameter):
    """An initializer and what it was made of.

    Attributes:
        file: The ONNX file, by its path in the package.
        graph: The path of the graph that it belongs to; `""` is the main graph.
        name: Its name, before a renaming.
        new_name: What it was renamed to; None where it kept its name.
        data_type: ONNX's number of its element type.
        shape: Its shape.
        kind: `"parameter"` (or a buffer); `"constant"`, which no parameter went into: integers, booleans, or one number
            throughout; `"unknown"`.
        parameters: The parameters of the PyTorch model that it was made of; the one that it is named after is the first.
        changes: What was done to them: `same`, or some of `transposed`, `reshaped`, `sliced` (some rows), `gathered` (rows
            in another order), `cast` (to another type), `scaled` (by one number), `shifted` (by one), `folded` (with a
            batch norm), `concatenated`, `quantized`; for the scale and the zero point of a quantized one those words.
        duplicates: Other parameters that it stands for as well, because they have the same values.
        scale: The initializers whose product is the scale of a quantized one: one, or for a bias two.
        zero_point: The initializer with its zero point; None where there is none.
        anonymous: Whether its name is neither a parameter's nor one with a quantizer's suffix.
    """

    file: str
    new_name: str | None = None
    data_type: int
    shape: tuple[int, ...]
    anonymous: bool


@dataclass(frozen=True, slots=True, repr=False)
class ParamsReport(Report):
    """The initializers of a package.

    Attributes:
        package: The package.
        model: The PyTorch model that it was compared with.
        files: The initializers of each ONNX file, in order, by the file's path in the package.
        saved: Whether the map was written to the sidecar.
    """

    package: str
    model: str
    files: Mapping[str, tuple[ParameterRow, ...]]
    saved: bool

    def __getitem__(self, name: str) -> ParameterRow:
        """The initializer of a name, before or after a renaming.

        Raises:
            UnknownNameError: There is none, or several files have it.
        """
        return called(
            name, (((row.name, row.new_name or row.name), row.file, row) for row in self.rows), what="initializer"
        )

    @property
    def rows(self) -> tuple[ParameterRow, ...]:
        """The initializers of all files."""
        return tuple(row for rows in self.files.values() for row in rows)

    @property
    def counts(self) -> dict[str, int]:
        """How many initializers there are of each kind."""
        return {kind: sum(row.kind == kind for row in self.rows) for kind in KINDS}

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "package": self.package,
            "model": self.model,
            "rows": [asdict(row) for row in self.rows],
            "saved": self.saved,
            "counts": self.counts,
        }
