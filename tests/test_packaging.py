"""The project as it is installed: what the wheel holds, and that `optimum-cli` finds it, away from the repository."""

from __future__ import annotations

import configparser
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import optimum_htp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # there, because pytest needs it on these versions


ROOT = Path(__file__).resolve().parent.parent
HOOK = "optimum/commands/register/register_htp.py"
BUILT = re.compile(r"(PKG-INFO|setup\.cfg|optimum_htp\.egg-info/.*)$")

# Whatever test runs first builds the wheel; the others of this file want the same worker.
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed, without the variables by which the repository could leak into it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # Help texts are wrapped to the terminal: wide enough for an option and its value to stand on one line.
    environment |= {"COLUMNS": "200", "NO_COLOR": "1"}
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command} gave {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def repository() -> list[str]:
    """The files of the repository, new ones included; in an unpacked source distribution, its own."""
    if not (ROOT / ".git").exists():
        listed = (ROOT / "optimum_htp.egg-info" / "SOURCES.txt").read_text(encoding="utf-8").split("\n")
        return [name for name in listed if name and not BUILT.match(name)]
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built offline from a copy, since setuptools leaves `*.egg-info` beside what it builds."""
    scratch = tmp_path_factory.mktemp("sdist")
    source = scratch / "source"
    for name in repository():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    run(sys.executable, "-c", f"import setuptools.build_meta as it; it.build_sdist({str(scratch)!r})", cwd=source)
    (built,) = scratch.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from the source distribution, as `python -m build` does."""
    scratch = tmp_path_factory.mktemp("wheel")
    shutil.unpack_archive(sdist, scratch)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--wheel-dir", scratch, scratch / sdist.name.removesuffix(".tar.gz")),
        cwd=scratch,
    )
    (built,) = scratch.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel installed, which sees the packages of this one but not its copy of the project.

    The `.pth` file names this environment's site-packages. Such a directory is only put on `sys.path`: the `.pth` files
    in it are not read, and those are what an editable install lives by. Without that, the project would be found twice
    and argparse would refuse the second `htp` command (`conflicting subparser`).
    """
    environment = tmp_path_factory.mktemp("installed")
    venv.create(environment, with_pip=False)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    site_packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment).stdout.strip()
    )
    outer = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "outer.pth").write_text("\n".join(outer) + "\n", encoding="utf-8")
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"),
        # What the .pth file shows must not count as installed here.
        *("--ignore-installed", wheel),
        cwd=environment,
    )
    found = run(python, "-c", "import optimum_htp; print(optimum_htp.__file__)", cwd=environment).stdout.strip()
    assert Path(found).is_relative_to(environment)
    return scripts


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_source_distribution_is_the_repository(sdist: Path) -> None:
    """All of it, so that the tests can be run and the documentation read."""
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert {name for name in files if not BUILT.match(name)} == set(repository())


def test_wheel_holds_the_package_the_hook_and_nothing_else(wheel: Path) -> None:
    """No tests, no examples, nothing of Optimum's, nothing left over from Python."""
    strays = [name for name in names(wheel) if not re.match(r"optimum_htp/|optimum_htp-[^/]+\.dist-info/", name)]
    assert strays == [HOOK]
    assert not [name for name in names(wheel) if "__pycache__" in name]


def test_wheel_leaves_the_namespace_open(wheel: Path) -> None:
    """An `__init__.py` under `optimum/` would hide Optimum itself."""
    assert not [name for name in names(wheel) if re.match(r"optimum/(.*/)?__init__\.py", name)]
    assert not list((ROOT / "optimum").rglob("__init__.py"))


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """Modules, `py.typed` and the JSON Schemas: what is in the source tree is in the wheel."""
    files = (path for path in (ROOT / "optimum_htp").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert expected == {name for name in names(wheel) if name.startswith("optimum_htp/")}
    assert "optimum_htp/py.typed" in expected
    assert any(re.fullmatch(r"optimum_htp/schemas/[^/]+\.json", name) for name in expected)


def test_wheel_metadata(wheel: Path, project: dict) -> None:
    """Name, version, license and the command, as pyproject.toml gives them."""
    with zipfile.ZipFile(wheel) as archive:
        (information,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_string(archive.read(information).decode())
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(information.replace("METADATA", "entry_points.txt")).decode())
    assert metadata["Name"] == "optimum-htp"
    assert metadata["Version"] == project["project"]["version"]
    assert metadata["License-Expression"] == "Apache-2.0 AND ISC"
    assert metadata.get_all("License-File") == ["LICENSE", "optimum_htp/verbs/view/assets/d3.LICENSE"]
    assert dict(entry_points["console_scripts"]) == {"optimum-htp": "optimum_htp.__main__:main"}
    assert metadata["Author"]
    assert {line.partition(", ")[0] for line in metadata.get_all("Project-URL") or ()} == {
        "Homepage", "Source", "Documentation", "Issues", "Changelog",
    }  # fmt: skip
    users = {"accelerate", "onnxscript", "onnxslim", "sentence-transformers", "all"}
    assert users <= set(metadata.get_all("Provides-Extra") or ())


def test_optimum_cli_finds_the_export_command(installed: Path, tmp_path: Path) -> None:
    """`optimum-cli export htp` has Optimum's options and ours, from an installed wheel, outside the repository."""
    help_text = run(
        installed / "python", "-m", "optimum.commands.optimum_cli", "export", "htp", "--help", cwd=tmp_path
    ).stdout
    for option in ("--model", "--task", "--optimize", "--trust-remote-code", "--no-namespace", "--torch-metadata"):
        assert option in help_text


def test_optimum_cli_keeps_its_own_commands(installed: Path, tmp_path: Path) -> None:
    """The hook adds to Optimum's commands and hides none of them."""
    command = (installed / "python", "-m", "optimum.commands.optimum_cli")
    top = run(*command, "--help", cwd=tmp_path).stdout
    assert all(re.search(rf"^ +{name} ", top, re.MULTILINE) for name in ("export", "env", "onnxruntime", "htp"))
    export = run(*command, "export", "--help", cwd=tmp_path).stdout
    assert all(re.search(rf"^ +{name} ", export, re.MULTILINE) for name in ("onnx", "htp"))


@pytest.mark.parametrize(
    "command", [("python", "-m", "optimum.commands.optimum_cli", "htp"), ("optimum-htp",)], ids=["plugin", "script"]
)
def test_verbs_are_the_same_by_both_names(installed: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """`optimum-cli htp` and `optimum-htp` have the same verbs."""
    help_text = run(installed / command[0], *command[1:], "--help", cwd=tmp_path).stdout
    assert all(re.search(rf"\b{verb}\b", help_text) for verb in ("tree", "strip"))


def test_hook_imports_nothing_heavy(installed: Path, tmp_path: Path) -> None:
    """Optimum loads the hook at every start, so it must not load what only a running command needs."""
    code = (
        "import sys, optimum.commands.register.register_htp as hook\n"
        "print([command for command in hook.REGISTER_COMMANDS])\n"
        "print('heavy:', sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'rich'} & set(sys.modules)))\n"
    )
    baseline = "import sys, optimum.commands.optimum_cli, optimum.commands.export.onnx\n" + code.splitlines()[-1]
    ours = run(installed / "python", "-c", code, cwd=tmp_path).stdout.splitlines()[-1]
    theirs = run(installed / "python", "-c", baseline, cwd=tmp_path).stdout.splitlines()[-1]
    assert ours == theirs


def test_version_on_the_command_line(installed: Path, tmp_path: Path) -> None:
    """By all of the names."""
    said = f"optimum-htp {optimum_htp.__version__}\n"
    for command in (("-m", "optimum.commands.optimum_cli", "htp"), ("-m", "optimum_htp")):
        assert run(installed / "python", *command, "--version", cwd=tmp_path).stdout == said
    assert run(installed / "optimum-htp", "--version", cwd=tmp_path).stdout == said


def test_version_is_the_same_everywhere(project: dict) -> None:
    """pyproject.toml, the package and the newest entry of the change log agree."""
    version = project["project"]["version"]
    assert optimum_htp.__version__ == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(?!Unreleased\])([^\]]+)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_bounds_are_what_was_run(project: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `make versions`, or by hand: from its oldest version on, and below the next minor or major one after its newest."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import versions

    extras = project["project"]["optional-dependencies"]
    required = map(Requirement, [*project["project"]["dependencies"], *extras["onnxscript"]])
    known = {each.name: {one.operator: Version(one.version) for one in each.specifier} for each in required}
    assert set(versions.LIBRARIES) == set(known)
    for name, bounds in known.items():
        run = [Version(each.pins[name]) for each in versions.ENVIRONMENTS if name in each.pins]
        run.extend(Version(by_hand) for library, by_hand in versions.BY_HAND.items() if library == name)
        newest = max(run)
        after = {Version(f"{newest.major}.{newest.minor + 1}"), Version(f"{newest.major + 1}")}
        assert bounds[">="] == min(run), name
        assert bounds["<"] in after, name


def test_declared_paths_exist(project: dict) -> None:
    """What pyproject.toml names is there: a renamed file must not turn a check into one that checks nothing."""
    assert (ROOT / project["project"]["readme"]).is_file()
    assert all((ROOT / name).is_file() for name in project["project"]["license-files"])
    assert all((ROOT / name).is_dir() for name in project["tool"]["mypy"]["packages"])
    assert all((ROOT / name).is_dir() for name in project["tool"]["pytest"]["ini_options"]["testpaths"])
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        assert all(list((ROOT / package).glob(pattern)) for pattern in patterns)
