"""The graph that ONNX Runtime makes of a file and really runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from optimum_htp.models.runtime import DEFAULT_PROVIDER, open_session, session_options
from optimum_htp.onnxfile import OnnxModel, external_data_files, read_model


def optimized_graph(model: OnnxModel, *, provider: str = DEFAULT_PROVIDER) -> OnnxModel:
    """The graph of a session with ONNX Runtime's defaults. Raises HtpError if it can't load the file, or write the graph."""
    with tempfile.TemporaryDirectory(prefix="optimum-htp-") as directory:
        written = Path(directory, "optimized.onnx")
        options = session_options(threads=1)
        write_optimized(options, model, written)
        open_session(model.path, options, provider=provider, name=str(model.path))
        return read_model(written)


def write_optimized(options: Any, model: OnnxModel, target: Path) -> None:
    """Has a session write the graph that it makes of a file, with its weights apart where the file has them so."""
    options.optimized_model_filepath = str(target)
    if external_data_files(model):  # may be too large for one file
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(prefix + "file_name", "optimized.data")
        options.add_session_config_entry(prefix + "min_size_in_bytes", "1024")
