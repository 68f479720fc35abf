"""The module that a whole sentence model is for sentence-transformers, once its graph pools and normalizes too.

`modules.json` of such a package names it, since sentence-transformers has none: its own modules take the tokens' states of
a graph, under a name that these graphs don't have.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from optimum_htp.models.auto import AutoModelForONNX

_OUTPUTS = ("token_embeddings", "sentence_embedding")


def __getattr__(name: str) -> Any:
    # sentence-transformers asks for the class by its name, and is itself imported by nothing else here.
    if name == "SentenceGraph":
        return _sentence_graph()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _sentence_graph() -> Any:
    try:
        modules = import_module("sentence_transformers.sentence_transformer.modules")
    except ImportError:  # before sentence-transformers 5.7
        modules = import_module("sentence_transformers.models")
    transformer: Any = modules.Transformer

    class SentenceGraph(transformer):  # type: ignore[misc]
        """A graph from tokens to the embedding of a sentence. Texts become tokens as in the source model."""

        def _load_model(self, model_name_or_path: str, *_: Any, **options: Any) -> Any:
            taken = {name: value for name, value in options.items() if name not in ("backend", "config")}
            model = AutoModelForONNX.from_pretrained(model_name_or_path, **taken)
            if not isinstance(getattr(type(self), "auto_model", None), property):  # before sentence-transformers 5.7
                self.auto_model = model
            return model

        def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
            """Adds the embeddings of the sentences, and of their tokens."""
            outputs = self.auto_model(
                **{name: features[name] for name in self.auto_model.input_names if name in features}
            )
            return features | {name: outputs[name] for name in _OUTPUTS if name in outputs}

        def get_embedding_dimension(self) -> int | None:
            """How many numbers an embedding has, None if the graph does not say so."""
            session = self.auto_model.session
            sizes = {value.name: value.shape for value in session.get_outputs()}[_OUTPUTS[1]]
            return sizes[-1] if isinstance(sizes[-1], int) else None

    SentenceGraph.__module__ = __name__
    SentenceGraph.__qualname__ = "SentenceGraph"
    return SentenceGraph
