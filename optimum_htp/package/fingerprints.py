"""What an ONNX file is recognized by in the reports on it: its graph, and samples of its weights."""

from __future__ import annotations

from hashlib import sha256

from optimum_htp.onnxfile import SourceFiles, TensorField, graph_digest, rewrite_tensors
from optimum_htp.package.package import HtpFile

_SAMPLE_BYTES = 1 << 12  # of each tensor: those of two trainings differ from the first element on


def fingerprint(file: HtpFile) -> str:
    """The same for files with the same graph and the same weights, whatever they are called and however they are tagged.

    Of each tensor only the first 4 KiB count, and of one that lies in another file only its place there.

    Raises:
        OnnxFileError: The file is not an ONNX model.
    """
    digest = sha256(graph_digest(file.model).encode())
    with SourceFiles(file.path) as files:

        def add(tensor: TensorField) -> None:
            start, stop = tensor.content or (0, 0)
            sample = files.data[start : min(stop, start + _SAMPLE_BYTES)]
            digest.update(repr((tensor.name, tensor.entries, stop - start)).encode("utf-8", "surrogatepass"))
            digest.update(sample)

        rewrite_tensors(files.data, add)
    return digest.hexdigest()
