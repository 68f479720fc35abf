"""Which module a text is about: an error message, a layer of a runtime, an event of a profiler, a name.

The names in it are looked up in the files of a package. Where there is none of theirs, the name may be one that ONNX
Runtime's optimizer made: the graph that it makes of each file is looked at too, with the tags projected onto it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from optimum_htp.collecting import no_collecting
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.hierarchy import NodeKey, NodeTag, common_ancestor, tag_class, tag_module_path
from optimum_htp.models import graph_limits, optimized_graph
from optimum_htp.onnxfile import (
    Graph,
    Node,
    SourceFiles,
    TensorTypes,
    Value,
    model_spans,
    named_axes,
    node_id,
    reads,
    scope_spans,
    scopes_of,
)
from optimum_htp.package import HtpFile, HtpPackage, as_package, tagged_file
from optimum_htp.tagging import TaggedGraph, parameter_name, project
from optimum_htp.verbs.explain.known_errors import known_errors
from optimum_htp.verbs.explain.mentions import PARAMETER, Mention, mentions
from optimum_htp.verbs.explain.report import Explained, ExplainReport

_LONGEST = 1_000_000  # characters


@no_collecting()
def explain(package: str | Path | HtpPackage, text: str, *, file: str | None = None) -> ExplainReport:
    """Finds the modules that a text is about.

    Args:
        package: The package whose file ran, or its path. Its weights are not read.
        text: An error message of ONNX Runtime or another runtime, or a name: of a node, a tensor, an initializer, a
            module, a layer of TensorRT or OpenVINO, an event of a profile.
        file: The files of the package to look in, globs allowed; None means all.

    Returns:
        The names of the package in the text, with the module of each, and what is known of the error.

    Raises:
        PackageError: No name of the package is in the text, and the error is not a known one.
        HtpError: The text is empty or too long, or a file is not tagged.

    Example:
        >>> explain("bert_onnx", "Name:'/encoder/layer.3/output/Add'").names[0].path    # doctest: +SKIP
        'encoder.layer.3.output'
    """
    if not text.strip():
        raise HtpError("nothing to explain: give a message or a name, or send it through a pipe")
    if len(text) > _LONGEST:
        raise HtpError(f"a text of {len(text):,} characters; give the message itself, at most {_LONGEST:,}")
    opened = as_package(package)
    files = [_opened(each, opened) for each in opened.matching(file).values()]
    names = [found for each in files for found in each.explain(text)]
    if any(found.evidence == "name" for found in names):
        names = [found for found in names if found.evidence == "name"]
    if not names:
        with graph_limits((opened,)):
            names = [found for each in files for found in each.optimized(text)]
    advice = known_errors(text)
    if not names and not advice:
        raise PackageError(
            f"{opened.path}: nothing in this text is the name of a node, a tensor, a weight or a module of it; is it the "
            "package that ran? Of a graph that a tool made and saved, give that file"
        )
    return ExplainReport(package=str(opened.path), names=tuple(names), advice=advice)


def _opened(file: HtpFile, package: HtpPackage) -> _File:
    recorded = file.record.parameters if file.record is not None else ()
    return _File(
        tagged_file(file, package=package),
        recorded={stored.name: stored.parameters for stored in recorded if stored.parameters},
    )


@dataclass(slots=True)
class _Places:
    """Where a name is in a file."""

    nodes: list[NodeKey] = field(default_factory=list)  # with the name
    makers: list[NodeKey] = field(default_factory=list)  # of the tensor
    readers: list[NodeKey] = field(default_factory=list)
    kind: str = ""  # of a tensor that no node makes


class _File:
    """One file, by its names."""

    def __init__(
        self, graph: TaggedGraph, *, recorded: Mapping[str, tuple[str, ...]] | None = None, is_made: bool = False
    ) -> None:
        self._graph = graph
        self._recorded = recorded or {}  # the parameters that initializers were made of
        self._is_made = is_made  # by ONNX Runtime's optimizer
        self._model = graph.model
        self._graphs: Mapping[str, Graph] = dict(graph.model.graphs())

    @cached_property
    def _places(self) -> dict[str, _Places]:
        places: dict[str, _Places] = {}
        for key, node in self._model.nodes():
            if node.name:
                places.setdefault(node.name, _Places()).nodes.append(key)
            for name in filter(None, node.outputs):
                places.setdefault(name, _Places()).makers.append(key)
            for name in dict.fromkeys(reads(node)):
                places.setdefault(name, _Places()).readers.append(key)
        for graph in self._graphs.values():
            named = [("input", each.name) for each in graph.inputs] + [("output", each.name) for each in graph.outputs]
            for kind, name in [("initializer", each.name) for each in graph.initializers] + named:
                known = places.setdefault(name, _Places())
                known.kind = known.kind or kind
        return places

    @cached_property
    def _modules(self) -> dict[str, str]:
        """The tags of the modules, by their dotted paths."""
        roots = self._graph.roots
        return {
            ".".join(path): root.tree.tag(path) for root in roots for info in root.tree for path in info.paths if path
        }

    def explain(self, text: str) -> Iterator[Explained]:
        """The names of the file in a text, the nodes' first; of modules only where there is no other."""
        found = mentions(text, self._places.keys())
        if not any(each.exact for each in found):
            modules = mentions(text, {*self._modules, *self._modules.values()}, added=PARAMETER)
            if modules:
                yield from map(self._module, modules)
                return
        for mention in found:
            yield from self._explained(mention)

    def optimized(self, text: str) -> Iterator[Explained]:
        """The names in a text that ONNX Runtime's optimizer makes of the file; none where it can't load it."""
        with suppress(HtpError):
            made = optimized_graph(self._model)
            known = project((self._graph,), made)
            graph = replace(known, roots=self._graph.roots, name=self._graph.name)
            for found in _File(graph, is_made=True).explain(text):
                yield replace(found, evidence="projection") if found.evidence == "name" else found

    def _module(self, mention: Mention) -> Explained:
        tag = self._modules.get(mention.name, mention.name)
        return Explained(
            text=mention.text, name=mention.name, kind="module", evidence="name" if mention.exact else "part", file=self._graph.name,
            tag=tag, path=tag_module_path(tag), class_name=tag_class(tag),
        )  # fmt: skip

    def _explained(self, mention: Mention) -> Iterator[Explained]:
        """Where a name is a node's and a tensor's, it is the node; where it is in several graphs, each of them."""
        places = self._places[mention.name]
        evidence = "name" if mention.exact else "part"
        if places.nodes or places.makers:
            kind = "node" if places.nodes else places.kind or "tensor"
            for key in places.nodes or places.makers:
                yield self._of_node(mention, key, kind=kind, evidence=evidence)
            return
        readers = [self._graph.tags[key] for key in places.readers if key in self._graph.tags]
        known = [tag for tag in readers if tag.source != "unresolved"]
        tag = common_ancestor([each.tag for each in known]) if known else None
        (only,) = places.readers if len(places.readers) == 1 else (None,)
        found = self._of_node(mention, only, kind=places.kind, evidence=evidence) if only is not None else None
        call = known[0].call if len({(each.tag, each.call) for each in known}) == 1 else None
        yield Explained(
            text=mention.text,
            name=mention.name,
            kind=places.kind,
            evidence=evidence,
            file=self._graph.name,
            graph=places.readers[0][0] if places.readers else "",
            tag=tag,
            path=None if tag is None else tag_module_path(tag),
            class_name=None if tag is None else tag_class(tag),
            call=call,
            node=found.node if found else None,
            operator=found.operator if found else None,
            inputs=found.inputs if found else (),
            outputs=found.outputs if found else (),
            parameters=tuple(self._parameters([mention.name])),
        )

    def _of_node(self, mention: Mention, key: NodeKey, *, kind: str, evidence: str) -> Explained:
        graph, index = key
        node = self._graphs[graph].nodes[index]
        tag = self._graph.tags.get(key) or NodeTag("/", "unresolved")
        is_known = tag.source != "unresolved"
        values = self._values(graph, (*node.inputs, *node.outputs))
        given = sum(map(bool, node.inputs))
        return Explained(
            text=mention.text,
            name=mention.name,
            kind=kind,
            evidence=evidence,
            file=self._graph.name,
            graph=graph,
            tag=tag.tag if is_known else None,
            path=tag_module_path(tag.tag) if is_known else None,
            class_name=tag_class(tag.tag) if is_known else None,
            call=None if "::" in graph and tag.origins else tag.call,  # in functions, that of the origins
            origins=tag.origins,
            node=node.name or node_id(node, index),
            operator=node.operator,
            inputs=values[:given],
            outputs=values[given:],
            parameters=tuple(self._parameters(self._weights(node))),
        )

    def _values(self, graph: str, names: Sequence[str]) -> tuple[Value, ...]:
        given = list(filter(None, names))
        stored = {each.name: Value(each.name, each.data_type, each.dims) for each in self._graphs[graph].initializers}
        known = stored | dict(self._types(graph, [name for name in given if name not in stored]))
        return tuple(known.get(name, Value(name)) for name in given)

    def _types(self, graph: str, names: Sequence[str]) -> Mapping[str, Value]:
        """The types of tensors, as far as the file or ONNX Runtime say; none of a graph that is not on the disk."""
        if self._is_made or not names or self._model.function_of(graph) is not None:
            return {}
        try:
            with SourceFiles(self._model.path) as files:
                whole = model_spans(files.data)
                spans = scope_spans(files.data, whole.graph, graph)
                types = TensorTypes(files.data, whole, scopes_of(self._model, graph), spans).sized(names)
        except HtpError:  # an answer without shapes is one
            return {}
        return {value.name: value for value in named_axes(types[name] for name in names if name in types)}

    def _weights(self, node: Node) -> list[str]:
        return [name for name in node.inputs if name in self._places and self._places[name].kind == "initializer"]

    def _parameters(self, names: Sequence[str]) -> Iterator[str]:
        """The PyTorch names of initializers: those that the sidecar has for them, else their own if it is one."""
        for name in names:
            if name in self._recorded:
                yield from self._recorded[name]
            elif (own := parameter_name(name)).rpartition(".")[0] in self._modules:
                yield own
