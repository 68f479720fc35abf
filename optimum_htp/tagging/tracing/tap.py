"""The wrapper around `torch.onnx.export`."""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from optimum_htp.errors import ModelTooLargeError, reason
from optimum_htp.onnxfile import FileStamp, read_content, read_model, with_probes
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.tracing.dynamo import operations_carried, saving_noticed
from optimum_htp.tagging.tracing.recorder import CallRecorder
from optimum_htp.tagging.tracing.torchscript import writing_replaced
from optimum_htp.tagging.tracing.trace import ExportTrace

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

Tagger = Callable[[bytes, ExportTrace], "tuple[Iterable[bytes | memoryview], TaggedGraph] | None"]

_tap_lock = threading.RLock()


class ModuleTap:
    """Records every `torch.onnx.export` call of this thread while it is open; what it replaces is always restored.

    It holds a lock, so that exports of several threads take turns; calls of other threads are not recorded. `tagger`
    says what to write instead of the bytes that the TorchScript exporter is about to write, with the tags in them, or
    None. `place` gives the dotted path of an exported module in the whole model, or None. `done` is called with each
    export whose file has just been written.
    """

    def __init__(
        self,
        tagger: Tagger | None = None,
        *,
        place: Callable[[torch.nn.Module], str | None] | None = None,
        done: Callable[[ExportTrace], None] | None = None,
    ) -> None:
        self.exports: list[ExportTrace] = []  # in the order of the calls
        self.failures: dict[Path, Exception] = {}  # why an export could not be recorded
        self.tagged: dict[Path, TaggedGraph] = {}  # what was tagged while it was written; old metadata
        self.late: dict[Path, Exception] = {}  # why a file was written without its tags
        self.seconds = 0.0  # spent on reading and tagging
        self._stamps: dict[Path, FileStamp | None] = {}
        self._tagger = tagger
        self._place = place
        self._done = done
        self._original: Callable[..., Any] | None = None
        self._thread = 0
        self._patches = ExitStack()
        self._carries = False
        # What is recorded of the export that is running, and of the programs that the dynamo exporter returned.
        self._running: _Recorded | None = None
        self._programs: WeakKeyDictionary[object, _Recorded] = WeakKeyDictionary()

    def is_unchanged(self, file: Path) -> bool:
        """Whether a file was tagged while it was written, and nobody has written to it since."""
        stamp = self._stamps.get(file)
        return stamp is not None and stamp.holds(file)

    def __enter__(self) -> ModuleTap:
        import torch.onnx

        _tap_lock.acquire()
        try:
            self._thread = threading.get_ident()
            with ExitStack() as patches:
                patches.enter_context(saving_noticed(self._noticed))
                self._original = torch.onnx.export
                patches.callback(setattr, torch.onnx, "export", self._original)
                torch.onnx.export = self._export
                self._patches = patches.pop_all()
        except BaseException:
            _tap_lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._patches.close()
            self._carries = False
            self._place = None  # and the model that it looks at
            self._programs.clear()
        finally:
            _tap_lock.release()

    def _export(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        original = self._original
        assert original is not None  # set for as long as this method stands in for torch.onnx.export
        model: Any = args[0] if args else kwargs.get("model")
        target = args[2] if len(args) > 2 else kwargs.get("f")
        file = Path(target) if isinstance(target, (str, os.PathLike)) else None
        dynamo = _is_dynamo(original, kwargs)
        traceable = isinstance(model, torch.nn.Module) and not isinstance(model, torch.jit.ScriptModule)
        if threading.get_ident() != self._thread or not traceable or (file is None and not dynamo):
            if file is not None and isinstance(model, torch.export.ExportedProgram):
                logger.warning("%s is not tagged: its modules ran before. Export the module itself.", file.name)
            return original(*args, **kwargs)
        try:
            recorder = CallRecorder(model, dynamo=dynamo)
        except Exception as error:  # a model that can't be recorded can be exported all the same
            if file is not None:
                self.failures[file] = error
            return original(*args, **kwargs)
        recorded = _Recorded(recorder, file, self._place(model) if self._place is not None else None)
        if dynamo:
            return self._export_program(recorded, partial(original, *args, **kwargs))
        assert file is not None  # or nothing was written
        traced = recorded.traced
        written: list[ExportTrace] = []
        with recorder, writing_replaced(partial(self._write, traced, written) if self._tagger is not None else None):
            result = original(*args, **kwargs)
        with self._timed():
            try:
                if written or file.is_file():
                    self._add(written[-1] if written else traced(file))
            except Exception as error:  # Optimum's export goes on; whoever tags the file reports it
                self.failures[file] = error
        return result

    def _export_program(self, recorded: _Recorded, export: Callable[[], Any]) -> Any:
        """Lets the dynamo exporter make a program, which may be saved in the export, or later."""
        if not self._carries:  # until the end: programs may be optimized and saved later
            self._patches.enter_context(operations_carried())
            self._carries = True
        around, self._running = self._running, recorded
        try:
            with recorded.recorder:
                program = export()
        finally:
            self._running = around
        if program is not None:
            self._programs[program] = recorded
        if recorded.file is not None and not recorded.saved and recorded.file.is_file():  # by another exporter
            self._saved(program, recorded.file, recorded)
        return program

    def _noticed(self, program: Any, file: Path) -> None:
        """A program has written a file: the one that is asked for, when it is exported, or any that it is saved to later."""
        if threading.get_ident() != self._thread:
            return
        recorded = self._programs.get(program)
        if recorded is None and self._running is not None and self._running.file == file:
            recorded = self._running
        if recorded is not None:
            self._saved(program, file, recorded)

    def _saved(self, program: Any, file: Path, recorded: _Recorded) -> None:
        recorded.saved = True
        with self._timed():
            try:
                self._add(recorded.traced(file, program=program))
            except Exception as error:  # as above
                self.failures[file] = error

    def _add(self, export: ExportTrace) -> None:
        self.exports.append(export)
        if self._done is not None:
            self._done(export)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def _write(
        self, traced: Callable[[Path, bytes], ExportTrace], written: list[ExportTrace], content: bytes, file: Path
    ) -> bool:
        """Writes an exported file with its tags; False leaves it to the exporter."""
        assert self._tagger is not None  # or this method is not used
        with self._timed():
            try:
                export = traced(file, content)
                tagged = self._tagger(content, export)
            except Exception as error:  # Optimum's export goes on, and the tags are written when it is done
                self._give_up(file, error)
                return False
        written.append(export)
        if tagged is None:
            return False
        pieces, graph = tagged
        with file.open("wb") as opened:
            opened.writelines(pieces)
        self.tagged[file], self._stamps[file] = graph, FileStamp.put(file)
        return True

    def _give_up(self, file: Path, error: Exception) -> None:
        if isinstance(error, ModelTooLargeError):  # with its tags; whoever tags it later reports it
            return
        self.late[file] = error
        logger.warning(
            "%s is tagged when the export is done, and not while it is written: %s", file.name, reason(error)
        )


@dataclass(slots=True)
class _Recorded:
    """What was recorded of one export.

    Attributes:
        recorder: What it was recorded with.
        file: What it is to be written to; None if it is saved later.
        in_model: Where the exported module is in the whole model.
        saved: Whether the dynamo exporter has written a file of it.
    """

    recorder: CallRecorder
    file: Path | None
    in_model: str | None
    saved: bool = False

    def traced(self, file: Path, content: bytes | None = None, *, program: Any = None) -> ExportTrace:
        """The export as data, with the file as it was written, or what is about to be."""
        graph = read_model(file) if content is None else read_content(content, path=file)
        graph = with_probes(graph, content)  # now: what is made of the file later may take its place
        return ExportTrace(file, graph, self.recorder.trace(program), self.in_model)


def _is_dynamo(export: Callable[..., Any], given: dict[str, Any]) -> bool:
    """Whether a call of `torch.onnx.export` is one of the dynamo exporter, which is the default from torch 2.9 on."""
    if "dynamo" in given:
        return given["dynamo"] is True
    default = inspect.signature(export).parameters.get("dynamo")
    return default is not None and default.default is True


def place_in_model(module: torch.nn.Module, whole: object) -> str | None:
    """The dotted path of a module in a whole model, which is a module or a diffusers pipeline; None if not in it."""
    components = getattr(whole, "components", None) if not hasattr(whole, "named_modules") else None
    for name, part in (components if isinstance(components, dict) else {"": whole}).items():
        for path, inner in part.named_modules() if hasattr(part, "named_modules") else ():
            if inner is module:
                return ".".join(filter(None, (name, path)))
    return None
