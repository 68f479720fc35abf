"""Two profiles side by side."""

from __future__ import annotations

from collections.abc import Iterable

from optimum_htp.errors import HtpError
from optimum_htp.hierarchy import split_tag
from optimum_htp.package import pair_files
from optimum_htp.verbs.profile.report import (
    ModuleDelta,
    ModuleTime,
    PhaseDelta,
    PhaseProfile,
    ProfileDelta,
    ProfileReport,
)


def side_by_side(left: ProfileReport, right: ProfileReport) -> ProfileDelta:
    """The phases of two profiles, and their modules, paired.

    Raises:
        HtpError: They have no phase, or in none of them a module, in common.
    """
    others = list(right.phases)
    matches = _matches(left.phases, right.phases)
    pairs: list[PhaseDelta] = []
    lonely: list[str] = []
    for phase in left.phases:
        other = matches.get((phase.phase, phase.file))
        if other is None:
            lonely.append(f"{left.package}: {phase.file} ({phase.phase})")
        else:
            others.remove(other)
            pairs.append(PhaseDelta(phase, other, _paired(phase, other)))
    lonely += [f"{right.package}: {phase.file} ({phase.phase})" for phase in others]
    if not pairs:
        raise HtpError(f"{left.package} and {right.package} have no file and phase in common: {', '.join(lonely)}")
    if not any(module.left and module.right for pair in pairs for module in pair.modules):
        roots = (phase.modules[0].class_name for phase in (pairs[0].left, pairs[0].right) if phase.modules)
        raise HtpError(
            f"{left.package} and {right.package} have no module in common: they are exports of {' and '.join(roots)}; "
            "compare packages of the same model"
        )
    return ProfileDelta(left, right, tuple(pairs), tuple(lonely))


def _matches(left: Iterable[PhaseProfile], right: Iterable[PhaseProfile]) -> dict[tuple[str, str], PhaseProfile]:
    """For each phase of the left, by its kind and file, that of the right: files are paired by kind of phase."""
    sides: dict[str, tuple[dict[str, PhaseProfile], dict[str, PhaseProfile]]] = {}
    for side, phases in enumerate((left, right)):
        for phase in phases:
            sides.setdefault(phase.phase, ({}, {}))[side][phase.file] = phase
    return {
        (kind, file): theirs[match]
        for kind, (ours, theirs) in sides.items()
        for file, match in pair_files(ours, theirs).items()
    }


def _paired(left: PhaseProfile, right: PhaseProfile) -> tuple[ModuleDelta, ...]:
    ours = {module.tag: module for module in left.modules}
    theirs = {module.tag: module for module in right.modules}
    order = list(ours)
    for tag in theirs:
        if tag not in ours:  # below its parent, after all that is there already
            above = tag.rpartition("/")[0]
            places = [place for place, each in enumerate(order) if each == above or each.startswith(above + "/")]
            order.insert(places[-1] + 1 if places else len(order), tag)
    return tuple(_delta(tag, ours.get(tag), theirs.get(tag)) for tag in order)


def _delta(tag: str, left: ModuleTime | None, right: ModuleTime | None) -> ModuleDelta:
    known = left or right
    assert known is not None  # every tag is from one of them
    return ModuleDelta(tag, known.path, known.class_name, len(split_tag(tag)) - 1, left, right)
