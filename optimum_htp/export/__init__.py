"""What exports: `main_export`, `export_module`, and `tag_exports` around exports of torch's own."""

from optimum_htp.export.exporter import ExportReport, HtpExporter, main_export
from optimum_htp.export.module import export_module
from optimum_htp.export.torch_exports import tag_exports
