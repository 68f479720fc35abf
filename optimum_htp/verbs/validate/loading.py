"""`--load`: the package in ONNX's checker, in the ORTModel of its task, and once through, in a process of its own.

That process has no network: Python's sockets refuse every address, and the Hub's client is told that it is offline.
What it loads may crash it without any harm to the caller.
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


NAMES = ("checker", "load", "run")
"""The checks of this module: ONNX's checker, loading with the ORTModel class, running on dummy inputs."""

_PACKAGE = Path(__file__).parents[2]
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONSAFEPATH": "1",
            "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
_CODE = "from optimum_htp.verbs.validate.worker import main; main()"


def check_loading(package: Contents, *, task: str | None = None, trust_remote_code: bool = False) -> list[Check]:
    """Loads a package in another process, without network, and runs it.

    Args:
        package: The package.
        task: The task to load it for; None means the one that it says.
        trust_remote_code: Run code that comes with the package, in that process.

    Returns:
        The checks `checker`, `load` and `run`.
    """
    if len(package.readable) < len(package.files):
        reason = "an ONNX file can't be read"
        return [Check(name, SKIPPED, reason) for name in NAMES]
    with tempfile.TemporaryDirectory(prefix="optimum-htp-") as scratch:
        result = Path(scratch, "result.json")
        request = {
            "path": str(package.path.resolve()),
            "files": [str(file.path.resolve()) for file in package.files.values()],
            "task": task,
            "trust_remote_code": trust_remote_code,
            "result": str(result),
        }
        code, complaint = _run(request, scratch)
        found = _read(result)
    return [_check(name, found, code, complaint) for name in NAMES]


def _run(request: dict[str, Any], directory: str) -> tuple[int, str]:
    """Runs the process to its end; whatever ends us ends it too. Gives its exit code and the end of its stderr."""
    paths = [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **_OFFLINE, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # An empty directory to run in: Python imports from where it is started.
    command = [sys.executable, "-c", _CODE]
    done = subprocess.run(  # kills it when it is interrupted itself
        command, input=json.dumps(request), capture_output=True, text=True, cwd=directory, env=environment, check=False
    )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, lines[-1].strip() if lines else ""


def _read(result: Path) -> dict[str, Any]:
    try:
        found = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check(name: str, found: dict[str, Any], code: int, complaint: str) -> Check:
    """What the process said of a check, or how it ended before it could."""
    entry = found.get(name)
    if isinstance(entry, list) and len(entry) == 3 and entry[0] in STATUSES:
        return Check(name, *(str(part) for part in entry))
    done = [each for each in NAMES if each in found]
    if len(done) < NAMES.index(name):
        return Check(name, SKIPPED, f"the process ended during {NAMES[len(done)]!r}")
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return Check(name, FAILED, f"the process that did it ended {how}: {complaint}"[:400])
