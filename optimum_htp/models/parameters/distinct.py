"""The initializers whose values are those of one parameter and of no other: what a file proves without any names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_htp.models.parameters.initializers import initializer_values, tagged_initializers
from optimum_htp.models.parameters.origins import Matcher
from optimum_htp.models.parameters.state_dict import SourceTensors
from optimum_htp.package import HtpFile
from optimum_htp.tagging import TaggedGraph

if TYPE_CHECKING:
    import torch


def distinct_parameters(file: HtpFile, module: torch.nn.Module) -> dict[tuple[str, str], str]:
    """The parameter or buffer of a module that each initializer holds, by the initializer's graph and name.

    It may be transposed, reshaped, rounded to another type, quantized, or folded with a batch norm. Left out is what is
    equal to several parameters, and what numbers can't tell, such as zeros. A tied parameter is one, whatever its names.
    """
    tensors: dict[str, torch.Tensor] = {}
    for named in (module.named_parameters, module.named_buffers):
        tensors.update(named(remove_duplicate=False))
    initializers = tagged_initializers(TaggedGraph(file.model, {}))
    found: dict[tuple[str, str], str] = {}
    with initializer_values(file) as read:
        matcher = Matcher(SourceTensors.of(module), initializers, read)
        for initializer in initializers:
            array = read(initializer)
            names = matcher.anywhere(initializer, array) if array is not None else ()
            if len({id(tensors[name]) if name in tensors else name for name in names}) == 1:
                found[initializer.key] = names[0]
    return found
