"""Model Explorer itself, started with a package, its figures, and what can measure more of them."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from optimum_htp.errors import HtpError
from optimum_htp.verbs.view.explorer.verb import Gathered, Shown

LOOPBACK = "127.0.0.1"
EXTENSIONS = ["model_explorer_onnx", "optimum_htp.explorer_extension"]


def check_installed() -> None:
    """Raises HtpError if Model Explorer and its ONNX adapter can't be started here."""
    missing = [name for name in ("model_explorer", "model_explorer_onnx") if find_spec(name) is None]
    if missing:
        raise HtpError(
            "Model Explorer is not installed; install it: pip install ai-edge-model-explorer model-explorer-onnx"
        )


def serve(gathered: Gathered, *, browser: bool = True) -> None:
    """Starts Model Explorer on this machine alone, and returns when it is interrupted.

    Raises HtpError if it is not installed, or could not tell two files apart.
    """
    check_installed()
    shown = gathered.shown
    paths = list(dict.fromkeys(path for each in shown for path in _models(each)))
    names = Counter(path.name for path in paths)
    same = [str(path) for path in paths if names[path.name] > 1]
    if same:
        raise HtpError(
            f"Model Explorer tells models apart by the names of their files, and these have the same: {', '.join(same)}; "
            "choose one with --file, or give one another name"
        )
    import model_explorer

    config = model_explorer.config()
    for path in paths:
        config.add_model_from_path(str(path))
    for each in shown:
        for figure in each.figures:
            config.add_node_data(figure.name, json.dumps(figure.document()), model_name=each.graph.model.path.name)
    model_explorer.visualize_from_config(config, host=LOOPBACK, extensions=EXTENSIONS, no_open_in_browser=not browser)


def _models(shown: Shown) -> list[Path]:
    """The files to load: that of the package, and with another package both, what the tool was given first."""
    return [shown.graph.model.path] if shown.sides is None else list(shown.sides[:2])
