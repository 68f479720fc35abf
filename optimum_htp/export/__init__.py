"""What exports: `main_export` and `export_module`."""

from __future__ import annotations

from optimum_htp.export.exporter import ExportResult, HTPExporter, main_export
from optimum_htp.export.module import export_module


__all__ = [
    "ExportResult",
    "HTPExporter",
    "export_module",
    "main_export",
]
