"""What measures from inside Model Explorer: `profile` gives each node its time, and `compare` its error.

A node data provider (`model_explorer.node_data_provider`, as it is since 0.1.30): it says what to ask for in a dialog, and
answers with the values of the nodes of one graph. It is tested with the release that the extra `test` installs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from re import sub
from typing import Any

from model_explorer import node_data_builder, node_data_provider
from model_explorer.config_editor import TextInputConfigEditor

from optimum_htp.errors import HtpError
from optimum_htp.package import HtpPackage
from optimum_htp.verbs.compare import compare
from optimum_htp.verbs.profile import profile
from optimum_htp.verbs.view import Figure, gather

PROFILE = "optimum_htp_profile"
COMPARE = "optimum_htp_compare"

_ONNX = node_data_provider.NodeDataProviderFilter(modelFileExts=["onnx"])
_NUMBERS = {
    "batch_size": ("Batch size", "Examples at once.", 1),
    "sequence_length": ("Sequence length", "Tokens of each, where the model takes text.", None),
    "runs": ("Runs", "Runs that count.", 10),
}
_PATHS = {
    "reference": ("Package", "The package to compare with: before quantization, say."),
    "model": ("Model", "Or the PyTorch model that it was exported from: a directory, or an id on the Hub."),
}


class Measurements(node_data_provider.NodeDataProvider):  # type: ignore[misc]  # it has no type information
    """Measures the model that is shown."""

    metadata = [  # noqa: RUF012 (that of the base class is no ClassVar)
        node_data_provider.NodeDataProviderMetadata(
            id=PROFILE,
            name="optimum-htp: time and memory",
            description="Runs the model in ONNX Runtime; shows the time and the memory of the kernel that makes each node's output.",
            icon="timer",
            filter=_ONNX,
        ),
        node_data_provider.NodeDataProviderMetadata(
            id=COMPARE,
            name="optimum-htp: error",
            description="Compares each module call with another package, or with PyTorch, and shows what it adds itself.",
            icon="difference",
            filter=_ONNX,
        ),
    ]

    def get_config_editors(self, provider_id: str) -> Any:
        """What the dialog asks for."""
        names = [name for name in _NUMBERS if provider_id == PROFILE or name != "runs"]
        editors = [
            TextInputConfigEditor(
                id=name,
                label=_NUMBERS[name][0],
                description=_NUMBERS[name][1],
                number=True,
                defaultValue=_NUMBERS[name][2],
            )
            for name in names
        ]
        if provider_id == COMPARE:
            paths = ((name, *texts) for name, texts in _PATHS.items())
            editors[:0] = [
                TextInputConfigEditor(id=name, label=label, description=text) for name, label, text in paths
            ]
        return node_data_provider.GetConfigEditorsResult(configEditors=editors)

    def run(
        self, provider_id: str, model_path: str, graph_id: str, config_values: Mapping[str, Any], graph: Any = None
    ) -> Any:
        """The values of the nodes of one graph; what is at fault is shown to the user as it stands."""
        try:
            documents = [figure.document() for figure in _measured(provider_id, model_path, config_values)]
            # Of several models that are open, graphs of the same name are numbered.
            for name in (graph_id, sub(r" \(\d+\)$", "", graph_id)):
                data = [_node_data(document[name]) for document in documents if name in document]
                if data:
                    break
            if not data:
                raise HtpError(f"nothing that was measured is a node of {graph_id}")
        except HtpError as error:
            return node_data_provider.NodeDataProviderResult(error=str(error))
        return node_data_provider.NodeDataProviderResult(result=data)


def _measured(provider_id: str, path: str, values: Mapping[str, Any]) -> Iterator[Figure]:
    batch_size, sequence_length, runs = (_number(name, values.get(name)) for name in _NUMBERS)
    reference, model = (str(values.get(name) or "").strip() or None for name in _PATHS)
    package = HtpPackage(path)
    if provider_id == PROFILE:
        times = profile(
            package, batch_size=batch_size, sequence_length=sequence_length, runs=10 if runs is None else runs
        )
        gathered = gather(package, profile=times)
    elif reference is None and model is None:
        raise HtpError("give what to compare with: a package, or the PyTorch model")
    else:
        errors = compare(
            package, reference=reference, model=model, batch_size=batch_size, sequence_length=sequence_length
        )
        gathered = gather(package, compare=errors)
    yield from (figure for each in gathered.shown for figure in each.figures if figure.measured)


def _number(name: str, value: Any) -> int | None:
    if value in (None, ""):
        return None
    digits = "" if isinstance(value, bool) else str(value).strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and int(digits)):
        raise HtpError(f"{_NUMBERS[name][0]}: {value!r:.80} is not a whole number, 1 or more")
    return int(digits)


def _node_data(document: Mapping[str, Any]) -> Any:
    """A figure in Model Explorer's classes."""
    builder = node_data_builder
    return builder.GraphNodeData(
        **{
            **document,
            "results": {node: builder.NodeDataResult(**result) for node, result in document["results"].items()},
            "thresholds": [builder.ThresholdItem(**item) for item in document.get("thresholds", ())],
            "gradient": [builder.GradientItem(**item) for item in document.get("gradient", ())],
        }
    )
