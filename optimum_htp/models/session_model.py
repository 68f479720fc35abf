"""A model class for any single ONNX file, with outputs by name: where Optimum has no class that fits (`auto`)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import PackageError

if TYPE_CHECKING:
    from collections.abc import Mapping


@functools.cache
def session_model_class(auto_class: str) -> Any:
    """A subclass of `ORTModel` that a `pipeline` takes for a class such as `"AutoModelForObjectDetection"`."""
    import transformers
    from optimum.onnxruntime import ORTModelForCustomTasks

    # Made here, because the base class is imported when the first model is loaded; mypy does not see it.
    class ORTSessionModel(ORTModelForCustomTasks):  # type: ignore[misc]
        """An ONNX file as a model: takes its inputs by name (or in the graph's order), gives its outputs by name."""

        auto_model_class = getattr(transformers, auto_class)

        def forward(self, *args: Any, return_dict: bool = True, **inputs: Any) -> Any:
            """Runs the model; `token_type_ids` are 0 if not given. Raises ValueError if another input is missing."""
            inputs = {**dict(zip(self.input_names, args, strict=False)), **inputs}
            given = {name: value for name, value in inputs.items() if value is not None}
            known = {name: given[name] for name in self.input_names if name in given}
            self._warn_on_unhandled_inputs({name: value for name, value in given.items() if name not in known})
            if "token_type_ids" in self.input_names and "token_type_ids" not in known and "input_ids" in known:
                known["token_type_ids"] = known["input_ids"] * 0
            missing = [name for name in self.input_names if name not in known]
            if missing:
                raise ValueError(f"the model needs the inputs {list(self.input_names)}; not given: {missing}")
            outputs = super().forward(**known)
            return outputs if return_dict else tuple(outputs.values())

    if auto_class == "AutoModelForObjectDetection":
        # This pipeline recognizes models by name only, and logs that others are not supported.
        from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

        MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES["ort_session_model"] = ORTSessionModel.__name__
    return ORTSessionModel


def generic_config(config: Mapping[str, Any], *, where: str) -> Any:
    """A config of an unknown type, made without remote code. Raises PackageError if transformers refuses it."""
    from transformers import PretrainedConfig

    model_type = config.get("model_type")
    # `to_dict` takes the type from the class; with a class of its own, a saved model keeps it.
    attributes = {"model_type": model_type if isinstance(model_type, str) else ""}
    config_class: Any = type("CustomConfig", (PretrainedConfig,), attributes)
    try:
        return config_class.from_dict(dict(config))
    except (TypeError, ValueError, AttributeError) as error:
        raise PackageError(f"{where}: transformers refuses its config.json ({error}); fix it") from error
