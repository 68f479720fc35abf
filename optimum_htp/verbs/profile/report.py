"""What `profile` reports: where the time of a package goes, and of two packages side by side.

The times themselves are in `times`; `cli/views/profile.py` prints them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from optimum_htp.errors import HtpError
from optimum_htp.package import FileTraits, partners
from optimum_htp.reports import Brief, Report, called, numbered
from optimum_htp.verbs.profile.times import ModuleTime, PhaseProfile, in_tree_order


@dataclass(frozen=True, slots=True, repr=False)
class ProfileReport(Report):
    """Where the time of a package goes.

    Attributes:
        package: The package.
        provider: The execution provider of ONNX Runtime, or the device of another runtime.
        threads: Threads within an operator; None for the runtime's own choice.
        warmup: Runs before those that count; None where the runtime doesn't say.
        runs: Runs that count, of each phase.
        version: The runtime's version; empty where it doesn't say.
        phases: What was run.
        notes: What to know when reading the times.
        fingerprints: What each file that was run is recognized by, whatever its name and its tags.
        runtime: What ran it: `onnxruntime`, `openvino` or `tensorrt`.
        average: What a time is that has one value for all runs, and how others are shown: `median` or `mean`.
    """

    package: str
    provider: str
    threads: int | None
    warmup: int | None
    runs: int
    version: str
    phases: tuple[PhaseProfile, ...]
    notes: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    _traits: tuple[FileTraits, ...] = field(default=(), repr=False)
    runtime: str = "onnxruntime"
    average: str = "median"

    @property
    def files(self) -> dict[str, tuple[PhaseProfile, ...]]:
        """The phases of each file that was run, by the file's path in the package."""
        names = dict.fromkeys(phase.file for phase in self.phases)
        return {name: tuple(phase for phase in self.phases if phase.file == name) for name in names}

    def __getitem__(self, name: str) -> ModuleTime:
        """The module with a dotted path (`""` is the root) or a tag, of the one phase that has it.

        Raises:
            UnknownNameError: There is none, or several phases have it.
        """
        return _module(name, ((where, phase.modules) for where, phase in numbered("phases", self.phases)))

    def compared_with(self, other: ProfileReport) -> ProfileDelta:
        """This profile and another side by side, by module: of a package before and after quantization, say.

        Raises:
            HtpError: They have no phase, or in none of them a module, in common.
        """
        pairs, unpaired = _paired(self, other)
        both = f"{self.package} and {other.package}"
        if not pairs:
            raise HtpError(f"{both} have no file and phase in common: {'; '.join(unpaired)}")
        deltas = tuple(PhaseDelta(left, right, _modules_of_both(left, right)) for left, right in pairs)
        if not any(module.left and module.right for delta in deltas for module in delta.modules):
            roots = (phase.modules[0].class_name for phase in pairs[0] if phase.modules)
            raise HtpError(
                f"{both} have no module in common: they are exports of {' and '.join(roots)}; compare packages of the "
                "same model"
            )
        return ProfileDelta(self, other, deltas, tuple(unpaired))

    def to_dict(self) -> dict[str, Any]:
        """What `profile --json` prints; times are microseconds, sizes bytes, and null is what is not known."""
        return {
            "package": self.package,
            "runtime": self.runtime,
            "version": self.version,
            **(
                {"onnxruntime": self.version} if self.runtime == "onnxruntime" else {}
            ),  # as it was before there were others
            "provider": self.provider,
            "threads": self.threads,
            "warmup": self.warmup,
            "runs": self.runs,
            "average": self.average,
            "notes": list(self.notes),
            "fingerprints": dict(self.fingerprints),
            "phases": [phase.to_dict() for phase in self.phases],
        }


@dataclass(frozen=True, slots=True, repr=False)
class ModuleDelta(Brief):
    """One module in two packages.

    Attributes:
        tag: Its tag.
        path: Its dotted path.
        class_name: Its class.
        depth: Modules above it.
        left: Its time in the first package; None where it did not run there.
        right: Its time in the second.
    """

    tag: str
    path: str
    class_name: str
    depth: int
    left: ModuleTime | None
    right: ModuleTime | None

    @property
    def ratio(self) -> float | None:
        """The second's median total time over the first's."""
        if self.left is None or self.right is None or not self.left.total_time.median:
            return None
        return self.right.total_time.median / self.left.total_time.median

    def to_dict(self) -> dict[str, Any]:
        """The module as JSON."""
        left, right = self.left, self.right
        return {
            "path": self.path,
            "class": self.class_name,
            "tag": self.tag,
            "left": left.total_time.to_dict() if left else None,
            "right": right.total_time.to_dict() if right else None,
            "left_self": left.self_time.to_dict() if left else None,
            "right_self": right.self_time.to_dict() if right else None,
            "left_work": left.total_work.to_dict() if left else None,
            "right_work": right.total_work.to_dict() if right else None,
            "ratio": self.ratio,
        }


@dataclass(frozen=True, slots=True, repr=False)
class PhaseDelta(Brief):
    """A phase in the first (`left`) and the second package (`right`), and the modules of both."""

    left: PhaseProfile
    right: PhaseProfile
    modules: tuple[ModuleDelta, ...]

    def __getitem__(self, name: str) -> ModuleDelta:
        """The module with a dotted path (`""` is the root) or a tag.

        Raises:
            UnknownNameError: There is none.
        """
        return called(
            name, (((module.path, module.tag), self.left.file, module) for module in self.modules), what="module"
        )

    def to_dict(self) -> dict[str, Any]:
        """The phase as JSON."""
        return {
            "left_file": self.left.file,
            "right_file": self.right.file,
            "phase": self.left.phase,
            "left_kernel_time": self.left.kernel_time.to_dict(),
            "right_kernel_time": self.right.kernel_time.to_dict(),
            "left_unattributed": self.left.unattributed.to_dict(),
            "right_unattributed": self.right.unattributed.to_dict(),
            "left_work": self.left.work.to_dict(),
            "right_work": self.right.work.to_dict(),
            "modules": [module.to_dict() for module in self.modules],
        }


@dataclass(frozen=True, slots=True, repr=False)
class ProfileDelta(Report):
    """Where the time of two packages goes, side by side.

    `left` and `right` are their profiles, `phases` those that both have, `unpaired` the files and phases of only one.
    """

    left: ProfileReport
    right: ProfileReport
    phases: tuple[PhaseDelta, ...]
    unpaired: tuple[str, ...]

    def __getitem__(self, name: str) -> ModuleDelta:
        """The module with a dotted path (`""` is the root) or a tag, of the one phase that has it.

        Raises:
            UnknownNameError: There is none, or several phases have it.
        """
        return _module(name, ((where, phase.modules) for where, phase in numbered("phases", self.phases)))

    def to_dict(self) -> dict[str, Any]:
        """What `profile --compare --json` prints; times are microseconds, sizes bytes."""
        return {
            "left": self.left.package,
            "right": self.right.package,
            "left_runtime": self.left.runtime,
            "right_runtime": self.right.runtime,
            "unpaired": list(self.unpaired),
            "phases": [phase.to_dict() for phase in self.phases],
        }


def _paired(left: ProfileReport, right: ProfileReport) -> tuple[list[tuple[PhaseProfile, PhaseProfile]], list[str]]:
    """The phases of files that go with each other, and in words those that go with none."""
    sides = [side._traits or tuple(FileTraits(name=name) for name in side.files) for side in (left, right)]
    found = partners(*sides)
    # What others of the same package were made from stands beside these, and not beside itself.
    here = {traits.place for traits in sides[1] if traits.place is not None}
    origins = {partner.other for partner in found.values() if partner.other != partner.file}
    aside = {traits.name for traits in sides[0] if traits.place in here and traits.name in origins}
    known = {(phase.phase, phase.file): phase for phase in right.phases}
    pairs: list[tuple[PhaseProfile, PhaseProfile]] = []
    unpaired: list[str] = []
    used: set[tuple[str, str]] = set()
    for phase in left.phases:
        partner = found[phase.file]
        key = phase.phase, partner.other or ""
        if key not in known:
            why = f": {partner.problem(right.package)}" if partner.candidates else ""
            unpaired.append(f"{left.package}: {phase.file} ({phase.phase}){why}")
        elif phase.file not in aside or partner.other != phase.file:
            pairs.append((phase, known[key]))
            used.add(key)
    unpaired += [f"{right.package}: {file} ({kind})" for kind, file in known if (kind, file) not in used]
    return pairs, unpaired


def _modules_of_both(left: PhaseProfile, right: PhaseProfile) -> tuple[ModuleDelta, ...]:
    ours = {module.tag: module for module in left.modules}
    theirs = {module.tag: module for module in right.modules}
    known = {**theirs, **ours}
    return tuple(
        ModuleDelta(tag, known[tag].path, known[tag].class_name, known[tag].depth, ours.get(tag), theirs.get(tag))
        for tag in in_tree_order({**ours, **theirs})
    )


_M = TypeVar("_M", ModuleTime, ModuleDelta)


def _module(name: str, phases: Iterable[tuple[str, Iterable[_M]]]) -> _M:
    """The module of a name among those of some phases. Raises UnknownNameError if there is not just one."""
    things = (((module.path, module.tag), where, module) for where, modules in phases for module in modules)
    return called(name, things, what="module")
