"""What exports: `main_export` and `export_module`."""

from __future__ import annotations

from optimum_htp.export.exporter import ExportReport, HtpExporter, main_export
from optimum_htp.export.module import export_module


__all__ = [
    "ExportReport",
    "HtpExporter",
    "export_module",
    "main_export",
]
