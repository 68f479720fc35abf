"""The commands and the code that the documentation shows are ones that there are."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import optimum_htp
from optimum_htp.cli.main import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OURS = (["optimum-cli", "htp"], ["optimum-cli", "export", "htp"], ["optimum-htp"])


def blocks(*languages: str) -> list[tuple[str, str]]:
    """The code blocks of all pages, each with the name of its page."""
    return [
        (page.name, text)
        for page in PAGES
        for language, text in _BLOCK.findall(page.read_text(encoding="utf-8"))
        if language in languages
    ]


def commands() -> list[tuple[str, list[str]]]:
    """The command lines of ours in all pages, as `optimum-htp` takes them."""
    lines = [
        (page, shlex.split(line.removeprefix("$ "), comments=True))
        for page, text in blocks("sh", "console")
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith(("$ ", "optimum"))
    ]
    return [
        (page, ["export"] * ("export" in start) + words[len(start) :])
        for page, words in lines
        for start in _OURS
        if words[: len(start)] == start
    ]


@pytest.mark.parametrize(("page", "words"), [pytest.param(*each, id=" ".join(each[1])) for each in commands()])
def test_a_command_is_one_that_is_understood(page: str, words: list[str]) -> None:
    args = build_parser(words).parse_args(words)
    assert hasattr(args, "run"), f"{page}: {words}"


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
        assert (ROOT / path).is_dir() if kind == "tree" else kind == "blob" and (ROOT / path).is_file(), target


def test_links_between_pages_lead_somewhere() -> None:
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []
