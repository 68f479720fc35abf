"""The verb `view`, without a browser: what the page and the card hold, what they must not, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from layered_toy import WIDTH, fused_package, layered_package
from test_tree import toy_package

from optimum_htp import HtpError, HtpPackage, PackageError, compare, profile, tree, validate, view
from optimum_htp.cli.main import main
from optimum_htp.onnxfile.model import Value
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import Sidecar
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.verbs.view.card import escaped
from optimum_htp.verbs.view.columns import Texts
from optimum_htp.verbs.view.graph_content import file_content, type_text
from optimum_htp.verbs.view.page import json_block

# What ends a script, an attribute, a comment, a line of JavaScript; what turns the direction of writing; not in UTF-8.
HOSTILE = "</script><!--<img src=x onerror=\"document.title='owned'\">'&lt;|\\`\u202e\u2028\n\ud83d"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as exported (`a`), after an optimizer (`fused`), another one (`b`), and without tags; read-only."""
    directory = tmp_path_factory.mktemp("toys")
    layered_package(directory / "a")
    layered_package(directory / "b", layers=2)
    layered_package(directory / "untagged", tagged=False)
    fused_package(directory / "fused", origin=directory / "a")
    for name in ("a", "b"):
        report = profile(directory / name, runs=2, warmup=0, threads=1)
        (directory / f"{name}-profile.json").write_text(json.dumps(report.to_dict()), encoding="utf-8")
    comparison = compare(directory / "fused", reference=directory / "a", threads=1)
    (directory / "fused-compare.json").write_text(json.dumps(comparison.to_dict()), encoding="utf-8")
    return directory


class Elements(HTMLParser):
    """The elements of a page, and the text in each script and style."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.texts.setdefault(self._inside, []).append(data)


def document_of(path: Path) -> dict[str, Any]:
    """The data in a page, its texts unpacked."""
    page = Elements(path.read_text(encoding="utf-8"))
    document = json.loads(page.texts["script"][0])
    texts, before = [], ""
    for shared, rest in zip(document["texts"][::2], document["texts"][1::2], strict=True):
        units = before.encode("utf-16-le", "surrogatepass")[: 2 * shared]
        before = units.decode("utf-16-le", "surrogatepass") + rest
        texts.append(before)
    return {**document, "texts": texts}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with that is refused."""
    assert main(["view", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


# --- The page -----------------------------------------------------------------------------------------------------


def test_page_needs_nothing_else(toys: Path, tmp_path: Path) -> None:
    """No address of anything; the policy allows the scripts and the style that are there, and nothing more."""
    report = view(toys / "a", tmp_path / "a.html")
    content = (tmp_path / "a.html").read_bytes()
    text = content.decode()
    page = Elements(text)
    assert [tag for tag, attributes in page.elements if "src" in attributes] == []
    assert {attributes["href"] for _, attributes in page.elements if "href" in attributes} == {"data:,", "#page"}
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    assert [tag for tag, attributes in page.elements if "style" in attributes] == []
    (policy,) = (each["content"] for _, each in page.elements if each.get("http-equiv") == "Content-Security-Policy")
    sources = dict(rule.split(" ", 1) for rule in str(policy).split("; "))
    assert {key: sources[key] for key in ("default-src", "base-uri", "form-action", "img-src")} == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "img-src": "data:",
    }

    def digests(texts: list[str]) -> str:
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in texts
        )

    assert sources["script-src"] == digests(page.texts["script"][1:])
    assert sources["style-src"] == digests(page.texts["style"])
    assert report.size_bytes == len(content)
    assert f"This file: {len(content):11,d} bytes" in text
    assert re.search(rf"the package's data +{report.data_bytes:,}\.", text)
    assert report.size_bytes - report.data_bytes < 1_500_000


def test_page_has_what_the_package_has(toys: Path, tmp_path: Path) -> None:
    """Modules, nodes, types and weights of the data are those of the file and of `tree`."""
    view(toys / "a", tmp_path / "a.html")
    document = document_of(tmp_path / "a.html")
    texts, (file,) = document["texts"], document["files"]
    rows = tree(toys / "a").files[0].rows
    modules = file["modules"]
    for column, values in {
        "path": [row.path for row in rows],
        "class": [row.class_name for row in rows],
        "label": [row.attribute for row in rows],
        "tag": [row.tag for row in rows],
    }.items():
        assert [texts[number] for number in modules[column]] == values
    assert modules["parameters"] == [row.parameters for row in rows]
    assert modules["nodes"] == [row.all_nodes for row in rows]
    assert modules["parent"] == [-1, 0, 1, 1, 0, 4, 4, 0, 7, 7]
    nodes, tensors = file["nodes"], file["tensors"]
    model = onnx.load(toys / "a" / "model.onnx")
    for index, node in enumerate(model.graph.node):
        assert texts[nodes["operator"][index]] == node.op_type
        assert texts[nodes["name"][index]] == node.name
        assert [texts[tensors["name"][each]] for each in nodes["inputs"][index]] == list(node.input)
        assert [texts[tensors["name"][each]] for each in nodes["outputs"][index]] == list(node.output)
        path = ".".join(node.name.split("/")[1:3])
        assert texts[modules["path"][nodes["module"][index]]] == path
        assert [texts[tensors["type"][each]] for each in nodes["outputs"][index]] == [f"float32[batch, {WIDTH}]"]
    weights = [
        (
            texts[tensors["name"][row[0]]],
            texts[modules["path"][row[1]]],
            row[2],
            row[3],
            [texts[name] for name in row[4]],
        )
        for row in file["weights"]
    ]
    assert weights[:2] == [
        ("onnx::MatMul_0", "layers.0.linear", 16, 64, []),
        ("layers.0.linear.bias", "layers.0.linear", 4, 16, ["layers.0.linear.bias"]),
    ]
    assert modules["bytes"][0] == sum(row[3] for row in weights) == 3 * 80
    assert modules["bytes"][1:4] == [80, 80, 0]
    assert document["summary"]["validation"]["ok"] == validate(toys / "a").ok
    assert document["summary"]["task"] == "feature-extraction"


def test_bodies_calls_and_unresolved_nodes(tmp_path: Path) -> None:
    """Nodes in branches, of calls and of nobody are there as `tree` counts them; what has no type has none."""
    package = toy_package(tmp_path / "toy")
    view(package, tmp_path / "toy.html")
    document = document_of(tmp_path / "toy.html")
    (file,) = document["files"]
    (known,) = tree(package).files
    assert file["modules"]["own"] == [row.own_nodes for row in known.rows]
    assert file["nodes"]["module"].count(-1) == len(known.unresolved) == 1
    assert sorted(file["nodes"]["call"].values()) == [0, 0, 1, 1, 1]
    assert len(file["nodes"]["operator"]) == known.counts.nodes
    assert document["summary"]["files"][0]["unresolved"] == 1


@pytest.mark.parametrize("name", ["t5", "albert"])
def test_real_exports(name: str, exported: Callable[..., Path], tmp_path: Path) -> None:
    """Several files, branches, shared weights and calls: each node and weight has its module, each tensor its type."""
    package = exported(name)
    view(package, tmp_path / "x.html")
    document = document_of(tmp_path / "x.html")
    texts = document["texts"]
    for file, known in zip(document["files"], tree(package).files, strict=True):
        assert [texts[path] for path in file["modules"]["path"]] == [row.path for row in known.rows]
        assert file["modules"]["own"] == [row.own_nodes for row in known.rows]
        assert -1 not in file["nodes"]["module"]
        made = [tensor for outputs in file["nodes"]["outputs"] for tensor in outputs if tensor >= 0]
        assert [
            texts[file["tensors"]["name"][tensor]] for tensor in made if not texts[file["tensors"]["type"][tensor]]
        ] == []
        assert [row for row in file["weights"] if row[1] < 0] == []
        roots = [number for number, parent in enumerate(file["modules"]["parent"]) if parent < 0]
        assert sum(file["modules"]["bytes"][root] for root in roots) == sum(row[3] for row in file["weights"])


def test_texts_come_back(toys: Path) -> None:
    """Texts of any characters, also where two share half a pair."""
    package = HtpPackage(toys / "a")
    file = package.files["model.onnx"]
    content = file_content(file, file.tagged, ())
    odd = ["😀a", "😁b", "😀", "\ud83d", "é", "e\u0301", HOSTILE, ""]
    texts = Texts([content])
    texts._sorted = sorted(odd)
    packed = json.loads(json_block({"texts": texts.packed()}))["texts"]
    unpacked, before = [], b""
    for shared, rest in zip(packed[::2], packed[1::2], strict=True):
        before = before[: 2 * shared] + rest.encode("utf-16-le", "surrogatepass")
        unpacked.append(before.decode("utf-16-le", "surrogatepass"))
    assert unpacked == sorted(odd)


def test_types_in_words() -> None:
    assert type_text(Value("x", 1, ("batch", 384, None, "unk__3"))) == "float32[batch, 384, ?, ?]"
    assert type_text(Value("x", 7, ())) == "int64[]"
    assert type_text(Value("x", 10, None)) == "float16"
    assert type_text(Value("x")) == ""


def test_names_are_data(tmp_path: Path) -> None:
    """A hostile name ends no script and no attribute: the page has the elements that a harmless one has."""
    harmless = Elements(_page(layered_package(tmp_path / "harmless"), tmp_path))
    hostile = layered_package(tmp_path / "hostile", name=lambda name: name + HOSTILE.replace("\ud83d", ""))
    page = Elements(_page(hostile, tmp_path))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    texts = document_of(tmp_path / "hostile.html")["texts"]
    assert "layers.0.linear" + HOSTILE.replace("\ud83d", "") in texts


def _page(package: Path, directory: Path) -> str:
    view(package, directory / f"{package.name}.html")
    return (directory / f"{package.name}.html").read_text(encoding="utf-8")


def test_json_block() -> None:
    assert json_block({"a": "<>&\u2028\ud83d"}) == '{"a":"\\u003c\\u003e\\u0026\\u2028\\ud83d"}'


def test_room_for_each_node(tmp_path: Path) -> None:
    """50,000 nodes fit into 10 MB, also with a module for each."""
    report = view(layered_package(tmp_path / "long", layers=400), tmp_path / "long.html")
    assert report.nodes == 1_200
    page = report.size_bytes - report.data_bytes
    assert report.data_bytes / report.nodes * 50_000 + page < 10_000_000


# --- Figures ------------------------------------------------------------------------------------------------------


def test_profile_and_comparison(toys: Path, tmp_path: Path) -> None:
    """The figures of the reports, on the modules that they are of."""
    report = view(
        toys / "fused",
        tmp_path / "f.html",
        compare=toys / "fused-compare.json",
        profile=profile(toys / "fused", runs=2),
    )
    assert report.tabs == ("modules", "profile", "compare", "summary")
    document = document_of(tmp_path / "f.html")
    texts, (file,) = document["texts"], document["files"]
    paths = [texts[number] for number in file["modules"]["path"]]
    (phase,) = document["profile"]["parts"]
    assert {paths[row[0]] for row in phase["modules"]} == {
        "",
        "layers.0",
        "layers.1",
        "layers.2",
    }  # ONNX Runtime fuses each with its activation
    assert [(paths[row[0]], row[1], row[5][0][0]) for row in phase["fused"]] == [
        (
            f"layers.{layer}",
            [f"/Net/Block.layers.{layer}/{name}" for name in ("Linear.linear", "ReLU.act")],
            "FusedGemm",
        )
        for layer in range(3)
    ]
    assert phase["kernel"][0] >= max(row[2] for row in phase["fused"])
    peaks, taken = [row[7] for row in phase["modules"]], [row[8] for row in phase["modules"]]
    assert phase["memory"][0] == peaks[0] == max(peaks) and phase["flops"] == phase["modules"][0][10]
    assert taken[0] == sum(row[6] for row in phase["fused"]) + sum(row[9] or 0 for row in phase["modules"])
    (part,) = document["compare"]["parts"]
    assert part["ok"] and part["verdict"] == "agrees"
    said = json.loads((toys / "fused-compare.json").read_text(encoding="utf-8"))["files"][0]["calls"]
    assert [paths[row[0]] for row in part["calls"]] == [call["path"] for call in said]


def test_what_was_fused_into_what(toys: Path, tmp_path: Path) -> None:
    """Of an optimized package its own origins, whichever of the two is shown; both from one graph without sidecar."""
    view(toys / "fused", tmp_path / "after.html", diff=toys / "a")
    view(toys / "a", tmp_path / "before.html", diff=toys / "fused")
    for name, shown in (("after", "after"), ("before", "before")):
        document = document_of(tmp_path / f"{name}.html")
        diff = document["diff"]
        assert diff["shown"] == shown
        assert (Path(diff["before"]).name, Path(diff["after"]).name) == ("a", "fused")
        (part,) = diff["parts"]
        assert part["nodes"] == [9, 6]
        paths = [document["texts"][number] for number in document["files"][0]["modules"]["path"]]
        pattern = [
            ([each[0] for each in row[2]], [each[0] for each in row[0]], paths[row[1]]) for row in part["replaced"]
        ]
        assert pattern == [(["MatMul", "Add"], ["Gemm"], f"layers.{layer}.linear") for layer in range(3)]
        assert part["gone"] == []


def test_weights_under_their_names(toys: Path, tmp_path: Path) -> None:
    """What `params` found out names them; of quantized ones their suffix does not count as a name."""
    from optimum_htp.verbs.params.report import ParameterRow, ParamsReport

    row = ParameterRow(
        file="model.onnx", graph="", name="onnx::MatMul_0", data_type=1, shape=(4, 4), anonymous=True,
        parameters=("layers.0.linear.weight",), changes=("transposed",),
    )  # fmt: skip
    view(toys / "a", tmp_path / "a.html", params=ParamsReport("a", "m", {"model.onnx": (row,)}, saved=False))
    document = document_of(tmp_path / "a.html")
    texts, weights = document["texts"], document["files"][0]["weights"]
    assert [texts[name] for name in weights[0][4]] == ["layers.0.linear.weight"]
    assert [texts[change] for change in weights[0][5]] == ["transposed"]


# --- The card -----------------------------------------------------------------------------------------------------


def test_card(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, or written; the hierarchy to depth 3, and the figures that are given."""
    arguments = ["view", str(toys / "a"), "--markdown", "--profile", str(toys / "a-profile.json")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert main([*arguments, "-o", str(tmp_path / "card.md")]) == 0
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == printed
    for line in (
        "# a",
        "| model.onnx | " + f"{(toys / 'a' / 'model.onnx').stat().st_size / 1e3:.3g} kB | 9 | 60 | ai.onnx 17 |",
        "| scope | 9 | 100.0% | the name that the exporter gave the node, and the calls that were recorded |",
        "| Module | Class | Calls | Parameters | Nodes | Weights | Time | Memory taken |",
        "## Where the time goes",
    ):
        assert line in printed.splitlines()
    assert re.search(r"^\| &emsp;&emsp;linear \| Linear \| 1 \| 20 \| 2 \| 80 bytes \|  \|  \|$", printed, re.M)


def test_card_escapes(tmp_path: Path) -> None:
    """Hostile names make no HTML, no link, no picture and no cell."""
    package = layered_package(
        tmp_path / "hostile", name=lambda name: f"{name}|<img src=x>![a](b)`c`\n# d https://e.f www.g.h @i"
    )
    text = view(package, markdown=True).text
    assert text is not None
    assert "<" not in text and "https://" not in text and "www." not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows if "Net" in row or "linear" in row} == {7}
    assert not re.search(r"(?<!\\)[\[\]`@!]", text)


def test_escaped() -> None:
    assert escaped("a_b*c") == r"a\_b\*c"
    assert escaped("x\u202ey\n") == r"x\\u202ey\\u000a"


# --- Bad input ----------------------------------------------------------------------------------------------------


def test_untagged(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused([str(toys / "untagged"), "-o", str(tmp_path / "x.html")], capsys)
    assert f"optimum-cli htp tag {toys / 'untagged'}" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "file", "words"),
    [
        ("--profile", "b-profile.json", "it is of another model"),
        ("--profile", "fused-compare.json", "not a report of `profile`"),
        ("--compare", "a-profile.json", "not a report of `compare`"),
        ("--compare", "fused-compare.json", "it is of another model"),
        ("--profile", "none.json", "no such file"),
        ("--diff", "nowhere", "no such package"),
    ],
)
def test_reports_of_something_else(
    option: str, file: str, words: str, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused([str(toys / "a"), "-o", str(tmp_path / "x.html"), option, str(toys / file)], capsys)
    assert words in error and file in error
    assert list(tmp_path.iterdir()) == []


def test_reports_of_another_training(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same graph with other weights is another model; with other tags, or under another name, it is the same."""
    package = layered_package(tmp_path / "retrained", seed=1)
    assert "it is of another model" in refused([str(package), "--profile", str(toys / "a-profile.json")], capsys)
    again = shutil.copytree(toys / "a", tmp_path / "again")
    (again / "model.onnx").rename(again / "renamed.onnx")
    (again / "export_metadata.json").unlink()
    assert main(["view", str(again), "--markdown", "--profile", str(toys / "a-profile.json")]) == 0


def test_quantized_weights(tmp_path: Path) -> None:
    """A quantizer's suffix is no part of a parameter's name; a parameter that is called so keeps its own."""
    package = layered_package(tmp_path / "a")
    model = onnx.load(package / "model.onnx")
    for name in ("weight_quantized", "weight_scale", "weight_zero_point", "logit_scale"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), f"layers.0.linear.{name}"))
    onnx.save(model, package / "model.onnx")
    view(package, tmp_path / "a.html")
    document = document_of(tmp_path / "a.html")
    texts, (file,) = document["texts"], document["files"]
    named = {
        texts[file["tensors"]["name"][row[0]]].rpartition(".")[2]: [
            [texts[each] for each in row[4]],
            [texts[each] for each in row[5]],
            texts[file["modules"]["path"][row[1]]],
        ]
        for row in file["weights"][-4:]
    }
    linear = "layers.0.linear"
    assert named == {
        "weight_quantized": [[f"{linear}.weight"], ["quantized"], linear],
        "weight_scale": [[f"{linear}.weight"], ["scale"], linear],
        "weight_zero_point": [[f"{linear}.weight"], ["zero_point"], linear],
        "logit_scale": [[f"{linear}.logit_scale"], ["same"], linear],
    }


def _without(document: dict[str, Any], *keys: str | int) -> dict[str, Any]:
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = {"evil": [None]}
    return changed


@pytest.mark.parametrize(
    "keys",
    [
        ("fingerprints",), ("phases",), ("phases", 0, "modules", 0, "total_time"), ("phases", 0, "modules", 0, "tag"), ("notes",),
        ("phases", 0, "modules", 0, "total_time", "median_us"), ("phases", 0, "kernel_time"), ("runs",),
    ],
)  # fmt: skip
def test_broken_reports(keys: tuple[str | int, ...], toys: Path) -> None:
    """Each part of a report is looked at before it goes into the page."""
    document = json.loads((toys / "a-profile.json").read_text(encoding="utf-8"))
    with pytest.raises(HtpError, match=r"not a report of `profile`|another model"):
        view(toys / "a", markdown=True, profile=_without(document, *keys))


@pytest.mark.parametrize("text", ["", "[]", "nothing", "[" * 100_000, '{"fingerprints": NaN}', "1e999"])
def test_no_reports(text: str, toys: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text, encoding="utf-8")
    with pytest.raises(HtpError, match=r"p\.json: not"):
        view(toys / "a", markdown=True, profile=tmp_path / "p.json")


def test_two_profiles(toys: Path) -> None:
    both = profile(toys / "a", runs=1).compared_with(profile(toys / "fused", reference=toys / "a", runs=1))
    with pytest.raises(HtpError, match="two profiles side by side"):
        view(toys / "a", markdown=True, profile=both)


def test_empty_graph(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "model.onnx")
    model = read_model(tmp_path / "model.onnx")
    Sidecar({"model.onnx": FileRecord.of(TaggedGraph(model, {}))}).write(tmp_path)
    with pytest.raises(PackageError, match="nothing to see"):
        view(tmp_path, markdown=True)


def test_output_in_use(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is replaced without `--overwrite`, and no file of the package with it."""
    package = str(toys / "a")
    (tmp_path / "x.html").write_text("mine", encoding="utf-8")
    assert "--overwrite" in refused([package, "-o", str(tmp_path / "x.html")], capsys)
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == "mine"
    assert main(["view", package, "-o", str(tmp_path / "x.html"), "--overwrite"]) == 0
    capsys.readouterr()
    assert "a directory" in refused([package, "-o", str(tmp_path)], capsys)
    assert "does not exist" in refused([package, "-o", str(tmp_path / "no" / "x.html")], capsys)
    if Path("/proc/self").is_dir():  # in which nothing can be made
        assert "cannot write /proc" in refused([package, "-o", "/proc/x.html"], capsys)
    copy = shutil.copytree(toys / "a", tmp_path / "copy")
    for name in ("model.onnx", "config.json"):
        assert "file of the package" in refused([str(copy), "-o", str(copy / name), "--overwrite"], capsys)
    assert main(["view", str(copy), "--markdown", "-o", str(copy / "README.md")]) == 0
    assert validate(copy).ok == validate(toys / "a").ok
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_default_output(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert view(toys / "a").output == "report.html"
    with pytest.raises(PackageError, match="exists already"):
        view(toys / "a")


# --- The command line ---------------------------------------------------------------------------------------------


def test_runs_what_it_is_asked_for(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--profile` and `--compare` without a file run it; what comes after them may be the package."""
    output = str(tmp_path / "x.html")
    options = ["--runs", "1", "--threads", "1", "--compare", "--reference", str(toys / "a"), "--json"]
    assert main(["view", "-o", output, *options, "--profile", str(toys / "fused")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tabs"] == ["modules", "profile", "compare", "summary"]
    assert report["output"] == output and report["size_bytes"] == Path(output).stat().st_size
    assert document_of(Path(output))["profile"]["runs"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch-size", "2"], "for --profile and --compare"),
        (["--profile", "p.json", "--runs", "3"], "--runs is for --profile"),
        (["--reference", "x"], "--reference is what --compare compares with"),
    ],
)
def test_options_of_what_is_not_run(
    options: list[str], words: str, toys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused([str(toys / "a"), *options], capsys)


def test_report_or_package(toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a .json file" in refused(["--profile", "p.txt", str(toys / "a")], capsys)
    assert "required: PKG" in refused(["--markdown"], capsys)
