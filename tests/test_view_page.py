"""The page of `view` in a browser: it draws, zooms, finds and opens what a link names, and hostile names do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, DRIVER, Browser
from layered_toy import fused_package, layered_package

from optimum_htp import compare, profile, view

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)",
    ),
]

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">\u202e"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`f.html`, of an optimized toy with all that there is to show; `evil.html`, whose names are hostile."""
    directory = tmp_path_factory.mktemp("pages")
    layered_package(directory / "a")
    fused_package(directory / "f", origin=directory / "a")
    name = lambda each: each + HOSTILE  # noqa: E731
    layered_package(directory / "evil", name=name)
    layered_package(directory / "other", name=name, seed=1)
    for package, other in (("f", "a"), ("evil", "other")):
        times = profile(directory / package, runs=2, warmup=0, threads=1)
        errors = compare(directory / package, reference=directory / other, threads=1)
        view(directory / package, directory / f"{package}.html", profile=times, compare=errors, diff=directory / other)
    view(directory / "a", directory / "a.html")
    report = profile(directory / "a", runs=1, warmup=0, threads=1).to_dict()
    view(directory / "a", directory / "half.html", profile={**report, "notes": [HOSTILE, "half a pair: \ud83d"]})
    return directory


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        started.resize(1280, 800)
        yield started


@pytest.fixture(autouse=True)
def no_complaints(browser: Browser) -> Iterator[None]:
    """Whatever a test does, the console stays empty: no error, and nothing that the policy had to refuse."""
    yield
    assert browser.complaints() == []


def text(browser: Browser, selector: str) -> str:
    return str(browser.run("return document.querySelector(arguments[0]).innerText", selector))


def blocks(browser: Browser) -> dict[str, dict[str, Any]]:
    """What is drawn of each module, by its path."""
    script = """return [...document.querySelectorAll(".block[role=treeitem]")].map((block) => {
        const { left, top, width, height } = block.style;
        return [block.getAttribute("aria-label"), { box: [left, top, width, height].map(parseFloat), kind: block.className,
            level: Number(block.getAttribute("aria-level")), label: block.getAttribute("aria-label"), tab: block.tabIndex }];
    })"""
    return {label.split("; ")[0]: each for label, each in browser.run(script)}


def title(browser: Browser) -> str:
    return text(browser, "#page h2")


def test_map_is_to_scale(browser: Browser, pages: Path) -> None:
    """Areas are as the parameters; each module lies beside what is in it, and says its figures."""
    browser.open(pages / "a.html")
    drawn = blocks(browser)
    assert set(drawn) == {"(root)", *(f"layers.{layer}{end}" for layer in range(3) for end in ("", ".linear"))}
    heights = {path: each["box"][3] for path, each in drawn.items()}
    assert heights["layers.0"] * 3 == pytest.approx(heights["(root)"], rel=0.01)
    assert heights["layers.0.linear"] == pytest.approx(heights["layers.0"])
    tops = [drawn[f"layers.{layer}"]["box"][1] for layer in range(3)]
    assert tops == pytest.approx([0, heights["layers.0"], 2 * heights["layers.0"]], abs=0.5)
    assert drawn["layers.1"]["box"][0] == pytest.approx(drawn["(root)"]["box"][2], abs=0.5)
    assert [each["level"] for each in drawn.values()] == [1, 2, 3, 2, 3, 2, 3]
    assert (
        drawn["layers.1"]["label"] == "layers.1; Block; Parameters 20, 33.3%; Nodes 3, 33.3%; Weights 80 bytes, 33.3%"
    )
    assert text(browser, "#subtitle") == "feature-extraction · 10 modules · 9 nodes"


def test_click_zooms(browser: Browser, pages: Path) -> None:
    """A click opens a module and zooms to it; one more goes back out, as Escape and the button do."""
    browser.open(pages / "a.html")
    browser.click('[aria-label^="layers.1;"]')
    assert title(browser) == "layers.1 Block"
    assert set(blocks(browser)) == {"layers.1", "layers.1.linear"}
    assert browser.run("return location.hash") == "#/layers.1"
    browser.click('[aria-label^="layers.1;"]')
    assert title(browser) == "(root) Net"
    browser.click('[aria-label^="layers.2.linear;"]')  # a leaf: what is around it stays in sight
    assert title(browser) == "layers.2.linear Linear"
    assert set(blocks(browser)) == {"layers.2", "layers.2.linear"}
    browser.click("#out")
    assert browser.run("return location.hash") == "#/"
    browser.run("history.back()")
    browser.settle()
    assert title(browser) == "layers.2.linear Linear"


def test_figures(browser: Browser, pages: Path) -> None:
    """Sized by nodes the activations are there; coloured by a figure the blocks have their heat."""
    browser.open(pages / "a.html")
    change = "const each = document.getElementById(arguments[0]); each.value = arguments[1]; each.dispatchEvent(new Event('change'));"
    browser.run(change, "size", "nodes")
    drawn = blocks(browser)
    assert drawn["layers.0.act"]["box"][3] * 2 == pytest.approx(drawn["layers.0.linear"]["box"][3], rel=0.01)
    browser.run(change, "colour", "parameters")
    drawn = blocks(browser)
    assert "hot" in drawn["(root)"]["kind"] and "heat" in drawn["layers.0.act"]["kind"]
    assert browser.run("return [...document.getElementById('size').options].map((each) => each.value)") == [
        "parameters",
        "nodes",
        "weights",
    ]
    browser.open(pages / "f.html")
    browser.run(change, "size", "memory")
    browser.run(change, "colour", "memory")
    drawn = blocks(browser)
    assert drawn["(root)"]["box"][3] > drawn["layers.0"]["box"][3] > 0
    assert "Memory taken" in text(browser, "#page") and "Memory held, at most" in text(browser, "#page")


def test_keyboard(browser: Browser, pages: Path) -> None:
    """The map is a tree: arrows move, Enter opens, Escape goes out, and one element at a time takes the Tab key."""
    browser.open(pages / "a.html")
    assert browser.run("return [...document.querySelectorAll('#icicle [tabindex=\"0\"]')].length") == 1
    browser.run("document.querySelector('#icicle [tabindex=\"0\"]').focus()")
    focused = "return document.activeElement.getAttribute('aria-label').split('; ')[0]"
    for key, path in (
        ("Right", "layers.0"), ("Down", "layers.1"), ("End", "layers.2"), ("Home", "layers.0"), ("Right", "layers.0.linear"),
        ("Left", "layers.0"), ("Up", "layers.0"),
    ):  # fmt: skip
        browser.press(key)
        assert browser.run(focused) == path
    assert not browser.run("return document.getElementById('tip').hidden")
    assert "Parameters" in text(browser, "#tip")
    browser.press("Enter")
    assert (title(browser), browser.run(focused)) == ("layers.0 Block", "layers.0")
    browser.press("Escape")
    assert (title(browser), browser.run(focused)) == ("(root) Net", "(root)")
    assert browser.run("return document.getElementById('tip').hidden") or "(root)" in text(browser, "#tip")
    names = browser.run(
        "return [...document.querySelectorAll('button, input, select, [role=tree], [role=tablist], nav')]"
        ".filter((each) => each.checkVisibility()).map((each) => each.getAttribute('aria-label') || each.innerText"
        " || (each.labels && each.labels[0] && each.labels[0].innerText))"
    )
    assert all(names)


def test_hover_tells_numbers(browser: Browser, pages: Path) -> None:
    browser.open(pages / "a.html")
    place = browser.run(
        "const { left, top } = document.querySelector('[aria-label^=\"layers.1;\"]').getBoundingClientRect();"
        "return [Math.round(left) + 30, Math.round(top) + 30];"
    )
    browser.hover(*place)
    assert re.sub(r"\s+", " ", text(browser, "#tip")) == (
        "layers.1 Block Parameters 20 · 33.3% Nodes 3 · 33.3% Weights 80 bytes · 33.3%"
    )


def test_search(browser: Browser, pages: Path) -> None:
    """By path, class, operator and weight; what fits is marked in the map, and a choice opens it."""
    browser.open(pages / "a.html")
    browser.press("/", "block")
    found = text(browser, "#found")
    assert "Modules (3)" in found and "layers.2" in found
    assert {path for path, each in blocks(browser).items() if "hit" in each["kind"].split()} == {
        f"layers.{layer}" for layer in range(3)
    }
    browser.press("Down", "Down", "Enter")
    assert title(browser) == "layers.1 Block"
    browser.run("document.getElementById('search').select()")
    browser.press("matmul")
    assert "3 nodes in 3 modules" in text(browser, "#found")
    browser.press("Enter")
    assert title(browser) == "layers.0.linear Linear"
    assert "float32[batch, 4]" in text(browser, ".node.wanted[open]")
    browser.run("document.getElementById('search').select()")
    browser.press("2.linear.bias", "Enter")
    assert title(browser) == "layers.2.linear Linear"
    browser.run("document.getElementById('search').select()")
    browser.press("2 relu")
    assert "Modules (1)" in text(browser, "#found")
    browser.press("Enter")
    assert title(browser) == "layers.2.act ReLU"
    browser.run("document.getElementById('search').select()")
    browser.press("no such thing")
    assert text(browser, "#found") == "Nothing is called that."
    browser.press("Escape", "Escape")
    assert not any("dim" in each["kind"] for each in blocks(browser).values())


def test_links(browser: Browser, pages: Path) -> None:
    """A link opens its module, or says that there is none; tabs have links too."""
    browser.open(pages / "f.html", "#/layers.2.linear")
    assert title(browser) == "layers.2.linear Linear"
    assert browser.run("return document.title") == "layers.2.linear – f"
    browser.open(pages / "f.html", "#/layers.9")
    assert title(browser) == "(root) Net"
    assert text(browser, "#note") == "There is no module layers.9 here."
    browser.open(pages / "f.html", "#/layers.1.linear.gone")
    assert title(browser) == "layers.1.linear Linear"
    assert text(browser, "#note") == "There is no module layers.1.linear.gone here; this is the nearest above."
    for tab in ("profile", "compare", "diff", "summary"):
        browser.open(pages / "f.html", f"#{tab}")
        assert text(browser, f"#tab-{tab}") == text(browser, "[role=tab][aria-selected=true]")
        browser.click("#tab-modules")
        assert title(browser) == "(root) Net"
    browser.open(pages / "f.html", "#/%")
    assert title(browser) == "(root) Net"


def test_page_of_a_module(browser: Browser, pages: Path) -> None:
    """Its nodes with shapes, evidence and origins, its weights, its errors."""
    browser.open(pages / "f.html", "#/layers.1.linear")
    shown = text(browser, "#page")
    assert "layers.1.linear.bias" in shown and "float32[4, 4]" in shown and "onnx::MatMul_1" in shown
    assert "Against the reference" in shown and "What the tool changed" in shown
    browser.click("#page .node summary")
    node = text(browser, "#page .node[open]")
    assert "Gemm" in node and "fused" in node and "from Relu of layers.0.act" in node and "Used by" in node
    browser.run("location.hash = '#diff'")
    browser.settle()
    assert "MatMul + Add → Gemm ×3" in text(browser, "#view-diff")
    browser.click("#view-diff .fusions summary")
    assert "/layers.0/linear/MatMul" in text(browser, "#view-diff .fusions")
    browser.run("location.hash = '#compare'")
    browser.settle()
    assert "Agrees with" in text(browser, "#view-compare .verdict")
    browser.run("location.hash = '#profile'")
    browser.settle()
    assert "FusedGemm" in text(browser, "#view-profile")
    browser.run("location.hash = '#summary'")
    browser.settle()
    assert "config" in text(browser, "#view-summary")


def test_hostile_names_do_nothing(browser: Browser, pages: Path) -> None:
    """They are shown as they are, everywhere; what can't be seen is shown by its number."""
    browser.open(pages / "evil.html")
    for tab in ("profile", "compare", "diff", "summary", f"/layers.0.linear{HOSTILE}"):
        browser.run("location.hash = '#' + arguments[0]", tab)
        browser.settle()
        browser.run(
            "document.querySelectorAll('main > section:not([hidden]) details').forEach((each) => { each.open = true; })"
        )
        browser.settle()
    browser.press("/", "img")
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert f"layers.0.linear{shown}" in text(browser, "#found")
    assert browser.run("return document.querySelectorAll('img, iframe, object, embed, form').length") == 0
    assert browser.run("return document.scripts.length") == 3
    assert "owned" not in str(browser.run("return document.title")).replace(shown, "")
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


def test_half_a_character(browser: Browser, pages: Path) -> None:
    browser.open(pages / "half.html", "#profile")
    assert "half a pair: \\ud83d" in text(browser, "#view-profile .notes")


def test_policy_holds(browser: Browser, pages: Path) -> None:
    """What would still get in does not run, and reaches nobody."""
    browser.open(pages / "a.html")
    browser.run("""
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.owned = 1'>");
        const script = document.createElement("script");
        script.textContent = "window.owned = 2";
        document.body.append(script);
        return fetch("http://127.0.0.1:9/").catch(() => null);
    """)
    browser.settle()
    assert browser.run("return window.owned === undefined")
    assert len([each for each in browser.complaints() if "Content Security Policy" in each]) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_and_size(scheme: str, browser: Browser, pages: Path, tmp_path: Path) -> None:
    """Light and dark as the system is, or as the button says; text is readable on each; nothing sticks out of a phone."""
    browser.prefer(scheme)
    browser.open(pages / "f.html")
    dark = "const [red] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g); return red < 128;"
    assert browser.run(dark) == (scheme == "dark")
    for _ in range(2 if scheme == "light" else 1):
        browser.click("#theme")
    assert browser.run(dark) != (scheme == "dark")
    for _ in range(1 if scheme == "light" else 2):
        browser.click("#theme")
    low = browser.run(CONTRAST)
    assert low == []
    browser.resize(390, 800)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    browser.resize(1280, 800)


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = ([red, green, blue]) => { const [r, g, b] = [red, green, blue].map((value) => { value /= 255; return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (element) => { while (element) { const colour = rgba(getComputedStyle(element).backgroundColor); if (colour[3] > 250) return colour; element = element.parentElement; } return [255, 255, 255]; };
return [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) && !element.closest(":disabled, script, style, option, .hidden, .skip")).map((element) => {
  const [one, other] = [light(rgba(getComputedStyle(element).color)), light(behind(element))];
  return [element.className + " " + element.textContent.slice(0, 30), (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
}).filter(([, contrast]) => contrast < 4.5);
"""


def test_prints_everything(browser: Browser, pages: Path) -> None:
    browser.open(pages / "f.html", "#/layers.1")
    printed = browser.command("Page.printToPDF", printBackground=True)["data"]
    assert len(printed) > 10_000
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run(
        "return [...document.querySelectorAll('main > section')].every((each) => !each.hidden && each.innerText)"
    )
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run("return document.querySelectorAll('main > section:not([hidden])').length") == 1
