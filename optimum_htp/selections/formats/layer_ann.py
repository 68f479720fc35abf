"""ONNX Runtime's layer annotations: the session option that puts the nodes on a device."""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.selections.file_selection import FileSelection
from optimum_htp.selections.formats.base import SelectionFormat
from optimum_htp.selections.layer_annotations import MAX_SETTING_CHARACTERS, SESSION_OPTION


class _LayerAnnotations(SelectionFormat):
    """The option and its value, which selects nodes by their `layer_ann`."""

    use = "ONNX Runtime's session option that puts the nodes on a device by their layer_ann (--device)"
    checked = "onnxruntime 1.32.0"

    def lines(self, file: FileSelection, *, device: str) -> list[str]:
        return [f"{SESSION_OPTION}={file.layer_setting(device)}"]

    def notes(self, file: FileSelection, *, device: str) -> Iterator[str]:
        if len(file.layer_setting(device)) > MAX_SETTING_CHARACTERS:
            yield f"ONNX Runtime takes no setting of more than {MAX_SETTING_CHARACTERS:,} characters"


FORMAT = _LayerAnnotations()
