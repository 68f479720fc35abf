"""Sidecars and tags that no export writes: an exit code and at most one line on stderr, never a traceback or a hang."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy.calls import CallTree
from optimum_htp.hierarchy.root import Root, Roots
from optimum_htp.hierarchy.tags import NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree, tree_of_tags
from optimum_htp.methods import load_package
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.node_metadata import ORIGINS, SOURCE, TAG, HtpOptions, read_tags, write_tags
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import SIDECAR, Sidecar
from optimum_htp.tagging.graph import TaggedGraph

FILE = "model.onnx"
TREE = ModuleTree(
    [
        ModuleInfo((), "Net", "toy.Net", calls=1),
        ModuleInfo(("layers",), "ModuleList", "torch.nn.ModuleList", container=True),
        ModuleInfo(("layers", "0"), "Relu", "toy.Relu", calls=2, parameters=7),
    ]
)
CALLS = CallTree.of_rows(TREE, [(0, -1), (2, 0), (2, 0)])
TAGS = {
    ("", 0): NodeTag(TREE.tag(("layers", "0")), "scope", 1),
    ("", 1): NodeTag(TREE.tag(()), "fused", None, (TREE.tag(()), TREE.tag(("layers", "0")))),
}
INFINITE, NOT_A_NUMBER = float("inf"), float("nan")  # as Python's json reads 1e999 and NaN


def onnx_file(path: Path, nodes: int = 2, tag: str | None = None, **metadata: str) -> Path:
    """A chain of Relus; the first with a tag, and with other metadata."""
    made = [helper.make_node("Relu", [f"t{at}"], [f"t{at + 1}"]) for at in range(nodes)]
    if tag is not None:
        for key, value in {TAG: tag, SOURCE: "scope", **metadata}.items():
            made[0].metadata_props.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("t0", f"t{nodes}")]
    onnx.save(helper.make_model(helper.make_graph(made, "main", ends[:1], ends[1:]), ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package as an export leaves it; treat it as read-only."""
    directory = tmp_path_factory.mktemp("healthy")
    model = read_model(onnx_file(directory / FILE))
    tagged = TaggedGraph(model, TAGS, Roots([Root(TREE, "", (CALLS,))]))
    write_tags(tagged, options=HtpOptions(skeleton=False))
    Sidecar({FILE: FileRecord.of(tagged)}, source={"task": "x", "opset": 17}, timings={"htp_seconds": 0.5}).write(
        directory
    )
    return directory


def put(*keys: Any, value: Any) -> Callable[[Any, Any], None]:
    """Sets what the keys lead to in the file's entry."""

    def mutate(_: Any, entry: Any) -> None:
        at = entry
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return mutate


def put_above(*keys: Any, value: Any) -> Callable[[Any, Any], None]:
    """Sets what the keys lead to in the whole document."""
    return lambda document, _: put(*keys, value=value)(None, document)


def module(key: str, value: Any, number: int = 2) -> Callable[[Any, Any], None]:
    return put("roots", 0, "modules", number, key, value=value)


def call(number: int, value: Any) -> Callable[[Any, Any], None]:
    return put("roots", 0, "traces", 0, number, value=value)


def nested_calls(_: Any, entry: Any) -> None:
    entry["roots"][0]["traces"][0] += [[2, number] for number in range(2, 50_000)]


def row(at: int, value: Any, number: int = 0) -> Callable[[Any, Any], None]:
    return put("graphs", "", number, at, value=value)


def parameter(**changes: Any) -> Callable[[Any, Any], None]:
    return put("parameters", value=[{"graph": "", "name": "w", "kind": "parameter", **changes}])


def deep(_: Any, entry: Any) -> None:
    modules = entry["roots"][0]["modules"]
    modules += [{**modules[-1], "path": ["a"] * depth} for depth in range(1, 700)]


def aliased(_: Any, entry: Any) -> None:
    """A small file whose tags would fill the memory."""
    modules = entry["roots"][0]["modules"]
    modules += [{**modules[-1], "class": "A" * 1_000, "path": ["a"] * depth} for depth in range(1, 501)]
    modules[-1]["aliases"] = [["a"] * 499 + [str(number)] for number in range(600)]


BROKEN: dict[str, Callable[[Any, Any], None]] = {
    "calls infinite": module("calls", INFINITE),
    "calls huge": module("calls", 10**4_000),
    "calls true": module("calls", True),
    "calls negative": module("calls", -1),
    "parameters not a number": module("parameters", NOT_A_NUMBER),
    "class a number": module("class", 5),
    "class too long": module("class", "A" * 2_000),
    "class a half surrogate": module("class", "A\ud800"),
    "qualified class missing": lambda _, entry: entry["roots"][0]["modules"][2].pop("qualified_class"),
    "container odd": module("container", "yes"),
    "path a number": module("path", 5),
    "path of nothing": module("path", ["layers", ["0"]]),
    "path below nothing": module("path", "nowhere.0"),
    "path without a name": module("path", [""]),
    "alias below nothing": module("aliases", ["nowhere.0"]),
    "aliases a string": module("aliases", "layers"),
    "deeper than any": deep,
    "tags too long": aliased,
    "no modules": put("roots", 0, "modules", value=[]),
    "no root module": lambda _, entry: entry["roots"][0]["modules"].pop(0),
    "no roots": put("roots", value=[]),
    "roots an object": put("roots", value={}),
    "place a number": put("roots", 0, "in_model", value=5),
    "traces a string": put("roots", 0, "traces", value="[]"),
    "trace a number": put("roots", 0, "traces", value=[5]),
    "trace without calls": put("roots", 0, "traces", value=[[]]),
    "call a number": call(1, 5),
    "call too short": call(1, [2]),
    "call too long": call(1, [2, 0, 0, 0]),
    "call of no module": call(1, [3, 0]),
    "call of a module before the first": call(1, [-1, 0]),
    "call of a fraction": call(1, [2.0, 0]),
    "call from nowhere": call(1, [2, None]),
    "call from itself": call(1, [2, 1]),
    "call from a later one": call(1, [2, 2]),
    "call by a name that is none": call(1, [2, 0, 0]),
    "call by a name before the first": call(1, [2, 0, -1]),
    "call of true": call(1, [True, 0]),
    "call of another module": call(1, [0, 0]),
    "call too many": lambda _, entry: entry["roots"][0]["traces"][0].append([2, 0]),
    "call missing": lambda _, entry: entry["roots"][0]["traces"][0].pop(),
    "calls in calls without end": nested_calls,
    "graphs empty": put("graphs", value={}),
    "graphs a list": put("graphs", value=[]),
    "rows an object": put("graphs", "", value={}),
    "row missing": lambda _, entry: entry["graphs"][""].pop(),
    "row too many": lambda _, entry: entry["graphs"][""].append(entry["graphs"][""][0]),
    "row too short": put("graphs", "", 0, value=["t1", 0]),
    "row too long": put("graphs", "", 0, value=["t1", 0, None, "scope", [0], 5]),
    "row a string": put("graphs", "", 0, value="row!"),
    "graph path endless": lambda _, entry: entry["graphs"].update({"9" * 5_000 + ".a": []}),
    "graph path a half surrogate": lambda _, entry: entry["graphs"].update({"\udc00": []}),
    "node a number": row(0, 5),
    "tag index negative": row(1, -1),
    "tag index too large": row(1, 2),
    "tag index true": row(1, True),
    "call infinite": row(2, INFINITE),
    "call huge": row(2, 1 << 31),
    "call true": row(2, True),
    "call a string": row(2, "1"),
    "source unknown": row(3, "bogus"),
    "source a list": row(3, ["scope"]),
    "origin index negative": row(4, [-1], 1),
    "origins a number": row(4, 0, 1),
    "origins a string": row(4, "0", 1),
    "tag without a slash": put("tags", 0, value="Net"),
    "tag without a dot": put("tags", 0, value="/Net/foo"),
    "tag of nothing": put("tags", 0, value="/Other/X.y"),
    "tag a half surrogate": put("tags", 0, value="/Net\ud800"),
    "tag a number": put("tags", 0, value=5),
    "tags an object": put("tags", value={}),
    "digest a number": put("digest", value=5),
    "counts missing": lambda _, entry: entry.pop("counts"),
    "counts a list": put("counts", value=[]),
    "parameters a number": put("parameters", value=5),
    "parameter a string": put("parameters", value=["w"]),
    "parameter of no kind": parameter(kind="bogus"),
    "parameter of numbers": parameter(parameters=[5]),
    "parameter of a number": parameter(parameters=5),
    "scale a number": parameter(scale=5),
    "renamed a list": put("renamed", value=["x"]),
    "renamed to a number": put("renamed", value={"x": 5}),
    "file an array": put_above("files", value=[]),
    "file null": put_above("files", FILE, value=None),
    "file name a half surrogate": lambda document, entry: document["files"].update({"\ud800": entry}),
    "source an array": put_above("source", value=[]),
    "task a list": put_above("source", "task", value=["x"]),
    "opset infinite": put_above("source", "opset", value=INFINITE),
    "timing a string": put_above("timings", "htp_seconds", value="x"),
    "timing infinite": put_above("timings", "htp_seconds", value=INFINITE),
    "version an object": put_above("versions", "torch", value={"a": 1}),
    "schema version a list": put_above("schema_version", value=[1]),
}


def row_too_many(_: Any, entry: Any) -> None:
    entry["graphs"][""].append(entry["graphs"][""][0])
    entry["counts"]["nodes"] += 1


def row_missing(_: Any, entry: Any) -> None:
    entry["graphs"][""].pop()
    entry["counts"]["nodes"] -= 1


def another_graph(_: Any, entry: Any) -> None:
    entry["graphs"]["0.body"] = [entry["graphs"][""].pop()]


MISFITS: dict[str, Callable[[Any, Any], None]] = {
    "a row too many": row_too_many,
    "a row missing": row_missing,
    "another graph": another_graph,
}
"""They read, and fit no graph although their digest does."""

VERBS = (["tree"], ["tree", "--nodes"], ["tree", "--json"], ["validate"], ["select", "*"], ["project"], ["strip"])


def mutated(healthy: Path, directory: Path, mutate: Callable[[Any, Any], None]) -> Path:
    shutil.copytree(healthy, directory)
    document = json.loads((directory / SIDECAR).read_bytes())
    mutate(document, document["files"][FILE])
    (directory / SIDECAR).write_text(json.dumps(document))
    return directory


def run(verb: list[str], package: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code of a command, which must not raise; a fault is told in one line that can be printed."""
    code = main([verb[0], str(package), *verb[1:]])
    shown = capsys.readouterr()
    (shown.out + shown.err).encode()
    assert code in (0, 1, 2)
    assert code != 2 or (shown.err.startswith("error: ") and shown.err.count("\n") == 1)
    return code


@pytest.mark.parametrize("mutation", BROKEN)
def test_broken_sidecar_is_told_in_one_line(
    mutation: str, healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the file; `validate` says so as well, and `strip` removes it."""
    expected = {"validate": 1, "strip": 0}
    for number, verb in enumerate(VERBS):
        package = mutated(healthy, tmp_path / str(number), BROKEN[mutation])
        with pytest.raises(PackageError, match=SIDECAR) as caught:
            load_package(package)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
        assert run(verb, package, capsys) == expected.get(verb[0], 2)


@pytest.mark.parametrize("mutation", MISFITS)
def test_sidecar_that_does_not_fit_is_no_evidence(
    mutation: str, healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tags are then those of the nodes."""
    for number, verb in enumerate(VERBS):
        package = mutated(healthy, tmp_path / str(number), MISFITS[mutation])
        file = load_package(package).files[FILE]
        assert (file.evidence, file.tags) == ("metadata", TAGS)
        assert run(verb, package, capsys) == (1 if verb == ["validate"] else 0)


def test_healthy_sidecar_reads(healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counterpart: what the mutations start from is read as it was written."""
    file = load_package(healthy).files[FILE]
    assert (file.evidence, file.tags) == ("sidecar", TAGS)
    for number, verb in enumerate(VERBS):
        package = mutated(healthy, tmp_path / str(number), lambda document, entry: None)
        assert run(verb, package, capsys) in ((0, 1) if verb == ["validate"] else (0,))


def test_empty_graph_has_no_rows(tmp_path: Path) -> None:
    """Its sidecar describes it all the same."""
    model = read_model(onnx_file(tmp_path / FILE, nodes=0))
    Sidecar({FILE: FileRecord.of(TaggedGraph(model, {}))}).write(tmp_path)
    assert load_package(tmp_path).files[FILE].evidence == "sidecar"


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    """As a path that is not UTF-8 has; other characters stand as they are."""
    Sidecar({}, source={"model": "caf\u00e9/\udcff"}).write(tmp_path)
    read = Sidecar.read(tmp_path)
    assert read is not None
    assert read.source == {"model": "caf\u00e9/?"}
    assert "caf\u00e9" in (tmp_path / SIDECAR).read_text("utf-8")


@pytest.mark.parametrize("tag", ["/Net" + "/A.a" * 40_000, "/Net/A.a" + ".a" * 40_000, "/Net/foo", "Net", "//", ""])
def test_tag_that_is_none_is_left_out(tag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it is an origin; a long one keeps no verb from its end."""
    assert read_tags(read_model(onnx_file(tmp_path / FILE, tag=tag))) == {}
    for verb in VERBS:
        run(verb, tmp_path, capsys)
    onnx_file(tmp_path / FILE, 1, "/Net", **{ORIGINS: json.dumps([tag, "/Net", 5])})
    assert read_tags(read_model(tmp_path / FILE)) == {("", 0): NodeTag("/Net", "scope", None, ("/Net",))}


def test_tags_of_too_many_deep_modules_are_refused() -> None:
    """Each is no deeper than a tag may be; all together would fill the memory."""
    tags = {("", at): NodeTag(f"/Net/A.{at}" + "/A.a" * 499, "scope") for at in range(300)}
    with pytest.raises(HtpError, match="more modules than any model has"):
        tree_of_tags(tags)
    assert len(tree_of_tags({("", 0): tags["", 0]})[0]) == 501
