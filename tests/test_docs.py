"""The commands and the code that the documentation shows are ones that there are, and each of them runs."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import optimum_htp
from optimum_htp import HtpPackage
from optimum_htp.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OURS = (["optimum-cli", "htp"], ["optimum-cli", "export", "htp"], ["optimum-htp"])


def blocks(*languages: str) -> list[tuple[str, str]]:
    """The code blocks of all pages, each with the name of its page."""
    return [
        (str(page.relative_to(ROOT)), text)
        for page in PAGES
        for language, text in _BLOCK.findall(page.read_text(encoding="utf-8"))
        if language in languages
    ]


def command_lines(text: str) -> list[list[str]]:
    """The command lines of ours in a block, as `optimum-htp` takes them; of a pipe just what is ours."""
    lines = [
        shlex.split(re.split(r" [|;]|; ", line)[0].removeprefix("$ "), comments=True)
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith(("$ ", "optimum"))
    ]
    return [
        ["export"] * ("export" in start) + words[len(start) :]
        for words in lines
        for start in _OURS
        if words[: len(start)] == start
    ]


def commands() -> list[tuple[str, list[str]]]:
    """Those of all pages."""
    return [(page, words) for page, text in blocks("sh", "console") for words in command_lines(text)]


# What the pages call packages that they start from, and what is there under that name.
_MADE = {
    "exported": "minilm", ".demo/minilm": "minilm", "minilm": "minilm", "plain": "minilm", "int8": "int8",
    "exported_by_optimum": "stripped", "exported_again": "minilm", "bert_onnx": "minilm", "bert_int8": "int8", "merged": "minilm",
    "broken": "minilm", "renamed": "renamed", "PKG": "variants",
}  # fmt: skip


@pytest.fixture(scope="session")
def made(shared_directory: Path, made_once: Callable[..., Path]) -> Path:
    """A tiny model with the module names of MiniLM, and the packages that the pages start from."""
    return made_once(shared_directory / "documented", make_packages)


def make_packages(directory: Path) -> None:
    import numpy as np
    import onnx
    import torch
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import BertConfig, BertModel
    from zoo import save_tokenizer

    from optimum_htp import main_export, project, strip

    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(directory / "model")
    save_tokenizer(directory / "model")
    main_export(str(directory / "model"), directory / "minilm", task="feature-extraction", do_validation=False)
    settings = AutoQuantizationConfig.avx2(is_static=False)
    ORTQuantizer.from_pretrained(directory / "minilm").quantize(
        save_dir=directory / "int8", quantization_config=settings
    )
    project(directory / "int8")
    shutil.copytree(directory / "minilm", directory / "stripped")
    strip(directory / "stripped")
    shutil.copytree(directory / "minilm", directory / "variants")
    shutil.copy(directory / "int8" / "model_quantized.onnx", directory / "variants" / "model_q4.onnx")
    shutil.copytree(directory / "minilm", directory / "renamed")
    model = onnx.load(directory / "renamed" / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["mask" if name == "attention_mask" else name for name in node.input]
    next(value for value in model.graph.input if value.name == "attention_mask").name = "mask"
    onnx.save(model, directory / "renamed" / "model.onnx")
    ids = np.full((1, 8), 7, dtype=np.int64)
    np.savez(directory / "real.npz", input_ids=ids, attention_mask=ids // 7, token_type_ids=ids * 0)
    write_engine(directory / "minilm")


def write_engine(package: Path) -> None:
    """What trtexec would write of an engine that was built from the file of a package."""
    names = [node.name for node in HtpPackage(package).files["model.onnx"].model.graph.nodes]
    package.with_name("layers.json").write_text(json.dumps({"Layers": names, "Bindings": []}))
    times = [{"name": name, "averageMs": 0.01} for name in names]
    package.with_name("times.json").write_text(json.dumps([{"count": 1}, *times]))


@pytest.mark.parametrize("page", sorted({page for page, _ in commands()}))
def test_the_commands_of_a_page_run(
    page: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, in a directory that has the packages which the pages start from."""
    monkeypatch.chdir(tmp_path)
    for function in ("check_installed", "serve"):  # Model Explorer would go on until somebody ends it
        monkeypatch.setattr(f"optimum_htp.verbs.view.{function}", lambda *_, **__: None)
    for name, package in _MADE.items():
        shutil.copytree(made / package, tmp_path / name)
    shutil.copy(made / "real.npz", tmp_path)
    shutil.unpack_archive(ROOT / "tests" / "fixtures" / "transformers5" / "albert.zip", "exported_by_transformers")
    for name in ("layers.json", "times.json"):
        shutil.copy(made / name, tmp_path)
    model = str(made / "model")
    for where, words in commands():
        if where == page and ("openvino" not in words or importlib.util.find_spec("openvino")):
            words = [model if word in ("$MODEL", "path/or/hub-id") else word for word in words]
            try:
                code = main(words)
            except SystemExit as error:  # help
                code = error.code
            assert code in (0, 1), f"{words}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", sorted({page for page, _ in blocks("python")}))
def test_code_compiles_and_imports_what_there_is(page: str) -> None:
    for text in (text for where, text in blocks("python") if where == page):
        for statement in ast.walk(ast.parse(text)):
            if isinstance(statement, ast.ImportFrom) and statement.module == "optimum_htp":
                assert all(hasattr(optimum_htp, name.name) for name in statement.names)


def test_every_command_is_in_the_readme() -> None:
    from optimum_htp.cli.verbs import VERBS

    table = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if not re.search(rf"`{verb} |`{verb}`", table)] == []


def test_readme_links_work_elsewhere() -> None:
    """On PyPI too, where a relative link leads nowhere: they are those of the repository that pyproject.toml names."""
    source = re.search(r'^Source = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert source is not None
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target] == []
    ours = [target.removeprefix(source[1]) for target in targets if target.startswith(source[1])]
    assert ours
    for target in ours:
        _, kind, branch, path = target.split("/", 3)
        assert branch == "main"
        assert (ROOT / path).is_dir() if kind == "tree" else kind in ("blob", "raw") and (ROOT / path).is_file(), (
            target
        )


def test_links_between_pages_lead_somewhere() -> None:
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []
