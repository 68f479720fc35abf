"""What exports: `main_export` and `export_module`."""

from optimum_htp.export.exporter import ExportReport, HtpExporter, main_export
from optimum_htp.export.module import export_module
