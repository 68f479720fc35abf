"""Optimum's `main_export`, watched: what it exports and finds out, and what its validation says of that."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.models import SourceFiles, local_models, model_facts, only_libraries, source_files
from optimum_htp.package import StagedDirectory, name_output, preprocessors_of
from optimum_htp.tagging import ModuleTap, Tagger, place_in_model

# What the sidecar says of the arguments of `main_export`, and those that have another name there.
_DESCRIBED = "model subfolder revision task library opset dtype optimize slim trust_remote_code".split()
_ARGUMENTS = {"model": "model_name_or_path", "library": "library_name"}
_WHERE = ("revision", "cache_dir", "token", "local_files_only")


@dataclass(slots=True)
class Exported:
    """What an export left in a staged directory.

    Attributes:
        tap: What was seen of it; closed.
        source: What the sidecar says of the source.
        files: The small files of the source; None if it is no directory and no id, or they can't be had.
        doubt: What Optimum's validation raised; None if it agreed, or was not asked.
        failure: What Optimum then raised, with the files all written.
    """

    tap: ModuleTap
    source: dict[str, Any]
    files: SourceFiles | None = None
    doubt: Exception | None = None
    failure: Exception | None = None


def run_optimum(arguments: dict[str, Any], staging: StagedDirectory, tagger: Tagger) -> Exported:
    """Lets Optimum export into a staged directory. Raises what it does, unless just its validation did."""
    from optimum.exporters.onnx import __main__ as optimum_main

    bound = inspect.signature(optimum_main.main_export).bind(**arguments)
    model = bound.arguments["model_name_or_path"] = _name_of(arguments["model_name_or_path"])
    bound.arguments["output"] = staging.path
    where = {name: bound.arguments.get(name) for name in _WHERE}
    subfolder = str(bound.arguments.get("subfolder") or "")
    trust, library = bool(bound.arguments.get("trust_remote_code")), bound.arguments.get("library_name")
    failure = None
    with only_libraries(model, trust_remote_code=trust, library=library, subfolder=subfolder, **where):
        files = source_files(model, subfolder=subfolder, **where)
        with _watched(staging, tagger) as seen, _read_from(files), _local_timm(subfolder, where):
            try:
                optimum_main.main_export(*bound.args, **bound.kwargs)
            except Exception as error:
                if not seen.is_doubt(error):
                    raise
                failure = error
    for said in filter(None, (seen.doubt, failure)):
        name_output(said)
    described = {name: bound.arguments.get(_ARGUMENTS.get(name, name)) for name in _DESCRIBED}
    return Exported(seen.tap, _known(described) | seen.facts, files, seen.doubt, failure)


def _name_of(model: Any) -> str:
    """The id or the path of a model, as Optimum takes it."""
    if not isinstance(model, (str, os.PathLike)):
        advice = "give its id on the Hub or its directory; a model that is loaded is exported by `export_module`"
        raise HtpError(f"can't export a {type(model).__name__}: {advice}")
    return os.fspath(model)


def _local_timm(subfolder: str, where: dict[str, Any]) -> Any:
    return local_models(subfolder=subfolder, revision=where["revision"], cache_dir=where["cache_dir"])


@dataclass(slots=True)
class _Seen:
    """What is seen of Optimum's export while it runs."""

    tap: ModuleTap
    facts: dict[str, Any] = field(default_factory=dict)  # of the source, for the sidecar
    doubt: Exception | None = None  # what its validation raised

    def is_doubt(self, error: BaseException | None) -> bool:
        """Whether an error is what the validation raised, or was raised from that: the export itself is done."""
        while error is not None and error is not self.doubt:
            error = error.__cause__
        return error is not None


@contextmanager
def _watched(staging: StagedDirectory, tagger: Tagger) -> Iterator[_Seen]:
    """Watches Optimum's export; what is yielded is filled in as it becomes known."""
    from optimum.exporters.onnx import __main__ as optimum_main, convert

    model: object = None
    with ExitStack() as stack:
        # First: its lock is what makes exports take turns.
        tap = stack.enter_context(ModuleTap(tagger, place=lambda module: place_in_model(module, model)))
        seen = _Seen(tap)

        def exporting(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def observed(*args: Any, **kwargs: Any) -> Any:
                nonlocal model
                given = inspect.signature(original).bind(*args, **kwargs).arguments
                model = given.get("model")
                known = {"task": given.get("task"), "opset": given.get("opset"), **model_facts(model)}
                seen.facts.update(_known(known))
                try:
                    return original(*args, **kwargs)
                finally:
                    model = None

            return observed

        _stand_in(stack, optimum_main, "onnx_export_from_model", exporting)
        _watch_validation(stack, convert, seen)
        stack.enter_context(_paths_in_logs(str(staging.path), str(staging.output)))
        yield seen


def _watch_validation(stack: ExitStack, convert: Any, seen: _Seen) -> None:
    """Keeps what Optimum's validation raises. What Optimum itself then makes of it stays as it is."""
    of_models: list[Exception] = []

    def of_one(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def observed(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except Exception as error:
                of_models.append(error)
                raise

        return observed

    def of_all(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def observed(*args: Any, **kwargs: Any) -> Any:
            of_models.clear()
            try:
                return original(*args, **kwargs)
            except IndexError as error:
                # Where three models fail, Optimum 2 takes the third part of a pair when it logs them. What it means to
                # raise is what the last one raised.
                seen.doubt = of_models[-1] if of_models else error
                raise seen.doubt from None
            except Exception as error:
                seen.doubt = error
                raise

        return observed

    _stand_in(stack, convert, "validate_model_outputs", of_one)
    _stand_in(stack, convert, "validate_models_outputs", of_all)


@contextmanager
def _read_from(files: SourceFiles | None) -> Iterator[None]:
    """Makes Optimum read tokenizer and processor of a model from where its weights are from.

    It reads them by the name alone: those of another revision, or of another cache, or none, and not in the subfolder.
    """
    from optimum.exporters.onnx import __main__ as optimum_main, convert

    if files is None:
        yield
        return
    place = next((place for place in files.places if any(preprocessors_of(place).values())), files.directory)

    def elsewhere(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def read(source: Any, *args: Any, subfolder: str = "", **kwargs: Any) -> Any:
            if str(source) == files.model:
                return original(str(place), *args, **kwargs)
            return original(source, *args, **({"subfolder": subfolder} if subfolder else {}), **kwargs)

        return read

    def tokenizer_elsewhere(original: Any) -> Any:
        def from_pretrained(source: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original.from_pretrained(str(place) if str(source) == files.model else source, *args, **kwargs)
            except Exception as error:  # of several libraries, and none says what Optimum wants of a tokenizer
                advice = "give --pad_token_id N (pad_token_id=)"
                why = "its config has no pad_token_id, and no tokenizer that can be loaded says it"
                raise HtpError(f"{files.model}: {why}; {advice}") from error

        return type("AutoTokenizer", (original,), {"from_pretrained": staticmethod(from_pretrained)})

    with ExitStack() as stack:
        _stand_in(stack, optimum_main, "maybe_load_preprocessors", elsewhere)
        _stand_in(stack, convert, "maybe_save_preprocessors", elsewhere)
        _stand_in(stack, optimum_main, "AutoTokenizer", tokenizer_elsewhere)
        yield


def _stand_in(stack: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replaces what an owner has of a name, if it does, by what is made of it, until the stack is closed."""
    original = getattr(owner, name, None)
    if original is not None:
        stack.callback(setattr, owner, name, original)
        setattr(owner, name, make(original))


@contextmanager
def _paths_in_logs(staged: str, output: str) -> Iterator[None]:
    """Optimum's log lines name the directory that the user gave, not the one that is staged."""
    handlers = [handler for name in (None, "optimum", "transformers") for handler in logging.getLogger(name).handlers]

    def rename(record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str) and staged in record.msg:
            record.msg = record.msg.replace(staged, output)
        return True

    for handler in handlers:
        handler.addFilter(rename)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(rename)


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if isinstance(value, (str, int, bool)) and value != ""}
