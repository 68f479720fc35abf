"""The checks of a change: GitHub's are those of `.ci/run`, on what pyproject.toml says; and what each system lacks."""

from __future__ import annotations

import doctest
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import systems
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def job(workflow: dict[str, Any]) -> dict[str, Any]:
    (job,) = workflow["jobs"].values()
    return job


@pytest.fixture(scope="module")
def classifiers() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]


def test_it_runs_what_has_to_pass(workflow: dict[str, Any], job: dict[str, Any]) -> None:
    """`.ci/run` itself, which is `make test` and `make lint`; besides that it only installs."""
    commands = [step["run"] for step in job["steps"] if "run" in step]
    installs = ("choco install make ", "command -v chromedriver || ")
    assert [command for command in commands if not command.startswith(installs)] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [line for line in script.splitlines() if line.startswith("make")] == ["make test", "make lint"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in workflow["env"]:
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), f"the Makefile does not know {name}"


def test_where(job: dict[str, Any], classifiers: list[str]) -> None:
    """Each Python that is named, on all three systems; only those systems are named on which a failure counts."""
    matrix = job["strategy"]["matrix"]
    named = [each.rpartition(" :: ")[2] for each in classifiers if re.fullmatch(r".*Python :: 3\.\d+", each)]
    assert matrix["python"] == named
    assert [each.partition("-")[0] for each in matrix["os"]] == list(SYSTEMS)
    counts = re.fullmatch(r"\$\{\{ matrix\.os != '(\w+)-[\d.]+' \}\}", job["continue-on-error"])
    assert counts is not None
    operating = [each for each in classifiers if each.startswith("Operating System")]
    assert operating == [f"Operating System :: {SYSTEMS[counts[1]]}"]


def test_actions_are_pinned(job: dict[str, Any]) -> None:
    """To a commit, which a tag is not; and nothing may be written."""
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", each) for each in used)


def test_permissions(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def test(): os.fork()", {"processes that fork"}),
        ("def test(tmp_path): (tmp_path / 'a').symlink_to('b')", {"links that anybody may make"}),
        ("def test(): import resource", {"limits on resources"}),
        ("def test(): subprocess.run([], preexec_fn=print)", {"processes that fork"}),
        ("def test(): open('/dev/null')", {"devices as files"}),
        ("TABLE = {'a': lambda path: os.mkfifo(path)}\ndef test(): TABLE['a']('x')", {"named pipes"}),
        ("@fixture\ndef piped(): os.mkfifo('x')\ndef test(piped): pass", {"named pipes"}),
        ("@parametrize(change=[lambda path: path.chmod(0)])\ndef test(change): pass", {"permission bits"}),
        ("def a(): b()\ndef b(): os.fork()\ndef test(): a()", {"processes that fork"}),
        ("def test(): os.replace('a', 'b')", set()),
    ],
)
def test_what_a_test_needs(source: str, expected: set[str]) -> None:
    assert systems.needs_of(source)["test"] == expected


def test_what_known_tests_need() -> None:
    """Across modules and classes, too."""
    assert systems.needs("test_staging")["test_read_only"] == {"permission bits", "user ids"}
    assert systems.needs("test_layers")["test_no_file_takes_part_in_a_cycle"] == set()
    assert doctest.testmod(systems).failed == 0


def test_what_is_skipped_is_seen(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """With what the system lacks in the reason; on POSIX systems nothing is."""
    assert (systems.lacking() == frozenset()) == (os.name == "posix")
    monkeypatch.setattr(systems, "lacking", lambda: frozenset({"permission bits"}))
    monkeypatch.setattr(systems, "needs", lambda module: {request.node.originalname: {"permission bits", "user ids"}})
    assert systems.missing(request.node) == ["permission bits"]
