"""What a test needs that not every system has: found in its source, so that no test forgets to say it.

A test is skipped on Windows if it, or a function, fixture or table of the tests that it uses, calls for something of POSIX,
and where Optimum is not installed if it calls for that (`make versions` has such an environment). conftest.py does that; the
summary of a run lists each of them with its reason.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent

# By what the source says: names of attributes, modules, keywords, and beginnings of strings.
_ATTRIBUTES = {
    "fork": "processes that fork",
    "waitpid": "processes that fork",
    "WIFSIGNALED": "processes that fork",
    "mkfifo": "named pipes",
    "geteuid": "user ids",
    "getuid": "user ids",
    "killpg": "process groups",
    "setsid": "process groups",
    "send_signal": "signals between processes",
    "kill": "signals between processes",
    "SIGKILL": "signals between processes",
    "SIGALRM": "timers that signal",
    "setitimer": "timers that signal",
    "pthread_kill": "signals between threads",
    "SIGPIPE": "broken pipes that signal",
    "chmod": "permission bits",
    "fchmod": "permission bits",
    "symlink_to": "links that anybody may make",
    "symlink": "links that anybody may make",
    "hardlink_to": "links that anybody may make",
}
_MODULES = {
    "resource": "limits on resources",
    "fcntl": "POSIX's file control",
    "pty": "pseudo-terminals",
    "termios": "pseudo-terminals",
    "kill_points": "processes that fork",
    "kill_verbs": "processes that fork",
}
_KEYWORDS = {"preexec_fn": "processes that fork", "start_new_session": "process groups"}
_OPTIMUM = "Optimum"
# What of ours is nothing without Optimum, and the fixture that exports with it.
_OF_OPTIMUM = {"exported", "main_export", "HtpExporter", "AutoModelForONNX"}
_STRINGS = {"/dev/": "devices as files", "/proc/": "/proc", "fchmod": "permission bits"}


def missing(item: Any) -> list[str]:
    """What the system that this runs on lacks of what a collected test needs."""
    if not lacking():
        return []
    name = (
        f"{item.cls.__name__}.{item.originalname}" if getattr(item, "cls", None) else getattr(item, "originalname", "")
    )
    return sorted(needs(Path(item.path).stem).get(name, set()) & lacking())


@cache
def lacking() -> frozenset[str]:
    """What of all that this system lacks."""
    found = _lacking_on_windows() if sys.platform == "win32" else frozenset()
    # `optimum` alone is the namespace that plugins share with it, such as ours.
    installed = importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.exporters")
    return found if installed else found | {_OPTIMUM}


def _lacking_on_windows() -> frozenset[str]:
    found = {*_ATTRIBUTES.values(), *_MODULES.values(), *_KEYWORDS.values(), *_STRINGS.values()}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            Path(scratch, "link").symlink_to(scratch, target_is_directory=True)
            found.discard("links that anybody may make")
        except OSError:
            pass
    return frozenset(found)


@cache
def needs(module: str) -> dict[str, set[str]]:
    """What each function, method and table of a module of the tests needs, by itself and by what of the tests it uses."""
    path = TESTS / f"{module}.py"
    return needs_of(path.read_text(encoding="utf-8")) if path.is_file() else {}


def needs_of(source: str) -> dict[str, set[str]]:
    """The same of a module's source.

    >>> needs_of("def pipe(path): os.mkfifo(path)\\ndef test_it(tmp_path): pipe(tmp_path)\\ndef test_no(): pass")
    {'pipe': {'named pipes'}, 'test_it': {'named pipes'}, 'test_no': set()}
    """
    tree = ast.parse(source)
    found: dict[str, set[str]] = {}
    uses: dict[str, set[str]] = {}
    for name, node in _definitions(tree):
        own, used = found.setdefault(name, set()), uses.setdefault(name, set())
        own.update(_own_needs(node))
        used.update(each.id for each in ast.walk(node) if isinstance(each, ast.Name))
        used.update(each.arg for each in ast.walk(node) if isinstance(each, ast.arg))  # fixtures
        used.update(
            f"{name.partition('.')[0]}.{each.attr}" for each in ast.walk(node) if isinstance(each, ast.Attribute)
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and (TESTS / f"{node.module}.py").is_file():
            others = needs(node.module)
            found.update((each.asname or each.name, others.get(each.name, set())) for each in node.names)
            uses.update((each.asname or each.name, set()) for each in node.names)
    changed = True
    while changed:
        before = sum(map(len, found.values()))
        for name, used in uses.items():
            found[name] = found[name].union(*(found[other] for other in used if other in found))
        changed = sum(map(len, found.values())) != before
    return found


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                yield f"{node.name}.{getattr(inner, 'name', '')}", inner
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from ((each.id, node) for each in ast.walk(target) if isinstance(each, ast.Name))


def _own_needs(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and each.attr in _ATTRIBUTES:
            yield _ATTRIBUTES[each.attr]
        elif isinstance(each, ast.Import):
            yield from _imported(*(alias.name for alias in each.names))
        elif isinstance(each, ast.ImportFrom) and each.module:
            yield from _imported(each.module)
        elif isinstance(each, ast.Name) and each.id in _MODULES:
            yield _MODULES[each.id]
        elif (isinstance(each, ast.Name) and each.id in _OF_OPTIMUM) or (
            isinstance(each, ast.arg) and each.arg in _OF_OPTIMUM  # a fixture
        ):
            yield _OPTIMUM
        elif isinstance(each, ast.keyword) and each.arg in _KEYWORDS:
            yield _KEYWORDS[each.arg]
        elif isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield from (what for beginning, what in _STRINGS.items() if each.value.startswith(beginning))


def _imported(*modules: str) -> Iterator[str]:
    for module in modules:
        if module in _MODULES:
            yield _MODULES[module]
        elif module.partition(".")[0] == "optimum":
            yield _OPTIMUM
