"""The wrapper around `torch.onnx.export`."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.onnxfile import read_content, read_model
from optimum_htp.tagging.tracing.recorder import CallRecorder
from optimum_htp.tagging.tracing.torchscript import Written, writing_replaced
from optimum_htp.tagging.tracing.trace import ExportTrace


if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

Annotate = Callable[[bytes, ExportTrace], "Iterable[bytes | memoryview] | None"]

_tap_lock = threading.RLock()


class ModuleTap:
    """Records every `torch.onnx.export` call of this thread while it is open.

    A context manager. It holds a lock, so that exports of several threads take turns; calls of other threads pass
    through unrecorded. What it replaces is put back when it closes, whatever was raised.

    Attributes:
        exports: What was recorded, in the order of the calls.
        failures: For each file whose export could not be recorded, why.
        seconds: Wall-clock seconds spent on reading and annotating what was exported.
        whole_model: The model that exported modules are looked up in, set by whoever knows it.

    Args:
        annotate: What to write instead of the bytes of an exported file, given those and the trace; None for the
            bytes themselves.

    Example:
        >>> with ModuleTap() as tap:                          # doctest: +SKIP
        ...     torch.onnx.export(model, args, "model.onnx", dynamo=False)
        >>> tap.exports[0].trace.tree.root.class_name         # doctest: +SKIP
        'Net'
    """

    def __init__(self, annotate: Annotate | None = None) -> None:
        self.exports: list[ExportTrace] = []
        self.failures: dict[Path, Exception] = {}
        self.seconds: float = 0.0
        self.whole_model: object = None
        self._annotate = annotate
        self._original: Callable[..., Any] | None = None
        self._thread = 0

    def __enter__(self) -> ModuleTap:
        import torch.onnx

        _tap_lock.acquire()
        try:
            self._thread = threading.get_ident()
            self._original = torch.onnx.export
            torch.onnx.export = self._export
        except BaseException:
            if self._original is not None:
                torch.onnx.export = self._original
            _tap_lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import torch.onnx

        try:
            torch.onnx.export = self._original  # type: ignore[assignment]
            self.whole_model = None
        finally:
            _tap_lock.release()

    def _export(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        original = self._original
        assert original is not None  # set for as long as this method stands in for torch.onnx.export
        model: Any = args[0] if args else kwargs.get("model")
        target = args[2] if len(args) > 2 else kwargs.get("f")
        traceable = isinstance(model, torch.nn.Module) and not isinstance(model, torch.jit.ScriptModule)
        if threading.get_ident() != self._thread or not traceable or not isinstance(target, (str, os.PathLike)):
            return original(*args, **kwargs)
        try:
            recorder = CallRecorder(model)
        except Exception as error:  # a model that can't be looked at can be exported all the same
            self.failures[Path(target)] = error
            return original(*args, **kwargs)
        written: list[ExportTrace] = []

        def annotated(content: bytes, file: Path) -> Iterable[bytes | memoryview] | None:
            export = self._traced(recorder, model, file, content)
            pieces = self._annotate(content, export) if self._annotate is not None else None
            written.append(export)
            return pieces

        with recorder, writing_replaced(self._timed(annotated) if self._annotate is not None else None):
            result = original(*args, **kwargs)
        file = Path(target)
        started = time.perf_counter()
        try:
            if written or file.is_file():
                self.exports.append(written[-1] if written else self._traced(recorder, model, file))
        except Exception as error:  # Optimum's export goes on; whoever tags the file tells
            self.failures[file] = error
        self.seconds += time.perf_counter() - started
        return result

    def _traced(
        self, recorder: CallRecorder, model: torch.nn.Module, file: Path, content: bytes | None = None
    ) -> ExportTrace:
        graph = read_model(file) if content is None else read_content(content, path=file)
        return ExportTrace(file, graph, recorder.trace(), _place(model, self.whole_model))

    def _timed(self, annotated: Written) -> Written:
        """Counts the time of it, and lets the exporter write what it has where it fails: the pass comes back later."""

        def timed(content: bytes, file: Path) -> Iterable[bytes | memoryview] | None:
            started = time.perf_counter()
            try:
                return annotated(content, file)
            except Exception as error:
                logger.debug("%s was not tagged while it was written: %s", file, error)
                return None
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def _place(module: torch.nn.Module, whole: object) -> str | None:
    """The dotted path of a module in a whole model: a module, or a diffusers pipeline; None where it is not in it."""
    components = getattr(whole, "components", None) if not hasattr(whole, "named_modules") else None
    for name, part in (components if isinstance(components, dict) else {"": whole}).items():
        for path, inner in part.named_modules() if hasattr(part, "named_modules") else ():
            if inner is module:
                return ".".join(filter(None, (name, path)))
    return None
