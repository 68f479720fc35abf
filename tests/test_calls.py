"""The call tree: which call of a module each call was made in, through the trace, the sidecar, the skeleton and tools.

What is expected is what hooks of the tests' own saw, which keep their own stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import rewriters
import torch
from random_nets import export as export_net, random_net
from torch import Tensor, nn

from optimum_htp.hierarchy.calls import CallTree
from optimum_htp.hierarchy.root import Root, Roots, merged_roots
from optimum_htp.hierarchy.tags import ModulePath, NodeTag
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.package.package import HtpPackage
from optimum_htp.package.resolver import tagged_file
from optimum_htp.package.sidecar.record import FileRecord
from optimum_htp.package.sidecar.sidecar import Sidecar
from optimum_htp.package.skeleton import pack_skeleton, unpack_skeleton
from optimum_htp.tagging.graph import TaggedGraph
from optimum_htp.tagging.projection.steps import project
from optimum_htp.tagging.rules.order import tag_export
from optimum_htp.tagging.tracing.tap import ModuleTap
from optimum_htp.verbs.tag import tag as tag_package


class Seen(NamedTuple):
    """A call that a hook saw: of which module, and from which other call."""

    module: nn.Module
    parent: int | None


@contextmanager
def watched(net: nn.Module) -> Iterator[list[Seen]]:
    """The calls of the last run of a net, in the order in which they began."""
    calls: list[Seen] = []
    stack: list[int] = []

    def enter(module: nn.Module, _: Any) -> None:
        if module is net and not stack:
            calls.clear()
        calls.append(Seen(module, stack[-1] if stack else None))
        stack.append(len(calls) - 1)

    def leave(*_: Any) -> None:
        stack.pop()

    hooks = [module.register_forward_pre_hook(enter) for module in net.modules()]
    hooks += [module.register_forward_hook(leave) for module in net.modules()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def module_at(net: nn.Module, path: ModulePath) -> nn.Module:
    for name in path:
        child = net._modules[name]
        assert child is not None
        net = child
    return net


def index_of(seen: list[Seen], number: int) -> int:
    """Which call of its module a call is."""
    return sum(call.module is seen[number].module for call in seen[:number])


def innermost(seen: list[Seen], number: int | None, module: nn.Module) -> int | None:
    """The call of a module that a call is, or was made in."""
    while number is not None and seen[number].module is not module:
        number = seen[number].parent
    return number


def check_calls(net: nn.Module, seen: list[Seen], root: Root) -> None:
    """The calls are those that were seen, and each is looked up right for every module around it."""
    (trace,) = root.traces
    assert [(module_at(net, call.path), call.parent) for call in trace] == seen
    assert [call.index for call in trace] == [index_of(seen, number) for number in range(len(seen))]
    roots = Roots([root])
    for number, call in enumerate(trace):
        several = root.tree.module(call.path).calls > 1
        tag = NodeTag(root.tree.tag(call.path), "scope", call.index if several else None)
        for length in range(len(call.path) + 1):
            above = innermost(seen, number, module_at(net, call.path[:length]))
            expected = None if above is None else index_of(seen, above)
            assert roots.call_above(tag, root.tree.tag(call.path[:length])) == expected, (tag, call.path[:length])


def exported_graph(net: nn.Module, file: Path, inputs: Tensor | None = None) -> tuple[TaggedGraph, list[Seen]]:
    with watched(net) as seen, ModuleTap() as tap:
        if inputs is None:
            export_net(net, file)
        else:
            torch.onnx.export(net, (inputs,), str(file), input_names=["x"], output_names=["y"], dynamo=False)
    return tag_export(tap.exports[0]), list(seen)


def round_trips(graph: TaggedGraph, directory: Path) -> Iterator[TaggedGraph]:
    """The graph as the sidecar and as the skeleton give it back."""
    Sidecar({"model.onnx": FileRecord.of(graph)}).write(directory)
    sidecar = Sidecar.read(directory)
    assert sidecar is not None
    yield sidecar.files["model.onnx"].tagged(graph.model)
    text = pack_skeleton(graph)
    assert text is not None
    yield unpack_skeleton(text)


# --- Nets ---


class Layer(nn.Module):
    """Has a node of its own, and calls a module."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        """As said."""
        return self.act(torch.sin(x))


class Parent(nn.Module):
    """Calls a layer twice, or not at all."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        """As said."""
        return torch.cos(x) if skip else self.layer(self.layer(x))


class ThreeParents(nn.Module):
    """Three parents of one layer."""

    def __init__(self) -> None:
        super().__init__()
        layer = Layer()
        self.parents = nn.ModuleList(Parent(layer) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """One after the other."""
        for parent in self.parents:
            x = parent(x)
        return x


class Skipping(nn.Module):
    """One parent, which leaves out the calls of its layer the second of three times."""

    def __init__(self) -> None:
        super().__init__()
        self.parent = Parent(Layer())

    def forward(self, x: Tensor) -> Tensor:
        """As said."""
        return self.parent(self.parent(self.parent(x), skip=True))


class Past(nn.Module):
    """Calls a module inside another one past that, and the other one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()

    def forward(self, x: Tensor) -> Tensor:
        """As said."""
        return self.layer.act(self.layer(self.layer(x)))


class Recursive(nn.Module):
    """Calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x: Tensor, depth: int = 3) -> Tensor:
        """As said."""
        return self.act(x) if not depth else torch.sin(self(self.act(x), depth - 1))


NETS: dict[str, Callable[[], nn.Module]] = {
    "three parents": ThreeParents,
    "skipping": Skipping,
    "past the parent": Past,
    "recursive": Recursive,
}


@pytest.mark.parametrize("name", NETS)
def test_each_call_knows_its_parent(name: str, tmp_path: Path) -> None:
    """In the trace, from the sidecar, from the skeleton, and after a tool."""
    net = NETS[name]()
    graph, seen = exported_graph(net, tmp_path / "model.onnx", torch.ones(2))
    optimized = project([graph], read_model(rewriters.rewrite("ort-all", graph.model.path, tmp_path / "new.onnx")))
    for each in (graph, *round_trips(graph, tmp_path), optimized):
        (root,) = each.roots
        check_calls(net, seen, root)
    outer = [root.tree.tag(info.path) for info in root.tree if not info.container]
    calls = {node.outputs: graph.tags[key] for key, node in graph.model.nodes()}
    for key, node in optimized.model.nodes():
        for tag in outer:
            expected = graph.roots.calls_above(calls[node.outputs], tag)
            assert optimized.roots.calls_above(optimized.tags[key], tag) == expected, (node.name, tag)


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.sweep)])
def test_random_nets(count: int, tmp_path: Path) -> None:
    """Modules under several names, called past their parents, borrowed and shared."""
    checked = 0
    for seed in range(count):
        net = random_net(seed)
        try:
            graph, seen = exported_graph(net, tmp_path / "model.onnx")
        except RuntimeError:  # it reads a weight of a module that is none of its own, which torch can't export
            continue
        for each in (graph, *round_trips(graph, tmp_path)):
            (root,) = each.roots
            check_calls(net, seen, root)
        checked += 1
    assert checked > 0.75 * count


def above(graph: TaggedGraph, operator: str, path: str) -> list[int | None]:
    """The call of a module that each node of an operator was made in."""
    (tree,) = graph.trees
    module = tree.tag(tuple(path.split(".")))
    return [
        graph.roots.call_above(graph.tags[key], module)
        for key, node in graph.model.nodes()
        if node.op_type == operator
    ]


def test_three_parents_share_a_layer(tmp_path: Path) -> None:
    """Each parent ran once, and the layer below it twice: the six calls of the layer are dealt out by who made them."""
    graph, _ = exported_graph(ThreeParents(), tmp_path / "model.onnx", torch.ones(2))
    assert above(graph, "Sin", "parents.0.layer") == [0, 1, 2, 3, 4, 5]
    assert above(graph, "Sin", "parents.0") == [0, 0, None, None, None, None]
    assert above(graph, "Sin", "parents.2") == [None, None, None, None, 0, 0]
    assert above(graph, "Tanh", "parents.1.layer") == [0, 1, 2, 3, 4, 5]


def test_a_skipped_call_shifts_nothing(tmp_path: Path) -> None:
    """Four calls of the layer in three of its parent: two in the first, none in the second."""
    graph, _ = exported_graph(Skipping(), tmp_path / "model.onnx", torch.ones(2))
    assert above(graph, "Sin", "parent") == [0, 0, 2, 2]
    assert above(graph, "Cos", "parent") == [1]


def test_a_call_past_the_parent_is_in_none_of_its_calls(tmp_path: Path) -> None:
    """It is known to be in none, which is not the same as not to be known."""
    graph, _ = exported_graph(Past(), tmp_path / "model.onnx", torch.ones(2))
    tags = [graph.tags[key] for key, node in graph.model.nodes() if node.op_type == "Tanh"]
    layer = graph.trees[0].tag(("layer",))
    assert [graph.roots.calls_above(tag, layer) for tag in tags] == [{0}, {1}, frozenset()]
    assert without_call(graph, layer) == 0


def test_what_several_calls_share_is_counted() -> None:
    """A constant that the exporter made one of belongs to each call that reads it."""
    tree = ModuleTree([ModuleInfo((), "Net", "Net", calls=1), ModuleInfo(("a",), "A", "A", calls=3)])
    roots = Roots([Root(tree, "", (CallTree.of_rows(tree, [(0, -1), (1, 0), (1, 0), (1, 0)]),))])
    tag = NodeTag("/Net/A.a", "dataflow")
    assert roots.calls_above(tag, "/Net/A.a") == {0, 1, 2}
    assert roots.call_above(tag, "/Net/A.a") is None
    assert roots.call_above(tag, "/Net") == 0


def test_calls_that_nobody_recorded_are_unknown() -> None:
    """How often modules ran is no proof of which call was made in which."""
    modules = [(), ("a",), ("a", "b"), ("c",)]
    counts = dict(zip(modules, (1, 2, 4, 1), strict=True))
    tree = ModuleTree(ModuleInfo(path, "M", "M", calls=counts[path]) for path in modules)
    graph = TaggedGraph(read_nothing(), {}, Roots([Root(tree)]))
    assert graph.roots.calls_above(NodeTag("/M/M.a/M.b", "scope", 3), "/M/M.a") is None
    assert graph.roots.call_above(NodeTag("/M/M.a", "scope", 1), "/M/M.a") == 1
    assert graph.roots.call_above(NodeTag("/M/M.a/M.b", "scope", 3), "/M") == 0
    assert graph.roots.call_above(NodeTag("/M/M.c", "scope"), "/M/M.c") == 0
    assert graph.calls("/M/M.a/M.b") == 4


def read_nothing() -> Any:
    """A model that nobody looks at."""


# --- Exported packages ---


@pytest.fixture(scope="module")
def albert(exported: Callable[..., Path]) -> Path:
    """The package; treat it as read-only."""
    return exported("albert")


def run(model: nn.Module, **inputs: Any) -> list[Seen]:
    with watched(model) as seen, torch.no_grad():
        model(**inputs)
    return list(seen)


def test_albert(albert: Path, zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """One layer that runs three times: as a run of the model without any export shows; and through ORT's fusions."""
    from transformers import AlbertForSequenceClassification

    model = AlbertForSequenceClassification.from_pretrained(zoo_model("albert")).eval()
    seen = run(model, input_ids=torch.ones(1, 4, dtype=torch.long))
    file = HtpPackage(albert).files["model.onnx"]
    (root,) = file.tagged.roots
    check_calls(model, seen, root)
    layer = next(root.tree.tag(module.path) for module in root.tree if module.class_name == "AlbertLayer")
    assert {file.tagged.roots.call_above(tag, layer) for tag in file.tags.values() if below(tag.tag, layer)} >= {
        0,
        1,
        2,
    }

    package = tmp_path / "package"
    package.mkdir()
    optimized = rewriters.rewrite("optimum-O2", file.path, package / "model.onnx")
    carried = tagged_file(HtpPackage(optimized).files["model.onnx"], package=HtpPackage(package))
    (projected,) = carried.roots
    check_calls(model, seen, projected)
    known = {node.outputs[0]: file.tagged.roots.call_above(file.tags[key], layer) for key, node in file.model.nodes()}
    kept = [
        (carried.roots.call_above(carried.tags[key], layer), known[name])
        for key, node in carried.model.nodes()
        for name in node.outputs[:1]
        if name in known and carried.tags[key].source == "scope" and below(carried.tags[key].tag, layer)
    ]
    assert len(kept) > 20
    assert [found for found, expected in kept if found != expected] == []
    assert without_call(carried, layer) <= without_call(file.tagged, layer)


def below(tag: str, above: str) -> bool:
    return f"{tag}/".startswith(f"{above}/")


def without_call(graph: TaggedGraph, above: str) -> int:
    """How many nodes of a module, and of those below it, may be those of several of its calls, or of unknown ones."""
    inside = (tag for tag in graph.tags.values() if below(tag.tag, above) and tag.source != "unresolved")
    calls = [graph.roots.calls_above(tag, above) for tag in inside]
    return sum(found is None or len(found) > 1 for found in calls)


def test_t5(exported: Callable[..., Path], zoo_model: Callable[[str], Path]) -> None:
    """The embedding that encoder and decoder share goes by the name below its caller; a merged file has both traces."""
    from transformers import T5ForConditionalGeneration

    files = HtpPackage(exported("t5")).files
    model = T5ForConditionalGeneration.from_pretrained(zoo_model("t5")).eval()
    ids = torch.ones(1, 4, dtype=torch.long)
    (encoder,) = files["encoder_model.onnx"].tagged.roots
    check_calls(model.encoder, run(model.encoder, input_ids=ids), encoder)
    (first,), (later,), merged = (
        files[name].tagged.roots
        for name in ("decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx")
    )
    assert merged[0].traces == (*first.traces, *later.traces)
    graph = files["decoder_model_merged.onnx"].tagged
    gathers = {tag.tag for key, tag in graph.tags.items() if tag.tag.endswith("Embedding.embed_tokens")}
    assert gathers == {"/T5ForConditionalGeneration/T5Stack.decoder/Embedding.embed_tokens"}
    stack = "/T5ForConditionalGeneration/T5Stack.decoder"
    assert {graph.roots.call_above(tag, stack) for tag in graph.tags.values() if below(tag.tag, stack)} == {0}


def test_merged_roots() -> None:
    """Exports of one module become one root; where their calls disagree, nothing is said; other modules stay apart."""

    def root(calls: int, rows: list[tuple[int, ...]], place: str = "") -> Root:
        modules = [((), 1), (("a",), 2), (("b",), calls)]
        tree = ModuleTree(ModuleInfo(path, "M", "M", calls=count) for path, count in modules)
        return Root.of_rows(tree, place, [rows])

    one = root(2, [(0, -1), (1, 0), (2, 1), (1, 0), (2, 3)])
    two = root(3, [(0, -1), (1, 0), (2, 1), (2, 1), (1, 0), (2, 4)])
    merged = merged_roots([[one], [two], [one], [root(1, [(0, -1), (1, 0), (1, 0), (2, 0)], "elsewhere")]])
    assert [len(each.traces) for each in merged] == [2, 1]
    assert [each.tree.module(("b",)).calls for each in merged] == [3, 1]
    for index, calls in enumerate(({0}, {0, 1}, {1})):
        assert merged.calls_above(NodeTag("/M/M.b", "scope", index), "/M/M.a") == calls


def test_names_know_no_calls(albert: Path, zoo_model: Callable[[str], Path], tmp_path: Path) -> None:
    """`tag` finds modules by names alone: of which call a node is, it says that it does not know, and of how many."""
    import shutil

    from optimum_htp import strip

    package = Path(shutil.copytree(albert, tmp_path / "package"))
    strip(package)
    tag_package(package, model=zoo_model("albert"))
    graph = HtpPackage(package).files["model.onnx"].tagged
    (root,) = graph.roots
    assert root.traces == ()
    layer = next(root.tree.tag(module.path) for module in root.tree if module.class_name == "AlbertLayer")
    inside = [tag for tag in graph.tags.values() if below(tag.tag, layer)]
    assert graph.calls(layer) == 3
    assert {graph.roots.call_above(tag, layer) for tag in inside} == {None}
    assert without_call(graph, layer) == len(inside) > 50
    assert without_call(graph, root.tag) == 0
