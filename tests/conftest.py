"""Shared fixtures: tiny models and their packages, each made once for all workers."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import systems
from filelock import FileLock

# What a test writes need not survive a power cut, and waiting for the disk takes long.
os.fsync = lambda _: None

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, on a system that lacks it, what a test needs of POSIX; the summary says why."""
    for item in items:
        missing = systems.missing(item)
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"this system has no {' and no '.join(missing)}"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden", action="store_true", help="write tests/golden anew; look at the difference"
    )


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Callable[[str, str], None]:
    """Holds what a person sees against a file of `tests/golden`."""

    def check(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / f"{name}.txt"
        if pytestconfig.getoption("--regenerate-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), "if this is meant: --regenerate-golden"

    return check


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    """One thread, and only errors from the libraries."""
    import torch

    torch.set_num_threads(1)
    for name in ("transformers", "optimum", "onnx", "torch.onnx", "onnxruntime", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C is heard, also where a shell started the tests in the background and made them ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A directory that all workers of one run share."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if hasattr(request.config, "workerinput") else base) / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session")
def zoo_model(shared_directory: Path) -> Callable[[str], Path]:
    """A function from a zoo name to that model's directory, built on first use; treat it as read-only."""
    import zoo

    def model(name: str) -> Path:
        entry = zoo.ZOO[name]
        if not entry.available:
            pytest.skip(f"{name} needs {', '.join(entry.needs)}")
        return _made_once(shared_directory / "models" / name, lambda path: zoo.build(name, path))

    return model


@pytest.fixture(scope="session")
def exported(shared_directory: Path, zoo_model: Callable[[str], Path]) -> Callable[..., Path]:
    """A function from a zoo name, and options of `main_export`, to the exported package; treat it as read-only.

    Every export is seeded as the oracle's is.
    """
    import zoo
    from oracle import seed_everything

    from optimum_htp import main_export

    def package(name: str, **options: Any) -> Path:
        source = zoo_model(name)
        arguments = {"do_validation": False, **zoo.ZOO[name].main_export_kwargs(source), **options}
        output = (
            shared_directory / "packages" / "-".join([name, *(f"{key}={options[key]}" for key in sorted(options))])
        )

        def export(path: Path) -> None:
            seed_everything()
            main_export(str(source), path, **arguments)

        return _made_once(output, export)

    return package


@pytest.fixture(scope="session")
def made_once() -> Callable[..., Path]:
    """A function that makes a directory of `shared_directory` unless a worker did: from its path, and what makes it."""
    return _made_once


def _made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Makes a directory unless a worker did; one that a worker did not finish is made anew."""
    done = path.with_name(f"{path.name}.done")
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)
            make(path)
            done.touch()
    return path
