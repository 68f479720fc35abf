"""What can be run: the PyTorch source model, ONNX Runtime sessions, and their inputs."""

from __future__ import annotations

from optimum_htp.models.auto import AutoModelForONNX
from optimum_htp.models.exported_root import choose_root, returns_attentions
from optimum_htp.models.inputs import (
    InputSizes,
    check_inputs,
    component_config,
    graph_inputs,
    load_inputs,
    make_inputs,
    phases,
)
from optimum_htp.models.measures import (
    TOLERANCES,
    Array,
    Errors,
    compare_arrays,
    computes_in,
    default_tolerance,
    measure_errors,
    measure_in_any_layout,
    random_operators,
    worst_errors,
)
from optimum_htp.models.optimum_tasks import local_task_inference
from optimum_htp.models.runtime import DEFAULT_PROVIDER, check_provider, open_session, run_session, session_options
from optimum_htp.models.torch_parts import (
    Example,
    Part,
    SourceModel,
    as_array,
    dummy_inputs,
    find_parts,
    fixed_sizes,
    load_source_model,
    load_source_of,
    run_reference,
    same_random_numbers,
    source_facts,
    tensors_in,
)
from optimum_htp.models.torch_source import (
    ModelSource,
    dtype_of,
    find_source,
    instantiate_on_meta,
    library_of_classes,
    model_facts,
)


__all__ = [
    "DEFAULT_PROVIDER",
    "TOLERANCES",
    "Array",
    "AutoModelForONNX",
    "Errors",
    "Example",
    "InputSizes",
    "ModelSource",
    "Part",
    "SourceModel",
    "as_array",
    "check_inputs",
    "check_provider",
    "choose_root",
    "compare_arrays",
    "component_config",
    "computes_in",
    "default_tolerance",
    "dtype_of",
    "dummy_inputs",
    "find_parts",
    "find_source",
    "fixed_sizes",
    "graph_inputs",
    "instantiate_on_meta",
    "library_of_classes",
    "load_inputs",
    "load_source_model",
    "load_source_of",
    "local_task_inference",
    "make_inputs",
    "measure_errors",
    "measure_in_any_layout",
    "model_facts",
    "open_session",
    "phases",
    "random_operators",
    "returns_attentions",
    "run_reference",
    "run_session",
    "same_random_numbers",
    "session_options",
    "source_facts",
    "tensors_in",
    "worst_errors",
]
