"""Model Explorer itself, started with a package, its figures, and what can measure more of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from optimum_htp.errors import HtpError
from optimum_htp.verbs.view.explorer.drawn import Drawn
from optimum_htp.verbs.view.explorer.verb import Gathered, Shown

LOOPBACK = "127.0.0.1"
DISTRIBUTIONS = ("ai-edge-model-explorer", "model-explorer-onnx")
EXTENSIONS = ["model_explorer_onnx", "optimum_htp.explorer_extension"]


def check_installed() -> None:
    """Raises HtpError if Model Explorer and its ONNX adapter are not installed."""
    for name in DISTRIBUTIONS:
        try:
            version(name)
        except PackageNotFoundError as error:
            advice = f"install it: pip install {' '.join(DISTRIBUTIONS)}"
            raise HtpError(f"Model Explorer is not installed ({name} is missing); {advice}") from error


def serve(gathered: Gathered, *, browser: bool = True) -> None:
    """Starts Model Explorer on this machine alone, and returns when it is interrupted.

    Raises HtpError if it is not installed, or could not tell two files apart.
    """
    check_installed()
    shown = gathered.shown
    models = {path: drawn for each in shown for path, drawn in _models(each)}
    paths = list(models)
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
    ids = _ids_together(list(models.values()))
    for each in shown:
        path = each.graph.model.path
        renamed = ids[paths.index(path)]
        for figure in each.figures:
            document = {renamed[graph]: values for graph, values in figure.document().items()}
            config.add_node_data(figure.name, json.dumps(document), model_name=path.name)
    model_explorer.visualize_from_config(config, host=LOOPBACK, extensions=EXTENSIONS, no_open_in_browser=not browser)


def _models(shown: Shown) -> list[tuple[Path, Drawn]]:
    """The files to load: that of the package, and with another package both, what the tool was given first."""
    if shown.sides is None:
        return [(shown.graph.model.path, shown.drawn)]
    return list(zip(shown.sides.models, shown.sides.drawn, strict=True))


def _ids_together(models: Sequence[Drawn]) -> list[dict[str, str]]:
    """What the graphs of each model are called where all are loaded: of those with the same id, all but the first."""
    seen: Counter[str] = Counter()
    renamed: list[dict[str, str]] = []
    for drawn in models:
        renamed.append({})
        for graph in drawn.graphs.values():
            seen[graph] += 1
            renamed[-1][graph] = graph if seen[graph] == 1 else f"{graph} ({seen[graph]})"
    return renamed
