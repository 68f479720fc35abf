"""Which source model a package is held against, where its sidecar does not say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optimum_htp.hierarchy.tree import ModuleInfo
from optimum_htp.models.torch_source import load_source_model, source_facts


def root(qualified_class: str) -> ModuleInfo:
    return ModuleInfo((), qualified_class.rpartition(".")[2], qualified_class)


BERT = root("transformers.models.bert.modeling_bert.BertForTokenClassification")


@pytest.mark.parametrize(
    ("recorded", "roots", "library", "task"),
    [
        ({"task": "fill-mask", "library": "transformers"}, [BERT], "transformers", "fill-mask"),
        ({}, [BERT], "transformers", "token-classification"),
        ({"task": "auto"}, [BERT], "transformers", "token-classification"),
        ({}, [root("transformers.models.bert.modeling_bert.BertModel")], "transformers", "feature-extraction"),
        ({}, [root("transformers.models.t5.modeling_t5.T5Stack")], "transformers", None),
        ({}, [root("sentence_transformers.SentenceTransformer.SentenceTransformer")], "sentence_transformers", None),
        ({}, [root("transformers.models.clip.modeling_clip.CLIPTextModel"),
              root("diffusers.models.unets.unet_2d_condition.UNet2DConditionModel")], "diffusers", None),
        ({}, [root("mine.Net")], None, None),
    ],
)  # fmt: skip
def test_what_the_package_tells(
    recorded: dict[str, str], roots: list[ModuleInfo], library: str | None, task: str | None
) -> None:
    """The sidecar, else the classes that were exported."""
    assert source_facts(recorded, roots) == {"task": task, "library": library, "with_past": False}


def test_past_and_the_users_own_task() -> None:
    llama = root("transformers.models.llama.modeling_llama.LlamaForCausalLM")
    assert source_facts({}, [llama], with_past=True)["task"] == "text-generation-with-past"
    assert source_facts({"task": "fill-mask"}, [BERT], task="feature-extraction")["task"] == "feature-extraction"


def test_a_directory_of_two_libraries(zoo_model: Callable[[str], Path]) -> None:
    """Optimum takes it for a sentence-transformers model; what was exported was the transformers model in it."""
    facts = source_facts({}, [root("transformers.models.bert.modeling_bert.BertModel")])
    model = zoo_model("sentence-transformers")
    assert type(load_source_model(model).model).__name__ == "SentenceTransformer"
    assert type(load_source_model(model, **facts).model).__name__ == "BertModel"
