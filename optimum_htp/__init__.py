"""Optimum's ONNX export, with every node knowing the PyTorch module that it comes from.

The public names are loaded when they are first used: importing this package imports no other library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # fmt: off
    # isort: off
    from optimum_htp.errors import (
        HtpError as HtpError, ModelTooLargeError as ModelTooLargeError, OnnxFileError as OnnxFileError,
        PackageError as PackageError, TaggingError as TaggingError, UnknownNameError as UnknownNameError,
    )
    from optimum_htp.export import (
        ExportReport as ExportReport, HtpExporter as HtpExporter, export_module as export_module,
        main_export as main_export, tag_exports as tag_exports,
    )
    from optimum_htp.hierarchy import (
        CallTree as CallTree, Hierarchy as Hierarchy, ModuleCall as ModuleCall, ModuleInfo as ModuleInfo,
        ModulePattern as ModulePattern, ModuleTree as ModuleTree, NodeTag as NodeTag, Root as Root,
        Roots as Roots,
    )
    from optimum_htp.methods import HtpPackage as HtpPackage, load_package as load_package
    from optimum_htp.models import AutoModelForONNX as AutoModelForONNX, Errors as Errors
    from optimum_htp.onnxfile import (
        Function as Function, Graph as Graph, Initializer as Initializer, Node as Node, OnnxModel as OnnxModel,
        Value as Value,
    )
    from optimum_htp.package import (
        Derivation as Derivation, ExternalTensor as ExternalTensor, FileRecord as FileRecord,
        HtpFile as HtpFile, HtpOptions as HtpOptions, PackedFiles as PackedFiles, PythonLine as PythonLine,
        Sidecar as Sidecar, StoredParameter as StoredParameter, TagCounts as TagCounts,
    )
    from optimum_htp.selections import (
        FileSelection as FileSelection, SelectedNode as SelectedNode, Selection as Selection,
    )
    from optimum_htp.tagging import TaggedGraph as TaggedGraph
    from optimum_htp.verbs.compare import (
        CallComparison as CallComparison, CompareReport as CompareReport, Culprit as Culprit,
        PartComparison as PartComparison, compare as compare,
    )
    from optimum_htp.verbs.diff import (
        Change as Change, Compared as Compared, ContentChange as ContentChange, DiffReport as DiffReport,
        FileDiff as FileDiff, ModuleDiff as ModuleDiff, ModuleSide as ModuleSide, diff as diff,
    )
    from optimum_htp.verbs.explain import (
        Advice as Advice, Explained as Explained, ExplainReport as ExplainReport, explain as explain,
    )
    from optimum_htp.verbs.expose import (
        ExposedTensor as ExposedTensor, ExposeReport as ExposeReport, NotExposed as NotExposed, expose as expose,
    )
    from optimum_htp.verbs.extract import ExtractReport as ExtractReport, extract as extract
    from optimum_htp.verbs.functions import (
        FunctionCall as FunctionCall, FunctionsReport as FunctionsReport, ModuleFunction as ModuleFunction,
        NoFunction as NoFunction, functions as functions,
    )
    from optimum_htp.verbs.pack import PackReport as PackReport, pack as pack
    from optimum_htp.verbs.params import ParameterRow as ParameterRow, ParamsReport as ParamsReport, params as params
    from optimum_htp.verbs.profile import (
        CallTime as CallTime, FusedTime as FusedTime, GroupTime as GroupTime, Kernel as Kernel,
        Microseconds as Microseconds, ModuleDelta as ModuleDelta, ModuleTime as ModuleTime, NodeTime as NodeTime, OpTime as OpTime,
        PhaseDelta as PhaseDelta, PhaseProfile as PhaseProfile, ProfileDelta as ProfileDelta,
        ProfileReport as ProfileReport, Work as Work, profile as profile,
    )
    from optimum_htp.verbs.project import (
        FileProjection as FileProjection, ProjectReport as ProjectReport, project as project,
    )
    from optimum_htp.verbs.ranges import (
        CallRanges as CallRanges, PhaseRanges as PhaseRanges, RangesReport as RangesReport,
        TensorRange as TensorRange, ranges as ranges,
    )
    from optimum_htp.verbs.select import (
        select as select, write_layer_annotations as write_layer_annotations,
    )
    from optimum_htp.verbs.strip import StripReport as StripReport, strip as strip
    from optimum_htp.verbs.tag import TagReport as TagReport, tag as tag
    from optimum_htp.verbs.tree import (
        FileTree as FileTree, ModuleRow as ModuleRow, NodeRow as NodeRow, TreeReport as TreeReport,
        tree as tree,
    )
    from optimum_htp.verbs.unpack import UnpackReport as UnpackReport, unpack as unpack
    from optimum_htp.verbs.validate import (
        Check as Check, ValidationReport as ValidationReport, validate as validate,
        validate_optimum_compatibility as validate_optimum_compatibility,
    )
    from optimum_htp.verbs.view import (
        ExplorerFile as ExplorerFile, ExplorerReport as ExplorerReport, ViewReport as ViewReport,
        model_explorer as model_explorer, view as view,
    )
    # isort: on
    # fmt: on


__version__ = "0.1.0"

# The room that hands each public name out, in the order of docs/reference.md; a test holds the imports above to it.
_ROOMS = {
    "export": "ExportReport HtpExporter export_module main_export tag_exports",
    "methods": "HtpPackage load_package",
    "package": (
        "Derivation ExternalTensor FileRecord HtpFile HtpOptions PackedFiles PythonLine Sidecar StoredParameter TagCounts"
    ),
    "hierarchy": "Hierarchy ModuleInfo ModulePattern ModuleTree NodeTag CallTree ModuleCall Root Roots",
    "onnxfile": "Function Graph Initializer Node OnnxModel Value",
    "tagging": "TaggedGraph",
    "models": "AutoModelForONNX Errors",
    "verbs.tree": "FileTree ModuleRow NodeRow TreeReport tree",
    "verbs.tag": "TagReport tag",
    "verbs.project": "FileProjection ProjectReport project",
    "verbs.strip": "StripReport strip",
    "verbs.validate": "Check ValidationReport validate validate_optimum_compatibility",
    "verbs.pack": "PackReport pack",
    "verbs.unpack": "UnpackReport unpack",
    "verbs.profile": (
        "CallTime FusedTime GroupTime Kernel Microseconds ModuleDelta ModuleTime NodeTime OpTime PhaseDelta "
        "PhaseProfile ProfileDelta ProfileReport Work profile"
    ),
    "verbs.compare": "CallComparison CompareReport Culprit PartComparison compare",
    "verbs.ranges": "CallRanges PhaseRanges RangesReport TensorRange ranges",
    "verbs.select": "select write_layer_annotations",
    "selections": "FileSelection SelectedNode Selection",
    "verbs.params": "ParameterRow ParamsReport params",
    "verbs.extract": "ExtractReport extract",
    "verbs.expose": "ExposedTensor ExposeReport NotExposed expose",
    "verbs.functions": "FunctionCall FunctionsReport ModuleFunction NoFunction functions",
    "verbs.explain": "Advice Explained ExplainReport explain",
    "verbs.diff": "Change Compared ContentChange DiffReport FileDiff ModuleDiff ModuleSide diff",
    "verbs.view": "ExplorerFile ExplorerReport ViewReport model_explorer view",
    "errors": "HtpError ModelTooLargeError OnnxFileError PackageError TaggingError UnknownNameError",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}

# Names of before 0.1.0 that go on working.
_ALIASES = {
    "ExportResult": "ExportReport",
    "HTPExporter": "HtpExporter",
    "ParameterReport": "ParamsReport",
    "ProjectionReport": "ProjectReport",
    "TaggingResult": "TagReport",
    "annotate_layers": "write_layer_annotations",
    "parameters": "params",
    "tag_package": "tag",
}

__all__ = (*_HOMES, "__version__")


if not TYPE_CHECKING:  # or type checkers would take any name for one of ours

    def __getattr__(name: str) -> object:
        """Loads a public name when it is first used (PEP 562)."""
        name = _ALIASES.get(name, name)
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
