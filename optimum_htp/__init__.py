"""Optimum's ONNX export, with every node knowing the PyTorch module that it comes from.

The public names are loaded when they are first used: importing this package imports no other library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from optimum_htp.errors import HtpError, ModelTooLargeError, OnnxFileError, PackageError, TaggingError
    from optimum_htp.export import ExportResult, HTPExporter, export_module, main_export
    from optimum_htp.models import AutoModelForONNX
    from optimum_htp.package import HtpOptions, HtpPackage, load_package
    from optimum_htp.verbs.compare import CompareReport, compare
    from optimum_htp.verbs.diff import DiffReport, diff
    from optimum_htp.verbs.extract import ExtractReport, extract
    from optimum_htp.verbs.pack import PackReport, pack
    from optimum_htp.verbs.params import ParameterReport, parameters
    from optimum_htp.verbs.profile import ProfileReport, profile
    from optimum_htp.verbs.project import ProjectionReport, project
    from optimum_htp.verbs.select import Selection, annotate_layers, select
    from optimum_htp.verbs.strip import StripReport, strip
    from optimum_htp.verbs.tag import TaggingResult, tag_package
    from optimum_htp.verbs.tree import TreeReport, tree
    from optimum_htp.verbs.unpack import UnpackReport, unpack
    from optimum_htp.verbs.validate import ValidationReport, validate, validate_optimum_compatibility


__version__ = "0.1.0"

# The room that hands each public name out.
_ROOMS = {
    "export": (
        "ExportResult",
        "HTPExporter",
        "export_module",
        "main_export",
    ),
    "package": (
        "HtpOptions",
        "HtpPackage",
        "load_package",
    ),
    "models": ("AutoModelForONNX",),
    "verbs.tag": (
        "TaggingResult",
        "tag_package",
    ),
    "verbs.project": (
        "ProjectionReport",
        "project",
    ),
    "verbs.strip": ("StripReport", "strip"),
    "verbs.pack": ("PackReport", "pack"),
    "verbs.unpack": ("UnpackReport", "unpack"),
    "verbs.tree": ("TreeReport", "tree"),
    "verbs.validate": (
        "ValidationReport",
        "validate",
        "validate_optimum_compatibility",
    ),
    "verbs.profile": (
        "ProfileReport",
        "profile",
    ),
    "verbs.compare": (
        "CompareReport",
        "compare",
    ),
    "verbs.select": (
        "Selection",
        "annotate_layers",
        "select",
    ),
    "verbs.params": (
        "ParameterReport",
        "parameters",
    ),
    "verbs.extract": (
        "ExtractReport",
        "extract",
    ),
    "verbs.diff": (
        "DiffReport",
        "diff",
    ),
    "errors": (
        "HtpError",
        "ModelTooLargeError",
        "OnnxFileError",
        "PackageError",
        "TaggingError",
    ),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

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
