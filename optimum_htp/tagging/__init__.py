"""Where tags come from: the trace of an export, rules that read it, and tags carried to other graphs."""

from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.projection.flow import Flow
from optimum_htp.tagging.projection.steps import project, refuse_empty, work_of
from optimum_htp.tagging.rules.metadata import (
    CLASS_HIERARCHY,
    NAME_SCOPES,
    Statements,
    described_trace,
    listed_in,
    statements,
)
from optimum_htp.tagging.rules.node_names import ScopeFit, fit_scopes, has_scopes
from optimum_htp.tagging.rules.order import tag_export, tag_model
from optimum_htp.tagging.rules.statements import with_calls
from optimum_htp.tagging.rules.weights import parameter_name
from optimum_htp.tagging.tracing.modules import static_trace
from optimum_htp.tagging.tracing.tap import ModuleTap, Tagger, place_in_model
from optimum_htp.tagging.tracing.trace import ExportTrace, ModuleTrace
