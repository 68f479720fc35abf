"""What `profile` reports: where the time of a package goes, and of two packages side by side.

The times themselves are in `times`; how they are printed is in `cli/views/profile.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import split_tag
from optimum_htp.package import pair_files
from optimum_htp.verbs.profile.times import ModuleTime, PhaseProfile


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """Where the time of a package goes.

    Attributes:
        package: The package.
        provider: The execution provider.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        warmup: Runs before those that count.
        runs: Runs that count, of each phase.
        onnxruntime: Its version.
        phases: What was run.
        notes: What to know when reading the times.
    """

    package: str
    provider: str
    threads: int | None
    warmup: int
    runs: int
    onnxruntime: str
    phases: tuple[PhaseProfile, ...]
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, tuple[PhaseProfile, ...]]:
        """The phases of each file that was run, by the file's path in the package."""
        names = dict.fromkeys(phase.file for phase in self.phases)
        return {name: tuple(phase for phase in self.phases if phase.file == name) for name in names}

    def compared_with(self, other: ProfileReport) -> ProfileDelta:
        """This profile and another side by side, by module: of a package before and after quantization, say.

        Raises:
            HtpError: They have no phase, or in none of them a module, in common.
        """
        others = list(other.phases)
        partners = _partners(self.phases, others)
        pairs: list[PhaseDelta] = []
        unpaired: list[str] = []
        for phase in self.phases:
            partner = partners.get((phase.phase, phase.file))
            if partner is None:
                unpaired.append(f"{self.package}: {phase.file} ({phase.phase})")
            else:
                others.remove(partner)
                pairs.append(PhaseDelta(phase, partner, _paired(phase, partner)))
        unpaired += [f"{other.package}: {phase.file} ({phase.phase})" for phase in others]
        both = f"{self.package} and {other.package}"
        if not pairs:
            raise HtpError(f"{both} have no file and phase in common: {', '.join(unpaired)}")
        if not any(module.left and module.right for pair in pairs for module in pair.modules):
            roots = (phase.modules[0].class_name for phase in (pairs[0].left, pairs[0].right) if phase.modules)
            raise HtpError(
                f"{both} have no module in common: they are exports of {' and '.join(roots)}; compare packages of the "
                "same model"
            )
        return ProfileDelta(self, other, tuple(pairs), tuple(unpaired))

    def to_dict(self) -> dict[str, Any]:
        """What `profile --json` prints; times are microseconds."""
        return {
            "package": self.package,
            "provider": self.provider,
            "threads": self.threads,
            "warmup": self.warmup,
            "runs": self.runs,
            "onnxruntime": self.onnxruntime,
            "notes": list(self.notes),
            "phases": [phase.to_dict() for phase in self.phases],
        }


@dataclass(frozen=True, slots=True)
class ModuleDelta:
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
            "ratio": self.ratio,
        }


@dataclass(frozen=True, slots=True)
class PhaseDelta:
    """A phase of two packages.

    Attributes:
        left: In the first package.
        right: In the second.
        modules: The modules of both.
    """

    left: PhaseProfile
    right: PhaseProfile
    modules: tuple[ModuleDelta, ...]

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
            "modules": [module.to_dict() for module in self.modules],
        }


@dataclass(frozen=True, slots=True)
class ProfileDelta:
    """Where the time of two packages goes, side by side.

    Attributes:
        left: The first package.
        right: The second.
        phases: The phases that both have.
        unpaired: The files and phases that only one has.
    """

    left: ProfileReport
    right: ProfileReport
    phases: tuple[PhaseDelta, ...]
    unpaired: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `profile --compare --json` prints; times are microseconds."""
        return {
            "left": self.left.package,
            "right": self.right.package,
            "unpaired": list(self.unpaired),
            "phases": [phase.to_dict() for phase in self.phases],
        }


def _partners(phases: Iterable[PhaseProfile], others: Iterable[PhaseProfile]) -> dict[tuple[str, str], PhaseProfile]:
    """The phase of the other profile that goes with each, by its kind and file: of the same kind, the file's partner."""
    sides: dict[str, tuple[dict[str, PhaseProfile], dict[str, PhaseProfile]]] = {}
    for side, profiles in enumerate((phases, others)):
        for phase in profiles:
            sides.setdefault(phase.phase, ({}, {}))[side][phase.file] = phase
    return {
        (kind, file): theirs[partner]
        for kind, (ours, theirs) in sides.items()
        for file, partner in pair_files(ours, theirs).items()
    }


def _paired(left: PhaseProfile, right: PhaseProfile) -> tuple[ModuleDelta, ...]:
    ours = {module.tag: module for module in left.modules}
    theirs = {module.tag: module for module in right.modules}
    order = list(ours)
    for tag in theirs:
        if tag not in ours:  # below its parent, after all that is there already
            above = tag.rpartition("/")[0]
            inside = [place for place, known in enumerate(order) if known == above or known.startswith(above + "/")]
            order.insert(inside[-1] + 1 if inside else len(order), tag)
    return tuple(_delta(tag, ours.get(tag), theirs.get(tag)) for tag in order)


def _delta(tag: str, left: ModuleTime | None, right: ModuleTime | None) -> ModuleDelta:
    known = left or right
    assert known is not None  # every tag is from one of them
    return ModuleDelta(tag, known.path, known.class_name, len(split_tag(tag)) - 1, left, right)
