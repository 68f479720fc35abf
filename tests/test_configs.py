"""The files beside the graphs: limits, what an export is completed with, and the block in config.json."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimum_htp.errors import PackageError
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.package.configs import (
    METADATA_KEY,
    add_config_metadata,
    code_files,
    complete_package,
    generates,
    is_inside,
    remove_config_metadata,
    reset_modes,
)
from optimum_htp.package.json_files import parse_config, read_config
from optimum_htp.package.limits import MAX_CONFIG_BYTES, MAX_JSON_DEPTH
from optimum_htp.package.sidecar.record import FileRecord

TREE = ModuleTree(
    [
        ModuleInfo((), "Net", "toy.Net"),
        ModuleInfo(("first",), "Linear", "torch.nn.Linear"),
        ModuleInfo(("second",), "Linear", "torch.nn.Linear"),
    ]
)
RECORDS = {"model.onnx": FileRecord("digest", Roots([Root(TREE)]), {}, {})}
BLOCK = {
    "export_strategy": "htp",
    "files": {"model.onnx": {"modules": 3, "module_types": {"Linear": 2, "Net": 1}}},
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "package"
    path.mkdir()
    (path / "config.json").write_text('{\n  "architectures": ["BertModel"],\n  "model_type": "bert"\n}\n')
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def write(directory: Path, **files: Any) -> None:
    """Files by name (`__` stands for a dot): text as it is, anything else as JSON."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        path = directory / name.replace("__", ".")
        path.write_text(text)


# --- Reading ------------------------------------------------------------------------------------------------------


def nested(depth: int, opening: str = '{"a":', closing: str = "}") -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


def test_depth() -> None:
    """As deep as is allowed, and a level more; objects and lists count alike."""
    assert parse_config(nested(MAX_JSON_DEPTH), where="x")
    for content in (nested(MAX_JSON_DEPTH + 1), b'{"a":' + nested(MAX_JSON_DEPTH, "[", "]") + b"}", nested(200_000)):
        with pytest.raises(PackageError, match="x: nested deeper than"):
            parse_config(content, where="x")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff", b'{"a": 1e', b"\x00" * 10])
def test_no_config(content: bytes) -> None:
    """What not a JSON object."""
    with pytest.raises(PackageError, match=r"x: (not JSON|not a JSON object)"):
        parse_config(content, where="x")


def test_size(tmp_path: Path) -> None:
    """A file that is too large is not read at all: a sparse one takes no room."""
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(MAX_CONFIG_BYTES + 1)
    with pytest.raises(PackageError, match="bytes, and"):
        read_config(path)
    assert read_config(tmp_path / "nothing.json") is None
    with pytest.raises(PackageError, match="not a regular file"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("auto_map", "names"),
    [
        ({"AutoModel": "modeling_x.X", "AutoConfig": "configuration_x.C"}, ["modeling_x.py", "configuration_x.py"]),
        ({"AutoTokenizer": ["tok_slow.T", None]}, ["tok_slow.py"]),
        ({"AutoModel": "org/name--modeling_x.X"}, []),
        ({"AutoModel": "../evil.X"}, []),
        ({"AutoModel": "/etc/evil.X"}, []),
        ({"AutoModel": "sub.module.X"}, ["sub/module.py"]),
        ({"AutoModel": 3}, []),
        (["tok.T", "tok_fast.T"], ["tok.py", "tok_fast.py"]),
        ("text", []),
        (3, []),
        (None, []),
    ],
)
def test_code_files(auto_map: Any, names: list[str]) -> None:
    """Only names of Python files beside the config, whatever an auto_map says."""
    assert code_files({"auto_map": auto_map}, None, {}) == names


def test_generates() -> None:
    """By the class; a config may say anything."""
    assert generates({"architectures": ["T5ForConditionalGeneration"]})
    assert not generates({"architectures": "GPT2LMHeadModel"})
    assert not generates({"architectures": [None, 3]})


def test_is_inside(tmp_path: Path) -> None:
    """Links are followed; the blobs are those of the same repository only."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    (snapshot / "good").symlink_to("../../blobs/1")
    (snapshot / "bad").symlink_to("../../../models--other/blobs/1")
    assert is_inside(snapshot / "good", snapshot)
    assert is_inside(snapshot / "onnx" / "x", snapshot / "onnx")
    assert not is_inside(snapshot / "bad", snapshot)
    assert not is_inside(snapshot / ".." / "x", snapshot)


# --- Completing ---------------------------------------------------------------------------------------------------


def test_code_is_copied_and_never_run(package: Path, source: Path) -> None:
    """What the auto_map names, what that imports from beside it, and nothing else."""
    marker = source / "ran"
    (source / "parts").mkdir()
    write(source, config__json={"auto_map": {"AutoModel": "modeling_x.X"}}, unused__py="", secret__txt="")
    write(
        source,
        modeling_x__py=f"from .layers import Block\nfrom . import extra\nimport os\nopen({str(marker)!r}, 'w')\n",
        layers__py="from .parts.norm import Norm\n",
        extra__py="def broken(:\n",
    )
    write(source / "parts", norm__py="from ..layers import Block\nfrom ...outside import x\n")
    added = complete_package(package, source)
    assert sorted(added) == ["extra.py", "layers.py", "modeling_x.py", "parts/norm.py"]
    assert (package / "parts" / "norm.py").read_text() == (source / "parts" / "norm.py").read_text()
    assert not marker.exists()


def test_what_optimum_saved_stays(package: Path, source: Path) -> None:
    """Nothing is replaced, and of a kind that the package has nothing is added."""
    write(package, tokenizer__json={"a": 1}, preprocessor_config__json={})
    write(
        source, tokenizer__json={"a": 2}, vocab__txt="a", preprocessor_config__json={"b": 1}, processor_config__json={}
    )
    assert complete_package(package, source) == []
    assert json.loads((package / "tokenizer.json").read_text()) == {"a": 1}


def test_what_optimum_could_not_load(package: Path, source: Path) -> None:
    """The tokenizer of a class that only its own code has, a processor, a chat template."""
    write(source, tokenizer_config__json={"auto_map": {"AutoTokenizer": ["tok.T", None]}}, vocab__txt="a", tok__py="")
    write(source, preprocessor_config__json={}, chat_template__jinja="{{ messages }}", model__safetensors="weights")
    added = complete_package(package, source)
    assert sorted(added) == [
        "chat_template.jinja",
        "preprocessor_config.json",
        "tok.py",
        "tokenizer_config.json",
        "vocab.txt",
    ]


def test_generation_config(package: Path, source: Path) -> None:
    """Of a generating model only."""
    write(source, generation_config__json={"max_length": 9})
    assert complete_package(package, source) == []
    write(package, config__json={"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    assert complete_package(package, source) == ["generation_config.json"]


def test_broken_files_are_not_copied(package: Path, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no JSON or nested too deep is told of."""
    (source / "preprocessor_config.json").write_bytes(nested(100_000))
    write(source, processor_config__json="{", tokenizer_config__json={})
    assert complete_package(package, source) == ["tokenizer_config.json"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "nested deeper" in caplog.text


def test_links_are_not_followed_out_of_the_model(package: Path, source: Path, tmp_path: Path) -> None:
    """A downloaded model must not be able to bring a file of the user's into a package."""
    write(tmp_path, secret__txt="secret", secret__py="password = 1")
    (source / "vocab.txt").symlink_to(tmp_path / "secret.txt")
    (source / "modeling_x.py").symlink_to(tmp_path / "secret.py")
    write(source, config__json={"auto_map": {"AutoModel": "modeling_x.X"}})
    assert complete_package(package, source) == []


def test_modes(package: Path, source: Path) -> None:
    """Neither executable nor for the owner only: what a new file has under the user's mask."""
    write(source, vocab__txt="a", tokenizer_config__json={})
    (source / "vocab.txt").chmod(0o777)
    (package / "unet").mkdir(0o700)
    write(package / "unet", config__json={})
    (package / "unet" / "config.json").chmod(0o600)
    before = os.umask(0o027)
    try:
        complete_package(package, source)
        reset_modes(package)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in package.rglob("*")}
    assert (modes["vocab.txt"], modes["unet"], modes["tokenizer_config.json"]) == (0o640, 0o750, 0o640)
    assert stat.S_IMODE((package / "unet" / "config.json").stat().st_mode) == 0o640


def test_model_of_the_hub(package: Path) -> None:
    """An id is no directory: Optimum has saved what there is."""
    assert complete_package(package, "org/name") == []


# --- The block in config.json -------------------------------------------------------------------------------------


CONFIGS = [
    '{\n  "architectures": [\n    "X"\n  ],\n  "model_type": "bert"\n}\n',
    '{"model_type":"bert"}',
    '{"model_type": "bert"  }  \n\n',
    "{}",
    "{\n}\n",
    '{"a": {"htp_metadata": {"b": 1}}, "c": "\\"htp_metadata\\": {}"}',
    '{"name": "Modèle", "z": [1, 2, 3]}\r\n',
    "\ufeff" + '{"a": 1}',
]


@pytest.mark.parametrize("text", CONFIGS)
def test_block_is_taken_out_to_the_byte(tmp_path: Path, text: str) -> None:
    """Adding, adding again and removing gives back the file; all other bytes stay in between."""
    path = tmp_path / "config.json"
    path.write_bytes(text.encode())
    before = parse_config(text.encode(), where="x")
    assert add_config_metadata(tmp_path, RECORDS)
    once = path.read_bytes()
    assert parse_config(once, where="x") == {**before, METADATA_KEY: BLOCK}
    assert add_config_metadata(tmp_path, RECORDS)
    assert path.read_bytes() == once
    assert remove_config_metadata(tmp_path)
    assert path.read_bytes() == text.encode()
    assert not remove_config_metadata(tmp_path)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("first", ["a", "i", "z"])
def test_block_that_another_tool_moved(tmp_path: Path, indent: int | None, first: str) -> None:
    """transformers sorts the members when it saves: the block is taken out wherever it is."""
    members = {first: 1, METADATA_KEY: BLOCK, "k": {"deep": [1]}}
    (tmp_path / "config.json").write_text(json.dumps(members, indent=indent, sort_keys=True))
    assert remove_config_metadata(tmp_path)
    assert read_config(tmp_path / "config.json") == {first: 1, "k": {"deep": [1]}}


def test_block_that_transformers_wrote_again(tmp_path: Path) -> None:
    """What is left are the bytes that transformers would have written without it."""
    from transformers import BertConfig

    BertConfig(htp_metadata=BLOCK, name_or_path="é").save_pretrained(tmp_path)
    assert remove_config_metadata(tmp_path)
    left = (tmp_path / "config.json").read_bytes()
    BertConfig(name_or_path="é").save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == left


def test_block_that_is_there_twice(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"htp_metadata": 1, "a": 2, "htp_metadata": 3}')
    assert remove_config_metadata(tmp_path)
    assert read_config(tmp_path / "config.json") == {"a": 2}


def test_no_config_no_block(tmp_path: Path) -> None:
    """A diffusion pipeline has model_index.json, which diffusers reads member by member."""
    assert not add_config_metadata(tmp_path, RECORDS)
    assert not remove_config_metadata(tmp_path)
    (tmp_path / "config.json").write_bytes('{"a": "é"}'.encode("utf-16"))
    with pytest.raises(PackageError, match="not UTF-8"):
        add_config_metadata(tmp_path, RECORDS)


def test_transformers_reads_it(package: Path) -> None:
    """A config with the block loads, and keeps it."""
    from transformers import AutoConfig

    add_config_metadata(package, RECORDS)
    config = AutoConfig.from_pretrained(str(package))
    assert config.htp_metadata == BLOCK


def test_real_packages(zoo_model: Callable[[str], Path], package: Path) -> None:
    """A model with code of its own: its files are what was missing."""
    (package / "config.json").write_bytes((zoo_model("remote-code") / "config.json").read_bytes())
    added = complete_package(package, zoo_model("remote-code"), trust_remote_code=True)
    assert {"configuration_tiny.py", "modeling_tiny.py", "tokenizer.json"} <= set(added)
