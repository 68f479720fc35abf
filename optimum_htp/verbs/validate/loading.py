"""`--load`: ONNX's checker, loading with the ORTModel of the task, and a run, in a process of its own (`worker`).

That process has no network, and a package that crashes it does no harm to the caller.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.report import FAILED, SKIPPED, STATUSES, Check

_NAMES = ("checker", "load", "run")
_PACKAGE = Path(__file__).parents[2]
_OFFLINE = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "PYTHONSAFEPATH"), "1"),
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
_CODE = "from optimum_htp.verbs.validate.worker import main; main()"


def check_loading(
    package: Contents, *, task: str | None, trust_remote_code: bool, timeout: float, max_memory_bytes: int
) -> list[Check]:
    """The checks `checker`, `load` and `run`, for a task, or for None that of the package, in so many seconds and bytes."""
    if len(package.readable) < len(package.files):
        return [Check(name, SKIPPED, "an ONNX file can't be read") for name in _NAMES]
    with tempfile.TemporaryDirectory(prefix="optimum-htp-") as scratch:
        result = Path(scratch, "result.json")
        request = {
            "path": str(package.path.absolute()),
            "files": [str(file.path.absolute()) for file in package.files.values()],
            "task": task,
            "trust_remote_code": trust_remote_code,
            "max_memory_bytes": max_memory_bytes,
            "result": str(result),
        }
        code, complaint = _run(request, scratch, timeout)
        results = _read(result)
    return [_check(name, results, code, complaint) for name in _NAMES]


def _run(request: dict[str, Any], directory: str, timeout: float) -> tuple[int | None, str]:
    """The exit code of the process, and the last line of its stderr; whatever ends us ends it too. None: it took too long."""
    paths = [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **_OFFLINE, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # An empty directory to run in: Python imports from where it is started.
    command = [sys.executable, "-c", _CODE]
    try:
        done = subprocess.run(  # kills it when it is interrupted itself
            command, input=json.dumps(request), capture_output=True, text=True, cwd=directory, env=environment,
            check=False, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"it was not done after {timeout:g} s; if you trust the graph, give it more: --timeout SECONDS"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, lines[-1].strip() if lines else ""


def _read(result: Path) -> dict[str, Any]:
    try:
        results = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def _check(name: str, results: dict[str, Any], code: int | None, complaint: str) -> Check:
    """The result of a check, or how the process ended before it had one."""
    entry = results.get(name)
    if isinstance(entry, list) and len(entry) == 3 and entry[0] in STATUSES:
        return Check(name, *(str(part) for part in entry))
    done = sum(other in results for other in _NAMES)
    if done < _NAMES.index(name):
        return Check(name, SKIPPED, f"the process ended during {_NAMES[done]!r}")
    if code is None:
        return Check(name, FAILED, complaint)
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return Check(name, FAILED, f"the process that did it ended {how}: {complaint}"[:400])
