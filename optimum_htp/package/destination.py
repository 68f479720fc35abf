"""A package that is written somewhere else than the one that it is made from: where it may be, and what is copied to it."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from optimum_htp.errors import HtpError
from optimum_htp.onnxfile import external_data_files
from optimum_htp.package.links import entries, external_file, package_files
from optimum_htp.package.package import HtpFile, HtpPackage
from optimum_htp.package.recovery import settle
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import SIDECAR, Sidecar, library_versions
from optimum_htp.package.staging import StagedDirectory
from optimum_htp.tagging import TaggedGraph


def checked_output(package: Path, given: str | Path, *, overwrite: bool) -> Path | None:
    """Where to write, None for in place; what can't be written to, or is not to be overwritten, is refused."""
    output = Path(given)
    if given == "":
        raise HtpError("the output is an empty name; give one, or leave it out to tag in place")
    if output.exists() and output.samefile(package):
        return None
    if package.is_file():
        if output.is_dir() or output.suffix != ".onnx":
            raise HtpError(f"{output}: {package} is a file; give the name of a file that ends in .onnx")
    elif output.is_file() or (output.suffix == ".onnx" and not output.exists()):
        raise HtpError(f"{output}: the name of a file, and {package} is a directory; give a directory")
    elif package.resolve() in output.resolve().parents:
        raise HtpError(f"{output}: inside the package that is read; leave the output out to tag it in place")
    settle(output if package.is_dir() else output.parent)
    if not overwrite and output.exists() and (output.is_file() or entries(output)):
        raise HtpError(f"{output}: it exists already; give another path, or overwrite it with --overwrite")
    return output


def copy_others(package: HtpPackage, staged: Path) -> None:
    """Copies all of a package except its tagged files and its sidecar: configs, tokenizers, external data."""
    for file in package.files.values():
        for location in external_data_files(file.model):
            if not Path(os.path.normpath(file.path.parent / location)).is_relative_to(os.path.normpath(package.path)):
                raise HtpError(f"{file.path}: its external data {location} is outside the package; tag it in place")
    for name, path in package_files(package.path):
        if name in package.files or name == SIDECAR:
            continue
        target = staged / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(path, target)
        except OSError as error:
            raise HtpError(f"{path}: cannot be copied: {error.strerror or error}") from error


def copy_data(file: HtpFile, staging: StagedDirectory) -> None:
    """Copies the external data of a file, under the names that it has for it."""
    for location in sorted(external_data_files(file.model)):
        source, target = file.path.parent / location, staging.output / location
        if os.path.normpath(target.absolute()) == os.path.normpath(source.absolute()):
            continue
        source = external_file(file.path, location, package=file.directory)
        if not target.exists():
            staged = staging.path / location
            staged.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, staged)
        elif not target.samefile(source) and not filecmp.cmp(source, target, shallow=False):
            raise HtpError(f"{target}: it exists already, and the model's external data would replace it")


def write_copy(
    package: HtpPackage, target: Path, staging: StagedDirectory, changed: Mapping[str, Callable[[Path], TaggedGraph]]
) -> None:
    """Commits a copy of a package, or of its one file as `target`, in which some files are written anew, by their names.

    What is written for these is in the sidecar; the other files and their records are as they were.
    """
    is_whole = package.path.is_dir()
    if is_whole:
        copy_others(package, staging.path)
    records = {}
    for name, file in package.files.items():
        written = name if is_whole else target.name
        staged = staging.path / written
        staged.parent.mkdir(parents=True, exist_ok=True)
        if not is_whole:
            copy_data(file, staging)
        if name in changed:
            records[written] = FileRecord.of(changed[name](staged)).keeping(file.record)
            continue
        shutil.copyfile(file.path, staged)
        if file.record is not None:
            records[written] = file.record
    write_records(package, records, staging)
    staging.commit(last=SIDECAR)


def write_records(package: HtpPackage, records: Mapping[str, FileRecord], staging: StagedDirectory) -> None:
    """Stages the sidecar of a copy of a package: with these records, in the place of all that the package has.

    A single file has its own in the sidecar that is where it goes, if that knows a file of the name.
    """
    if package.path.is_dir():
        sidecar = replace(package.sidecar or Sidecar({}), files=dict(records), versions=library_versions())
        sidecar.write(staging.path)
        return
    around = Sidecar.read(staging.output)
    if around is not None and records.keys() <= around.files.keys():
        replace(around, files=around.files | dict(records), versions=library_versions()).write(staging.path)
