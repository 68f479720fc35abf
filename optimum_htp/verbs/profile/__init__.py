"""`profile`: where the time goes, and the memory and the work, by module."""

from optimum_htp.verbs.profile.report import ModuleDelta, PhaseDelta, ProfileDelta, ProfileReport
from optimum_htp.verbs.profile.times import (
    CallTime,
    FusedTime,
    GroupTime,
    Kernel,
    Microseconds,
    ModuleTime,
    NodeTime,
    OpTime,
    PhaseProfile,
)
from optimum_htp.verbs.profile.verb import profile
from optimum_htp.verbs.profile.work import NO_WORK, Work, joined
