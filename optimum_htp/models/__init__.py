"""What can be run: the PyTorch source model, ONNX Runtime sessions, and their inputs.

`torch_source` finds and loads the model, `torch_parts` cuts it up and runs it, `exported_root` says which module a file
is an export of, `optimum_tasks` the task, `hub_cache` where its small files are, `local_first` that what is here is
taken from here, `trust` whose code runs. `runtime` has sessions, `external_weights` where theirs lie, `half_rounding`
float16 that is computed as such, `flat_graph` a graph as one list of nodes, and `prober` what shows any of its tensors,
`auto` the `ORTModel` of a package, `inputs` what they run on, `part_values` what an extracted part does, by the
`tensor_values` of its package; `measures` says how far results may be apart. `parameters/` finds what initializers were
made of.
"""

from optimum_htp.models.auto import AutoModelForONNX
from optimum_htp.models.claims import GraphSize
from optimum_htp.models.component_parts import load_component_model, load_components
from optimum_htp.models.exported_root import ExportedRoot, choose_root
from optimum_htp.models.flat_graph import FlatGraph
from optimum_htp.models.half_rounding import open_rounded
from optimum_htp.models.hub_cache import SourceFiles, check_model_name, source_files
from optimum_htp.models.inputs import (
    SAMPLES,
    InputSizes,
    as_declared,
    axis_names,
    check_axes,
    check_inputs,
    check_source_of_sizes,
    component_config,
    graph_inputs,
    load_inputs,
    make_inputs,
    paired_inputs,
    paired_outputs,
    phase_of,
    phases,
    read_arrays,
)
from optimum_htp.models.local_first import local_models
from optimum_htp.models.measures import (
    QUANTIZED_OPERATORS,
    Array,
    Errors,
    Measure,
    compare_arrays,
    computes_in,
    default_tolerance,
    finite,
    off_by,
    random_operators,
    worst_errors,
)
from optimum_htp.models.parameters.distinct import distinct_parameters
from optimum_htp.models.parameters.initializers import TaggedInitializer, initializer_values, tagged_initializers
from optimum_htp.models.parameters.origins import Matcher
from optimum_htp.models.parameters.readings import FLOATS, Reading
from optimum_htp.models.parameters.state_dict import SourceTensors, shared_segments
from optimum_htp.models.part_values import part_inputs, part_phases
from optimum_htp.models.prober import HALF_NOTE, PlannedNode, Prober
from optimum_htp.models.runtime import (
    DEFAULT_PROVIDER,
    check_provider,
    graph_limits,
    load_error,
    open_session,
    outputs_of,
    run_session,
    session_options,
    usual_memory,
)
from optimum_htp.models.session_graph import optimized_graph, write_optimized
from optimum_htp.models.task_names import check_task
from optimum_htp.models.torch_parts import (
    Example,
    Part,
    TorchNames,
    as_array,
    dummy_inputs,
    fixed_sizes,
    names_in_torch,
    run_for_file,
    tensors_in,
)
from optimum_htp.models.torch_source import (
    ModelSource,
    SourceModel,
    dtype_of,
    find_source,
    instantiate_on_meta,
    library_of_classes,
    load_source_model,
    load_source_of,
    model_facts,
    recorded_revision,
    returns_attentions,
    source_facts,
)
from optimum_htp.models.trust import only_libraries
from optimum_htp.models.whole_model import find_parts
