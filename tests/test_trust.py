"""Code that comes with a model, or that its files name, runs only with `trust_remote_code`, whichever library loads it."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_htp import AutoModelForONNX, main_export
from optimum_htp.cli.main import main
from optimum_htp.errors import PackageError
from optimum_htp.models.torch_source import find_source, instantiate_on_meta, load_source_model
from optimum_htp.models.trust import _GUARDED, only_libraries, refuse_named_code

Trap = Callable[[Path], str]

ST, DIFFUSERS, TRANSFORMERS = "sentence-transformers", "stable-diffusion", "bert"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is there if a stranger's code ran."""
    return tmp_path / "MARKER"


@pytest.fixture(autouse=True)
def _traps(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that does what no package should when it is imported, and a cache for dynamic modules."""
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "installed_trap.py").write_text(code(marker))
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.utils.hub.HF_MODULES_CACHE", str(tmp_path / "modules"), raising=False)
    monkeypatch.delitem(sys.modules, "installed_trap", raising=False)


def code(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').write('ran')\nclass Evil:\n    def __init__(self, *a, **k): pass\n"


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text()) if path.exists() else {}
    change(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def put_code(model: Path, name: str = "evil.py") -> None:
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text(code(model.parent / "MARKER"))


# Each puts something into a model's directory, and says what the refusal names.


def own_module(model: Path) -> str:
    put_code(model)
    edit(model / "modules.json", lambda modules: modules[0].update(type="evil.Evil"))
    return "evil.Evil in modules.json"


def installed_module(model: Path) -> str:
    edit(model / "modules.json", lambda modules: modules[1].update(type="installed_trap.Evil"))
    return "installed_trap.Evil in modules.json"


def installed_function(model: Path) -> str:
    """Not a class of sentence-transformers, though it begins like one."""
    edit(model / "modules.json", lambda modules: modules[1].update(type="sentence_transformers.util.torch"))
    return "sentence_transformers.util.torch in modules.json"


def routed_module(model: Path) -> str:
    def change(modules: Any) -> None:
        modules[1].update(type="sentence_transformers.models.Router", path="1_Router")

    edit(model / "modules.json", change)
    edit(model / "1_Router" / "router_config.json", lambda config: config.update(types={"a": "installed_trap.Evil"}))
    return "installed_trap.Evil in 1_Router/router_config.json"


def activation(model: Path) -> str:
    def change(modules: Any) -> None:
        modules[1].update(type="sentence_transformers.models.Dense", path="1_Dense")

    edit(model / "modules.json", change)
    edit(model / "1_Dense" / "config.json", lambda config: config.update(activation_function="installed_trap.Evil"))
    return "installed_trap.Evil in 1_Dense/config.json"


def tokenizer_class(model: Path) -> str:
    def change(modules: Any) -> None:
        modules[0].update(type="sentence_transformers.models.WordEmbeddings", path="0_Words")

    edit(model / "modules.json", change)
    config = model / "0_Words" / "wordembedding_config.json"
    edit(config, lambda document: document.update(tokenizer_class="installed_trap.Evil"))
    return "installed_trap.Evil in 0_Words/wordembedding_config.json"


def behind_a_link(model: Path) -> str:
    """A directory of it is a link, which loaders follow."""
    name = activation(model)
    (model / "1_Dense").rename(model.parent / "elsewhere")
    (model / "1_Dense").symlink_to(model.parent / "elsewhere")
    return name


def pickled_weights(model: Path) -> str:
    """A config that turns the safe reading of weights off."""
    edit(model / "sentence_bert_config.json", lambda config: config.update(model_kwargs={"weights_only": False}))
    return "what weights_only: false allows in sentence_bert_config.json"


def trusting_itself(model: Path) -> str:
    edit(model / "sentence_bert_config.json", lambda config: config.update(model_kwargs={"trust_remote_code": True}))
    return "what trust_remote_code: true allows in sentence_bert_config.json"


def own_component(model: Path) -> str:
    put_code(model, "scheduler/evil.py")
    edit(model / "model_index.json", lambda index: index.update(scheduler=["evil", "Evil"]))
    return "scheduler/evil.py in model_index.json"


def own_component_by_the_name_of_a_library(model: Path) -> str:
    put_code(model, "text_encoder/transformers.py")
    return "text_encoder/transformers.py in model_index.json"


def installed_component(model: Path) -> str:
    edit(model / "model_index.json", lambda index: index.update(tokenizer=["installed_trap", "Evil"]))
    return "installed_trap.Evil in model_index.json"


def own_pipeline(model: Path) -> str:
    put_code(model)
    edit(model / "model_index.json", lambda index: index.update(_class_name=["evil", "Evil"]))
    return "evil.Evil in model_index.json"


def kernel(model: Path) -> str:
    edit(model / "config.json", lambda config: config.update(_attn_implementation="stranger/kernel"))
    return "stranger/kernel in config.json"


def kernel_of_a_part(model: Path) -> str:
    edit(
        model / "config.json", lambda config: config.update(text_config={"attn_implementation": "stranger/kernel@v1"})
    )
    return "stranger/kernel@v1 in config.json"


def adapter(model: Path) -> str:
    edit(model / "adapter_config.json", lambda config: config.update(megatron_core="installed_trap"))
    return "installed_trap in adapter_config.json"


def auto_map(model: Path) -> str:
    put_code(model, "configuration_evil.py")

    def change(config: Any) -> None:
        config.update(model_type="evil", auto_map={"AutoConfig": "configuration_evil.Evil"})

    edit(model / "config.json", change)
    return "configuration_evil.py"


TRAPS = {
    ST: [
        own_module, installed_module, installed_function, routed_module, activation, tokenizer_class, behind_a_link,
        pickled_weights, trusting_itself,
    ],
    DIFFUSERS: [own_component, own_component_by_the_name_of_a_library, installed_component, own_pipeline],
    TRANSFORMERS: [kernel, kernel_of_a_part, adapter, auto_map],
}  # fmt: skip
CASES = [pytest.param(name, trap, id=trap.__name__) for name, traps in TRAPS.items() for trap in traps]


def exported_from(model: Path) -> None:
    main_export(str(model), model.parent / "exported", do_validation=False)


def loaded(model: Path) -> None:
    load_source_model(model)


def made_on_meta(model: Path) -> None:
    for part in (model, model / "unet"):
        if (part / "config.json").exists():
            list(instantiate_on_meta(part, tasks=True))


@pytest.mark.parametrize("load", [exported_from, loaded])
@pytest.mark.parametrize(("name", "trap"), CASES)
def test_what_would_run_is_said(
    name: str, trap: Trap, load: Callable[[Path], None], zoo_model: Callable[[str], Path], tmp_path: Path, marker: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(zoo_model(name), model)
    named = trap(model)
    with pytest.raises(PackageError) as raised:
        load(model)
    assert not marker.exists()
    message = str(raised.value)
    assert f"({named})" in message and "\n" not in message
    assert message.startswith(f"{model}: loading it would run code of its own, or that it names (")
    assert message.endswith("read it, and if you trust it, add --trust-remote-code")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("trap", [own_module, installed_module, kernel, auto_map], ids=lambda trap: trap.__name__)
def test_tag(
    trap: Trap, zoo_model: Callable[[str], Path], exported: Callable[..., Path], tmp_path: Path, marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of a package with such files, and of a clean one with the model named."""
    package, model = tmp_path / "package", tmp_path / "model"
    name = ST if trap in TRAPS[ST] else TRANSFORMERS
    shutil.copytree(exported("bert"), package)
    shutil.copytree(zoo_model(name), model)
    named = trap(model)
    if name == ST:
        shutil.copy(model / "modules.json", package)
    elif trap is kernel:
        trap(package)
    commands = [["tag", str(package), "--force"]] if trap is not auto_map else []
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    for command in [*commands, ["tag", str(package), "--force", "--model", str(model)]]:
        assert main(command) == 2
        assert named in capsys.readouterr().err
    assert not marker.exists()
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before


def test_package_of_a_pipeline(exported: Callable[..., Path], tmp_path: Path, marker: Path) -> None:
    """Optimum imports what its model_index.json names."""
    package = tmp_path / "package"
    shutil.copytree(exported(DIFFUSERS), package)
    named = installed_component(package)
    with pytest.raises(PackageError, match=f"{named}.*--trust-remote-code"):
        AutoModelForONNX.from_pretrained(package)
    assert not marker.exists()


def test_what_a_loader_does_not_look_at(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """A package that brings modules.json along loads in ONNX Runtime, and transformers' classes of the model load too."""
    package, model = tmp_path / "package", tmp_path / "model"
    shutil.copytree(exported("bert"), package)
    shutil.copytree(zoo_model(ST), model)
    own_module(model)
    shutil.copy(model / "modules.json", package)
    kernel(package)
    assert AutoModelForONNX.from_pretrained(package).config.model_type == "bert"
    assert load_source_model(model, library="transformers", task="feature-extraction").library == "transformers"
    refuse_named_code(model, "transformers")


@pytest.mark.parametrize("name", [ST, DIFFUSERS, TRANSFORMERS])
def test_ordinary_models(name: str, zoo_model: Callable[[str], Path]) -> None:
    """Nothing in them is taken for code."""
    refuse_named_code(zoo_model(name))


def test_trusted(zoo_model: Callable[[str], Path], tmp_path: Path, marker: Path) -> None:
    """With the flag it runs."""
    model = tmp_path / "model"
    shutil.copytree(zoo_model(ST), model)
    put_code(model)
    modules = "from sentence_transformers.models import Normalize\nclass Evil(Normalize): pass\n"
    (model / "evil.py").write_text(code(marker).partition("class")[0] + modules)
    edit(model / "modules.json", lambda modules: modules[2].update(type="evil.Evil"))
    assert type(load_source_model(model, trust_remote_code=True).model[2]).__name__ == "Evil"
    assert marker.exists()


def test_id_on_the_hub(zoo_model: Callable[[str], Path], tmp_path: Path, marker: Path) -> None:
    """Its files are looked at in the cache."""
    repository = tmp_path / "models--acme--evil"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(zoo_model(ST), snapshot)
    installed_module(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    with pytest.raises(PackageError, match=r"acme/evil: loading it would run .*installed_trap.Evil in modules.json"):
        main_export("acme/evil", tmp_path / "out", cache_dir=str(tmp_path), local_files_only=True)
    assert not marker.exists()


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not looked through is not believed."""
    monkeypatch.setattr("optimum_htp.models.trust._MAX_CONFIGS", 3)
    for number in range(5):
        (tmp_path / f"config{number}.json").write_text("{}")
    with pytest.raises(PackageError, match="more than 3 config files"):
        refuse_named_code(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[1]", '{"a": ' * 5000, '{"types": 1, "type": [], "x": {"types": [1]}}']
)
def test_files_that_are_not_what_they_should_be(text: str, tmp_path: Path) -> None:
    """Whoever loads the model says so."""
    for name in (
        "modules.json",
        "model_index.json",
        "config.json",
        "adapter_config.json",
        "sentence_bert_config.json",
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "loop").symlink_to(".")
    refuse_named_code(tmp_path)


# --- What runs anyway is stopped ----------------------------------------------------------------------------------


def test_libraries_have_what_is_guarded() -> None:
    """An upgrade that moves one of these functions has to be noticed."""
    there = {(module, name) for module, name, _ in _GUARDED if hasattr(import_module(module), name)}
    assert {name for _, name in there} == {name for _, name, _ in _GUARDED}
    assert {module.partition(".")[0] for module, _ in there} == {
        "diffusers",
        "sentence_transformers",
        "torch",
        "transformers",
    }


def dynamic_class(model: Path) -> None:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    get_class_from_dynamic_module("evil.Evil", str(model))


def diffusers_class(model: Path) -> None:
    from diffusers.utils.dynamic_modules_utils import get_class_in_module

    get_class_in_module("Evil", "evil.py")


def imported_class(model: Path) -> None:
    from sentence_transformers.util.misc import import_from_string

    import_from_string("installed_trap.Evil")


def hub_kernel(model: Path) -> None:
    from transformers import modeling_utils

    modeling_utils.load_and_register_kernel("stranger/kernel")


def pickle_of(model: Path) -> None:
    torch.load(model / "weights.bin", weights_only=False)


class Evil:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (eval, (f"open({str(self.marker)!r}, 'w').write('ran')",))


@pytest.mark.parametrize("run", [dynamic_class, diffusers_class, imported_class, hub_kernel, pickle_of])
def test_guards(run: Callable[[Path], None], tmp_path: Path, marker: Path) -> None:
    """Also where no file of the model said so; not where it is trusted, nor afterwards."""
    model = tmp_path / "model"
    put_code(model)
    (model / "weights.bin").write_bytes(pickle.dumps(Evil(marker)))
    with (
        pytest.raises(PackageError, match="--trust-remote-code"),
        only_libraries(model, trust_remote_code=False, library="sentence_transformers"),
    ):
        run(model)
    assert not marker.exists()
    with only_libraries(model, trust_remote_code=True):
        if run not in (diffusers_class, hub_kernel):  # which would have to be in a cache
            with_errors(lambda: run(model))
            assert marker.exists()
    originals = [getattr(import_module(module), name) for module, name, _ in _GUARDED]
    assert not any(getattr(original, "__name__", "") == "guarded" for original in originals)


def with_errors(run: Callable[[], None]) -> None:
    try:
        run()
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError):
        return


def test_guards_of_several_threads(tmp_path: Path) -> None:
    """The first that leaves does not take them from the others; a thread that trusts its model is not kept from it."""
    model = tmp_path / "model"
    model.mkdir()
    torch.save({"a": 1}, model / "weights.bin")
    refused: list[bool] = []

    def other() -> None:
        with only_libraries(model, trust_remote_code=False):
            pass
        with only_libraries(model, trust_remote_code=True):
            torch.load(model / "weights.bin", weights_only=False)
        refused.append(False)

    with only_libraries(model, trust_remote_code=False):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with pytest.raises(PackageError, match="a pickle"):
            torch.load(model / "weights.bin", weights_only=False)
        assert torch.load(model / "weights.bin") == {"a": 1}
    assert refused == [False]


def test_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a loader was not told whether to run code, transformers refuses instead of asking."""
    from transformers.dynamic_module_utils import resolve_trust_remote_code

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with (
        pytest.raises(PackageError, match=r"MODEL: loading it would run .*its own code"),
        only_libraries("MODEL", trust_remote_code=False),
    ):
        resolve_trust_remote_code(None, "model", has_local_code=False, has_remote_code=True)


def test_source_on_the_hub_that_is_not_there() -> None:
    with pytest.raises(PackageError, match="no such directory, and the Hub does not have it"):
        find_source("acme/missing")
