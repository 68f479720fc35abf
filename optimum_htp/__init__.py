"""Optimum's ONNX export, with every node knowing the PyTorch module that it comes from.

The public names are loaded when they are first used: importing this package imports no other library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from optimum_htp.annotations import HtpOptions
    from optimum_htp.comparison import CompareReport, compare
    from optimum_htp.custom import export_module
    from optimum_htp.diffing import DiffReport, diff
    from optimum_htp.errors import HtpError, ModelTooLargeError, OnnxFileError, PackageError, TaggingError
    from optimum_htp.export import ExportResult, HTPExporter, main_export
    from optimum_htp.extraction import ExtractReport, extract
    from optimum_htp.modeling import AutoModelForONNX
    from optimum_htp.package import HtpPackage, load_package
    from optimum_htp.packing import pack, unpack
    from optimum_htp.parameter_map import ParameterReport, parameters
    from optimum_htp.profiling import ProfileReport, profile
    from optimum_htp.projecting import ProjectionReport, project
    from optimum_htp.retagging import TaggingResult, tag_package
    from optimum_htp.selection import Selection, annotate_layers, select
    from optimum_htp.stripping import strip
    from optimum_htp.validation import ValidationReport, validate, validate_optimum_compatibility


__version__ = "0.1.0"

# Where each public name lives, grouped as in `__all__`.
_HOMES = {
    "ExportResult": "export",
    "HTPExporter": "export",
    "HtpOptions": "annotations",
    "export_module": "custom",
    "main_export": "export",
    "HtpPackage": "package",
    "load_package": "package",
    "strip": "stripping",
    "TaggingResult": "retagging",
    "tag_package": "retagging",
    "ProjectionReport": "projecting",
    "project": "projecting",
    "pack": "packing",
    "unpack": "packing",
    "ValidationReport": "validation",
    "validate": "validation",
    "validate_optimum_compatibility": "validation",
    "AutoModelForONNX": "modeling",
    "ProfileReport": "profiling",
    "profile": "profiling",
    "CompareReport": "comparison",
    "compare": "comparison",
    "Selection": "selection",
    "annotate_layers": "selection",
    "select": "selection",
    "ParameterReport": "parameter_map",
    "parameters": "parameter_map",
    "ExtractReport": "extraction",
    "extract": "extraction",
    "DiffReport": "diffing",
    "diff": "diffing",
    "HtpError": "errors",
    "ModelTooLargeError": "errors",
    "OnnxFileError": "errors",
    "PackageError": "errors",
    "TaggingError": "errors",
}

__all__ = [  # noqa: RUF022 (grouped by what they are for)
    # Export.
    "ExportResult",
    "HTPExporter",
    "HtpOptions",
    "export_module",
    "main_export",
    # Packages.
    "HtpPackage",
    "load_package",
    "strip",
    "TaggingResult",
    "tag_package",
    "ProjectionReport",
    "project",
    "pack",
    "unpack",
    # Checking them.
    "ValidationReport",
    "validate",
    "validate_optimum_compatibility",
    # Running them.
    "AutoModelForONNX",
    # Answers.
    "ProfileReport",
    "profile",
    "CompareReport",
    "compare",
    "Selection",
    "annotate_layers",
    "select",
    "ParameterReport",
    "parameters",
    "ExtractReport",
    "extract",
    "DiffReport",
    "diff",
    # Errors.
    "HtpError",
    "ModelTooLargeError",
    "OnnxFileError",
    "PackageError",
    "TaggingError",
    # The package itself.
    "__version__",
]


def __getattr__(name: str) -> object:
    """Loads a public name when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
