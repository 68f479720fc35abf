"""Code that comes with a model, or that its files name: none of it runs without `trust_remote_code`.

Libraries ask for that flag before they run the code of `auto_map`, and run other code without it: sentence-transformers
whatever a local modules.json names, diffusers whatever model_index.json does, and so on. So a model's files are read first
(`named_code`), and what runs code anyway is stopped (`only_libraries`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from threading import RLock
from typing import Any

from optimum_htp.errors import PackageError
from optimum_htp.models.hub_cache import local_directory, snapshot_directory
from optimum_htp.package import (
    MAX_CONFIG_BYTES,
    MAX_DIRECTORY_DEPTH,
    SENTENCE_GRAPH,
    code_files,
    parse_json,
    read_small,
    settle,
)

_PIPELINE_LIBRARIES = ("diffusers", "optimum", "transformers")  # whose classes a pipeline may be made of
# Classes that sentence-transformers may import: its own modules, and activation functions.
_OWN_CLASS = re.compile(rf"(sentence_transformers|torch\.nn)(\.\w+)*\.[A-Z]\w*|{re.escape(SENTENCE_GRAPH)}")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_CLASS_KEYS = frozenset("type activation_function activation_fn tokenizer_class".split())
_CONFIG = re.compile(r"(modules|model_index|.*config.*)\.json")
_MAX_CONFIGS = 10_000
_MAX_LISTED = 3


@contextmanager
def only_libraries(
    model: str | Path, *, trust_remote_code: bool, library: str | None = None, subfolder: str = "", **where: Any
) -> Iterator[None]:
    """No code that comes with a model, or that its files name, runs in the block, unless it is trusted.

    Args:
        model: A directory, or an id on the Hub.
        trust_remote_code: Whether it is.
        library: Optimum's name for the library that loads it; None means any, and `""` that only configs and tokenizers
            are loaded.
        subfolder: Where in it the model is.
        **where: What `snapshot_download` takes: the revision, the cache, the token.

    Raises:
        PackageError: Something would have run; the message says what.
    """
    directory = _directory(model, where)
    if directory is not None:
        settle(directory)
    if trust_remote_code:
        yield
        return
    libraries: tuple[str, ...] = (library,) if library is not None else ()
    if directory is not None:
        refuse_named_code(directory, library, model=model)
        libraries = _libraries_of(directory) if library is None else libraries
    stopped = _untrusted.set(str(model))
    try:
        with _guards.installed(libraries):
            yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        configs = sorted((directory / subfolder).glob("*config.json")) if directory is not None else []
        documents = (document for document in map(_read, configs) if isinstance(document, dict))
        raise _refused(model, code_files(*documents) or ["its own code"]) from error
    finally:
        _untrusted.reset(stopped)


def refuse_named_code(directory: Path, library: str | None = None, *, model: str | Path | None = None) -> None:
    """Raises PackageError if loading a model's directory would run code that its config files name, and says which."""
    named = list(dict.fromkeys(_named_code(directory, library)))
    if named:
        raise _refused(model if model is not None else directory, named)


def _named_code(directory: Path, library: str | None) -> Iterator[str]:
    """The code that is not the library's; that of `auto_map` only runs if the loader is told to, and is left out."""
    configs = {path.relative_to(directory).as_posix(): path for path in _configs(directory)}
    checks = [_of_transformers] if library != "" else []
    if library in (None, "sentence_transformers"):
        checks += [_of_sentence_transformers] if any(map(_is_of_sentence_transformers, configs)) else []
    for name, path in configs.items():
        document = _read(path)
        if path.name == "model_index.json" and library in (None, "diffusers"):
            yield from (f"{code} in {name}" for code in _of_pipeline(document, path.parent))
        for key, value in _members(document):
            yield from (f"{code} in {name}" for check in checks for code in check(key, value, path.name))


def _libraries_of(directory: Path) -> tuple[str, ...]:
    """The libraries beside transformers that may load a model's directory."""
    names = [path.name for path in _configs(directory)]
    possible = {
        "diffusers": "model_index.json" in names,
        "sentence_transformers": any(map(_is_of_sentence_transformers, names)),
    }
    return tuple(library for library, is_possible in possible.items() if is_possible)


def _is_of_sentence_transformers(name: str) -> bool:
    return re.search(r"(^|/)(modules|[^/]*sentence_[^/]*)\.json$", name) is not None


def _directory(model: str | Path, where: dict[str, Any]) -> Path | None:
    """A model's directory; for an id, that of its small files in the Hub's cache, None if they can't be had."""
    with suppress(Exception):  # of several libraries: the loader says what is wrong with it
        return local_directory(model) or snapshot_directory(str(model), **where)
    return None


def _configs(directory: Path) -> Iterator[Path]:
    """The config files of a model, in all of its directories, through links too, as loaders go."""
    seen: set[str] = set()
    count = 0
    waiting = [(directory, 0)]
    while waiting:
        root, depth = waiting.pop()
        real = os.path.realpath(root)
        if real in seen:
            continue
        seen.add(real)
        if depth > MAX_DIRECTORY_DEPTH:
            raise PackageError(f"{directory}: directories nested deeper than {MAX_DIRECTORY_DEPTH}; is it a model's?")
        try:
            entries = sorted(root.iterdir(), reverse=True)
        except OSError:
            continue
        waiting += [(path, depth + 1) for path in entries if path.is_dir()]
        for path in reversed(entries):
            if _CONFIG.fullmatch(path.name) and not path.is_dir():
                count += 1
                if count > _MAX_CONFIGS:
                    raise PackageError(
                        f"{directory}: more than {_MAX_CONFIGS:,} config files; is it a model's directory?"
                    )
                yield path


def _read(path: Path) -> Any:
    """A JSON document; None if it is none: whoever loads the model says what is wrong with it."""
    try:
        return parse_json(read_small(path, MAX_CONFIG_BYTES) or b"null")
    except (PackageError, ValueError, RecursionError):
        return None


def _members(document: Any) -> Iterator[tuple[str, Any]]:
    """The members of all objects in a document."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _of_transformers(key: str, value: Any, file: str) -> Iterator[str]:
    """The code that a member of a config names for transformers, or for PEFT in it."""
    if "attn_implementation" in key:  # `org/name` is fetched from the Hub: a kernel, and the Python around it
        values = value.values() if isinstance(value, dict) else (value,)
        yield from (item for item in values if isinstance(item, str) and "/" in item)
    elif file == "adapter_config.json" and key == "megatron_core" and value not in (None, "megatron.core"):
        yield str(value)


def _of_sentence_transformers(key: str, value: Any, file: str) -> Iterator[str]:
    """The code that a member of a config names for sentence-transformers."""
    if "sentence_" in file and key in ("trust_remote_code", "weights_only") and value is (key == "trust_remote_code"):
        yield f"what {key}: {json.dumps(value)} allows"
    classes = value.values() if key == "types" and isinstance(value, dict) else (value,) if key in _CLASS_KEYS else ()
    for item in classes:
        is_path = isinstance(item, str) and (file == "modules.json" or _DOTTED.fullmatch(item) is not None)
        if is_path and _OWN_CLASS.fullmatch(item) is None:
            yield item


def _of_pipeline(document: Any, directory: Path) -> Iterator[str]:
    """The code that the index of a diffusion pipeline names."""
    for component, value in document.items() if isinstance(document, dict) else ():
        if component == "_class_name" and isinstance(value, list):
            yield ".".join(map(str, value))
        if component.startswith("_") or not (isinstance(value, list) and value and isinstance(value[0], str)):
            continue
        library, *_ = value
        if (directory / component / f"{library}.py").exists():
            yield f"{component}/{library}.py"
        elif library.partition(".")[0] not in _PIPELINE_LIBRARIES and not _is_pipeline_module(library):
            yield ".".join(map(str, value))


def _is_pipeline_module(library: str) -> bool:
    """Whether diffusers has the classes of one of its pipelines in a module of this name, such as a safety checker."""
    spec = importlib.util.find_spec("diffusers")
    places = spec.submodule_search_locations or () if spec is not None else ()
    return library.isidentifier() and any(Path(place, "pipelines", library).is_dir() for place in places)


def _refused(model: str | Path, named: list[str]) -> PackageError:
    more = f" and {len(named) - _MAX_LISTED} more" if len(named) > _MAX_LISTED else ""
    listed = ", ".join(named[:_MAX_LISTED]) + more
    advice = "read it, and if you trust it, add --trust-remote-code"
    return PackageError(f"{model}: loading it would run code of its own, or that it names ({listed}): {advice}")


# --- What runs code -----------------------------------------------------------------------------------------------

_untrusted: ContextVar[str | None] = ContextVar("untrusted", default=None)


class _Guards:
    """Stand-ins for functions of libraries that run code; while a model that is not trusted is loaded, they refuse."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._users = 0
        self._originals: dict[tuple[str, str], Any] = {}

    @contextmanager
    def installed(self, libraries: Sequence[str]) -> Iterator[None]:
        """Has them stand in: those of torch, transformers and these libraries, and what else is imported already."""
        with self._lock:
            self._users += 1
        try:
            with self._lock:
                self._install(("torch", "transformers", *libraries))
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._remove()

    def _install(self, libraries: Sequence[str]) -> None:
        for module, name, guard in _GUARDED:
            is_needed = module.partition(".")[0] in libraries or module in sys.modules
            if (module, name) in self._originals or not is_needed:
                continue
            with suppress(ImportError):
                owner = import_module(module)
                if hasattr(owner, name):
                    self._originals[module, name] = getattr(owner, name)
                    setattr(owner, name, guard(getattr(owner, name)))

    def _remove(self) -> None:
        while self._originals:
            (module, name), original = self._originals.popitem()
            setattr(sys.modules[module], name, original)


_guards = _Guards()


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    """For what runs a Python file: its first argument names the class or the file."""

    def guarded(named: Any, *args: Any, **kwargs: Any) -> Any:
        model = _untrusted.get()
        if model is not None:
            raise _refused(model, [".".join(map(str, (named, *args[:1])))])
        return original(named, *args, **kwargs)

    return guarded


def _importing(original: Callable[[str], Any]) -> Callable[[str], Any]:
    """For what imports a class by its dotted path."""

    def guarded(dotted_path: str) -> Any:
        model = _untrusted.get()
        if model is not None and _OWN_CLASS.fullmatch(dotted_path) is None:
            raise _refused(model, [dotted_path])
        return original(dotted_path)

    return guarded


def _unpickling(original: Callable[..., Any]) -> Callable[..., Any]:
    """For `torch.load`: a pickle can run anything, unless only weights are taken from it."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        model = _untrusted.get()
        if model is not None and kwargs.get("weights_only") is False:
            raise _refused(model, [f"a pickle, {args[0] if args else 'its weights'}"])
        return original(*args, **kwargs)

    return guarded


def _never_asked(_: float) -> float:
    """For the seconds that transformers waits for an answer, if it is not told whether to run code; 0: it refuses."""
    return 0


# The functions behind every way into `transformers_modules`, into another library's copy of them, and into pickles. Names
# of 2025 to 2026; a test holds that the installed libraries have them, or the older ones in their place.
_GUARDED: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("transformers.dynamic_module_utils", "get_class_from_dynamic_module", _refusing),
    ("transformers.dynamic_module_utils", "get_class_in_module", _refusing),
    ("transformers.dynamic_module_utils", "TIME_OUT_REMOTE_CODE", _never_asked),
    ("transformers.modeling_utils", "load_and_register_kernel", _refusing),
    ("diffusers.utils.dynamic_modules_utils", "get_class_in_module", _refusing),
    ("sentence_transformers.util.misc", "import_from_string", _importing),
    ("sentence_transformers.util", "import_from_string", _importing),
    ("torch", "load", _unpickling),
)
