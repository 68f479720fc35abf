"""Shared fixtures: tiny models, each made once per session (and per worker)."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest


os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
)


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
def zoo_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a zoo name to that model's directory, built on first use; treat it as read-only."""
    import zoo

    root = tmp_path_factory.mktemp("zoo")
    built: dict[str, Path] = {}

    def model(name: str) -> Path:
        if name not in built:
            entry = zoo.ZOO[name]
            if not entry.available:
                pytest.skip(f"{name} needs {', '.join(entry.needs)}")
            built[name] = zoo.build(name, root / name)
        return built[name]

    return model
