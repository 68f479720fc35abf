"""The process of `--load`: reads what to do from its standard input, and writes each result as soon as it has it."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HtpError, PackageError, reason
from optimum_htp.onnxfile import external_data_files, limit_process_memory, out_of_memory, read_model
from optimum_htp.package import is_inside
from optimum_htp.verbs.validate.report import FAILED, OK, SKIPPED, WARNING

if TYPE_CHECKING:
    from optimum_htp.verbs.validate.contents import Contents

_Result = tuple[str, str, str]

# What ONNX Runtime has in ONNX's own domain, and ONNX has not.
_OF_RUNTIME = frozenset(("SimplifiedLayerNormalization", "FusedConv", "Inverse"))
_SOCKET_EVENTS = {f"socket.{event}" for event in "connect getaddrinfo gethostbyname sendto sendmsg bind".split()}


def main() -> None:
    """Checks, loads and runs the package that standard input names."""
    sys.addaudithook(_no_network)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    request = json.loads(sys.stdin.read())
    results: dict[str, _Result] = {}
    run = _Run(request)
    with suppress(ImportError):  # it is needed for what Optimum exports; what it takes does not count
        import optimum.onnxruntime  # noqa: F401
    import onnxruntime  # noqa: F401

    limit_process_memory(request["max_memory_bytes"])
    for name, work in (("checker", run.checker), ("load", run.load), ("run", run.run)):
        results[name] = work()
        Path(request["result"]).write_text(json.dumps(results), encoding="utf-8")


def _no_network(event: str, _: tuple[Any, ...]) -> None:
    if event in _SOCKET_EVENTS:
        raise OSError("optimum_htp validates without network")


class _Run:
    """The package, and the model once it is loaded."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.model: Any = None
        self.sessions: dict[str, Any] = {}  # of a package of components, by file

    def checker(self) -> _Result:
        import onnx

        for file in map(Path, self.request["files"]):
            try:
                with _without_links(file) as unlinked:
                    onnx.checker.check_model(unlinked)
            except Exception as error:  # of several kinds, ValidationError and protobuf's among them
                unknown = re.search(r"No Op registered for (\w+) ", str(error))
                if unknown is not None and unknown[1] in _OF_RUNTIME:
                    what = f"{file.name} has ONNX Runtime's own {unknown[1]} among ONNX's operators, and onnx does not know it"
                    return SKIPPED, what, ""
                return FAILED, f"{file.name}: {reason(error)}", "export the package again"
        return OK, f"onnx {onnx.__version__} finds nothing wrong", ""

    def load(self) -> _Result:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        if self._contents.components:
            return self._load_components()
        from optimum_htp.models import AutoModelForONNX

        try:
            self.model = AutoModelForONNX.from_pretrained(
                self.request["path"],
                task=self.request["task"],
                provider="CPUExecutionProvider",
                trust_remote_code=self.request["trust_remote_code"],
            )
        except PackageError as error:
            return self._load_singly(error)
        except HtpError as error:
            if isinstance(error.__cause__, ImportError):
                return SKIPPED, str(error), ""
            return FAILED, str(error), ""
        except Exception as error:  # whatever Optimum, transformers or ONNX Runtime raise
            return FAILED, f"it can't be loaded: {out_of_memory(error) or reason(error)}", ""
        return OK, f"loaded as {type(self.model).__name__}", ""

    def _load_components(self) -> _Result:
        """Whether ONNX Runtime loads each component, as transformers does."""
        import onnxruntime

        for name, file in self._contents.files.items():
            try:
                self.sessions[name] = onnxruntime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
                return FAILED, f"{name} can't be loaded: {out_of_memory(error) or reason(error)}", ""
        return OK, f"ONNX Runtime loads {' and '.join(self.sessions)}", ""

    def _load_singly(self, problem: PackageError) -> _Result:
        """Several files that Optimum has no class for: whether ONNX Runtime loads each of them."""
        import onnxruntime

        if len(self.request["files"]) < 2:
            return FAILED, str(problem), ""
        for file in self.request["files"]:
            try:
                onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime raises exceptions of its own C++ module
                return FAILED, f"{Path(file).name} can't be loaded: {out_of_memory(error) or reason(error)}", ""
        message = f"ONNX Runtime loads each of {len(self.request['files'])} files, but no class of Optimum all of them"
        return WARNING, f"{message}: {problem}", ""

    def run(self) -> _Result:
        if self._contents.components and len(self.sessions) == len(self._contents.files):
            from optimum_htp.verbs.validate.component_steps import run_components

            return run_components(self._contents, self.sessions)
        if self.model is None:
            return SKIPPED, "the package was not loaded as a whole", ""
        described = ""
        for where, inputs in self._calls():
            try:
                given = inputs()
            except HtpError as error:
                return SKIPPED, f"no inputs to run it on: {error}", ""
            try:
                outputs = self.model(**given)
            except Exception as error:  # whatever Optimum or ONNX Runtime raise
                if not described:
                    return FAILED, f"it loads, but can't be run: {out_of_memory(error) or reason(error)}", ""
                advice = "an axis was traced as a constant: export it again, or without that axis in dynamic_axes"
                return FAILED, f"it runs, but not{where}: {out_of_memory(error) or reason(error)}", advice
            described += f"; {where.strip()} too" if described else f"gave {_described(outputs)}"
        return OK, described, ""

    def _calls(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """What to call the model with, and how that differs from the call before."""
        if hasattr(self.model, "components"):
            prompt = {"prompt": "a photo of a cat", "num_inference_steps": 1, "output_type": "np"}
            yield "", lambda: prompt
            return
        task = self.request["task"] or self._contents.plain_task
        if task is not None:
            yield "", lambda: self._inputs(task)
            return
        # Nothing but the graph says what it takes: then it takes what the graph says.
        yield "", self._graph_inputs
        session = getattr(self.model, "session", None)
        inputs = session.get_inputs() if session is not None else ()
        if any(isinstance(axis, str) for value in inputs for axis in value.shape):
            yield " at other sizes", lambda: self._graph_inputs(more=1)

    @cached_property
    def _contents(self) -> Contents:
        from optimum_htp.verbs.validate.contents import Contents

        return Contents(self.request["path"])

    def _inputs(self, task: str) -> dict[str, Any]:
        """Inputs for the whole model: Optimum's for the architecture, else by the inputs of the graph."""
        from optimum_htp.models import dummy_inputs, fixed_sizes

        contents = self._contents
        try:
            made = dummy_inputs(
                self.model.config,
                task=task.removesuffix("-with-past"),
                library=contents.library or "transformers",
                shapes=fixed_sizes(value for model in contents.readable.values() for value in model.graph.inputs),
                directory=contents.directory,
            )
        except HtpError:
            made = self._graph_inputs()
        if hasattr(self.model, "encoder") or (hasattr(self.model, "can_generate") and self.model.can_generate()):
            return {name: value for name, value in made.items() if not name.startswith("past_key_values")}
        names = set(getattr(self.model, "input_names", None) or ())
        if names - made.keys():
            made = {**self._graph_inputs(), **made}
        return {name: value for name, value in made.items() if name in names}

    def _graph_inputs(self, *, more: int = 0) -> dict[str, Any]:
        """Inputs by the types and sizes of the session; axes of no fixed size are that much longer than usual."""
        import torch

        session = getattr(self.model, "session", None)
        if session is None:
            raise HtpError("the model has several graphs")
        sizes = {"batch_size": 2, "sequence_length": 16, "num_channels": 3, "height": 64, "width": 64}
        made = {}
        for value in session.get_inputs():
            shape = [size if isinstance(size, int) else sizes.get(str(size), 2) + more for size in value.shape]
            kind = value.type.removeprefix("tensor(").removesuffix(")")  # torch has the names of ONNX Runtime's types
            made[value.name] = torch.ones(shape, dtype=getattr(torch, kind, torch.float32))
        return made


@contextmanager
def _without_links(file: Path) -> Iterator[Path]:
    """A file for onnx's checker: itself, or where its external data is behind links, a copy beside empty files.

    The checker takes neither symbolic nor hard links, and looks whether the data is there, not what is in it.
    """
    locations = external_data_files(read_model(file))
    if not any((file.parent / location).is_symlink() for location in locations):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="optimum-htp-") as scratch:
        for location in locations:
            target = Path(scratch, location)
            if is_inside(target, Path(scratch)) and (file.parent / location).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
        yield Path(shutil.copy(file, scratch))


def _described(outputs: Any) -> str:
    if hasattr(outputs, "images"):
        return f"images of the shape {list(getattr(outputs.images, 'shape', [len(outputs.images)]))}"
    items = list(outputs.items()) if hasattr(outputs, "items") else [("output", outputs)]
    shapes = [f"{name} {list(value.shape)}" for name, value in items if hasattr(value, "shape")]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    return (", ".join(shapes[:4]) or f"{len(items)} outputs") + more
