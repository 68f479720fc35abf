"""The skeleton of a tagged graph, packed into a string that travels in the model's own metadata.

It holds what projection needs: nodes with their operators, names, edges, tags and calls, the module trees, and of the
weights their types and a few numbers each (`onnxfile/probes.py`). Tools that drop the metadata of nodes keep that of the model, so a file can be tagged again from itself
after them.

The string is base85 (RFC 1924's alphabet) of zlib of JSON. The JSON is a table of columns: nodes come graph by graph, a
parent before its bodies. A tensor is written as its distance from the newest name, so that the layers of a model look
alike and compress to almost nothing: 0 is a new name, -1 an input or output that is not there. A tensor that is named
`<node>_output_<i>` after its producer has an empty name in the table. What is read is not trusted: lengths are bounded
before anything is made of them, and every number is checked.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any

from optimum_htp.collecting import no_collecting
from optimum_htp.errors import HtpError, reason
from optimum_htp.hierarchy import SOURCES, CallTree, ModuleInfo, ModulePath, ModuleTree, NodeKey, NodeTag, Root, Roots
from optimum_htp.onnxfile import (
    MAX_DIMENSIONS,
    PROBE_NUMBERS,
    Function,
    Graph,
    Initializer,
    Node,
    OnnxModel,
    Value,
    split_body_path,
    with_probes,
)
from optimum_htp.package.json_files import (
    as_count,
    as_integers,
    as_list,
    as_name,
    as_text,
    as_text_or_none,
    as_texts,
    parse_json,
)
from optimum_htp.package.limits import (
    FREE_SKELETON_BYTES,
    MAX_ALIAS_NAMES,
    MAX_CALLS,
    MAX_MODULE_DEPTH,
    MAX_NUMBER,
    MAX_SKELETON_BYTES,
    MAX_TAG_CHARACTERS,
    MAX_TREE_NAMES,
    SKELETON_RATIO,
)
from optimum_htp.tagging import TaggedGraph

VERSION = 1
_NEW, _ABSENT = 0, -1
_PROBE = struct.Struct(f"<{PROBE_NUMBERS}f")


def pack_skeleton(graph: TaggedGraph) -> str | None:
    """A tagged graph with its module trees and their calls as printable text; None if too large to be unpacked."""
    document = _Packer(replace(graph, model=with_probes(graph.model))).document()
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    content = text.encode("utf-8", "surrogatepass")  # names that are not UTF-8
    packed = base64.b85encode(zlib.compress(content, 9)).decode("ascii")
    is_readable = len(content) <= min(MAX_SKELETON_BYTES, FREE_SKELETON_BYTES + SKELETON_RATIO * len(packed))
    return packed if is_readable else None


@no_collecting()
def unpack_skeleton(text: str) -> TaggedGraph:
    """The packed graph, without path or types. Raises HtpError for what is not a skeleton, or of a newer version."""
    try:
        document = parse_json(_decompressed(text))
        if not isinstance(document, dict) or document.get("v") != VERSION:
            version = document.get("v") if isinstance(document, dict) else None
            raise HtpError(
                f"the skeleton has version {version!r}; this optimum_htp reads version {VERSION}: update it"
            )
        return _Unpacker(document).graph()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise HtpError(
            f"the skeleton in the model's metadata is damaged ({reason(error)}): give the tagged file or package that "
            "it was made from (--reference), or export the model again"
        ) from error


def _decompressed(text: str) -> bytes:
    if len(text) > MAX_SKELETON_BYTES:
        raise ValueError(f"{len(text)} characters, more than {MAX_SKELETON_BYTES}")
    decompressor = zlib.decompressobj()
    limit = min(MAX_SKELETON_BYTES, FREE_SKELETON_BYTES + SKELETON_RATIO * len(text))
    content = decompressor.decompress(base64.b85decode(text), limit)
    if not decompressor.eof:
        raise ValueError(f"cut off, or more than {limit:,} bytes unpacked")
    return content


class _Packer:
    """Collects the columns."""

    def __init__(self, graph: TaggedGraph) -> None:
        self._graph = graph
        self._names: dict[str, int] = {}
        self._table: list[str] = []
        tags = (tree.tag(info.path) for tree in graph.trees for info in tree)
        self._modules = {tag: index for index, tag in enumerate(tags)}

    def document(self) -> dict[str, Any]:
        """The whole skeleton, as JSON holds it."""
        operators: dict[tuple[str, str], int] = {}
        tags: dict[NodeTag, int] = {}
        names: list[str] = []
        columns: dict[str, list[int]] = {key: [] for key in ("op", "ni", "no", "io", "tag")}
        graphs = []
        weights = _WeightColumns()
        used = {name for _, node in self._graph.model.nodes() for name in node.inputs}
        for path, graph in self._graph.model.graphs():
            inputs = self._references(value.name for value in graph.inputs)
            stored = [tensor for tensor in graph.initializers if tensor.name in used]
            initializers = self._references(tensor.name for tensor in stored)
            weights.add(stored)
            for index, node in enumerate(graph.nodes):
                columns["op"].append(operators.setdefault((node.domain, node.op_type), len(operators)))
                columns["ni"].append(len(node.inputs))
                columns["no"].append(len(node.outputs))
                columns["io"] += self._references(node.inputs)
                columns["io"] += self._references(node.outputs, node.name)
                tag = self._graph.tags.get((path, index))
                columns["tag"].append(tags.setdefault(tag, len(tags)) if tag is not None else _ABSENT)
                names.append(node.name)
            outputs = self._references(value.name for value in graph.outputs)
            graphs.append([path, len(graph.nodes), inputs, initializers, outputs])
        return {
            "v": VERSION,
            "graphs": graphs,
            **columns,
            "ops": list(map(list, operators)),
            "names": names,
            "tensors": self._table,
            "weights": weights.columns(),
            "tags": [self._tag(tag) for tag in tags],
            "roots": [
                [root.in_model, _tree_columns(root.tree), [_call_columns(trace) for trace in root.traces]]
                for root in self._graph.roots
            ],
        }

    def _references(self, names: Iterable[str], producer: str | None = None) -> list[int]:
        references = []
        for index, name in enumerate(names):
            if not name:
                references.append(_ABSENT)
            elif name in self._names:
                references.append(len(self._table) - self._names[name])
            else:
                references.append(_NEW)
                self._names[name] = len(self._table)
                self._table.append("" if producer and name == f"{producer}_output_{index}" else name)
        return references

    def _tag(self, tag: NodeTag) -> list[Any]:
        row: list[Any] = [self._modules.get(tag.tag, tag.tag), SOURCES.index(tag.source), tag.call]
        if tag.origins:
            row.append([self._modules.get(origin, origin) for origin in tag.origins])
        return row


class _WeightColumns:
    """What is kept of the weights, in the order of all initializers: each one's type, shape and probe."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, tuple[int, ...], bool], int] = {}
        self._kind: list[int] = []
        self._numbers: list[float] = []

    def add(self, tensors: Iterable[Initializer]) -> None:
        for tensor in tensors:
            sound = len(tensor.dims) <= MAX_DIMENSIONS and all(0 <= size < MAX_NUMBER for size in tensor.dims)
            kind = tensor.data_type if sound else 0, tensor.dims if sound else (), bool(tensor.probe)
            self._kind.append(self._kinds.setdefault(kind, len(self._kinds)))
            self._numbers += tensor.probe

    def columns(self) -> dict[str, Any]:
        packed = struct.pack(f"<{len(self._numbers)}f", *self._numbers)
        return {
            "kinds": [[number, list(dims), int(has_probe)] for number, dims, has_probe in self._kinds],
            "kind": self._kind,
            "probes": base64.b64encode(packed).decode("ascii"),
        }

    @staticmethod
    def read(columns: Any) -> Iterator[Initializer]:
        """The weights without their names, in that order; of what an older version wrote, nothing but that they are there."""
        if columns is None:
            yield from repeat(Initializer())
        kinds = [_as_kind(*kind) for kind in columns["kinds"]]
        packed = base64.b64decode(as_text(columns["probes"]), validate=True)
        place = 0
        for index in as_integers(columns["kind"]):
            number, dims, has_probe = kinds[as_count(index, len(kinds))]
            probe: tuple[float, ...] = ()
            if has_probe:
                if place + _PROBE.size > len(packed):
                    raise ValueError("a weight has no numbers")
                probe = _PROBE.unpack_from(packed, place)
                place += _PROBE.size
            yield Initializer(data_type=number, dims=dims, probe=probe)


def _as_kind(number: Any, dims: Any, has_probe: Any) -> tuple[int, tuple[int, ...], bool]:
    if type(number) is not int or len(as_list(dims)) > MAX_DIMENSIONS:
        raise ValueError("the type of a weight is none")
    return number, tuple(as_count(size, MAX_NUMBER) for size in dims), bool(as_count(has_probe, 2))


def _tree_columns(tree: ModuleTree) -> dict[str, Any]:
    """A module tree by columns: each module's parent, by its index in the list, and its last name."""
    indices: dict[ModulePath, int] = {}
    classes: dict[tuple[str, str], int] = {}
    columns: dict[str, list[Any]] = {key: [] for key in ("parent", "name", "class", "calls", "parameters")}
    for index, info in enumerate(tree):
        parent = indices.get(info.path[:-1], _ABSENT) if info.path else _ABSENT
        indices[info.path] = index
        columns["parent"].append(parent)
        columns["name"].append(info.path[-1] if parent >= 0 else list(info.path))
        columns["class"].append(classes.setdefault((info.class_name, info.qualified_class), len(classes)))
        columns["calls"].append(info.calls)
        columns["parameters"].append(info.parameters)
    return {
        **columns,
        "classes": [[short, _shortened(full, short)] for short, full in classes],
        "containers": [index for index, info in enumerate(tree) if info.container],
        "aliases": [[index, list(map(list, info.aliases))] for index, info in enumerate(tree) if info.aliases],
    }


def _call_columns(calls: CallTree) -> dict[str, Any]:
    """Calls by columns: each call's module, its parent by the distance to it (0: none), and those by an alias."""
    rows = calls.rows()
    return {
        "module": [row[0] for row in rows],
        "parent": [0 if row[1] < 0 else index - row[1] for index, row in enumerate(rows)],
        "alias": [[index, row[2]] for index, row in enumerate(rows) if len(row) > 2],
    }


def _call_rows(columns: Any) -> Iterator[tuple[int, ...]]:
    aliases = {index: (alias,) for index, alias in columns["alias"]}
    pairs = zip(as_integers(columns["module"]), as_integers(columns["parent"]), strict=True)
    for index, (module, distance) in enumerate(pairs):
        yield module, -1 if not distance else as_count(index - distance, index), *aliases.get(index, ())


def _shortened(qualified: str, short: str) -> str:
    return qualified[: -len(short)] + "*" if qualified.endswith("." + short) else qualified


class _Unpacker:
    """Makes the graph of the columns; what does not fit raises one of the errors that `unpack_skeleton` catches."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._names = list(map(_as_tensor_name, as_list(document["names"])))
        self._table = list(map(_as_tensor_name, as_list(document["tensors"])))
        self._seen = self._made = 0
        self._columns = {key: iter(as_integers(document[key])) for key in ("op", "ni", "no", "io", "tag")}
        self._operators = [(as_text(domain), as_text(op_type)) for domain, op_type in document["ops"]]
        self._roots = self._read_roots()
        self._modules = [tree.tag(info.path) for tree in self._roots.trees for info in tree]
        self._tags = [self._tag(*row) for row in document["tags"]]

    def graph(self) -> TaggedGraph:
        """The graph with its tags."""
        tags: dict[NodeKey, NodeTag] = {}
        graphs: dict[str, Graph] = {}
        names = iter(self._names)
        weights = _WeightColumns.read(self._document.get("weights"))
        for path, count, inputs, initializers, outputs in self._document["graphs"]:
            graphs[as_text(path)] = graph = Graph()
            graph.inputs = tuple(map(Value, self._resolve(as_integers(inputs))))
            stored = list(self._resolve(as_integers(initializers)))
            graph.initializers = tuple(
                replace(weight, name=name) for name, weight in zip(stored, islice(weights, len(stored)), strict=True)
            )
            for index, name in enumerate(islice(names, as_count(count, len(self._names) + 1))):
                graph.nodes.append(self._node(name))
                tag = self._next("tag")
                if tag != _ABSENT:
                    tags[path, index] = self._tags[as_count(tag, len(self._tags))]
            graph.outputs = tuple(map(Value, self._resolve(as_integers(outputs))))
        functions = _assembled(graphs)
        return TaggedGraph(OnnxModel(graph=graphs[""], functions=functions), tags, self._roots)

    def _node(self, name: str) -> Node:
        domain, op_type = self._operators[as_count(self._next("op"), len(self._operators))]
        counts = [as_count(self._next(key), len(self._table) + 1_000) for key in ("ni", "no")]
        inputs, outputs = ([self._next("io") for _ in range(count)] for count in counts)
        return Node(name, op_type, domain, tuple(self._resolve(inputs)), tuple(self._resolve(outputs, name)))

    def _next(self, column: str) -> int:
        value = next(self._columns[column], None)
        if value is None:
            raise ValueError(f"the column {column!r} is too short")
        return value

    def _resolve(self, references: Iterable[int], producer: str | None = None) -> Iterator[str]:
        for index, reference in enumerate(references):
            if reference == _ABSENT:
                yield ""
                continue
            if reference == _NEW:
                if not self._table[self._seen] and producer:
                    self._table[self._seen] = f"{producer}_output_{index}"
                    self._made += len(producer)
                    if self._made > MAX_SKELETON_BYTES:
                        raise ValueError("longer names than any model has")
                self._seen += 1
            yield self._table[as_count(self._seen - max(reference, 1), self._seen)]

    def _tag(self, tag: Any, source: Any, call: Any, origins: Any = ()) -> NodeTag:
        source = SOURCES[as_count(source, len(SOURCES))]
        call = None if call is None else as_count(call, MAX_CALLS)
        return NodeTag(self._tag_name(tag), source, call, tuple(map(self._tag_name, origins)))

    def _tag_name(self, tag: Any) -> str:
        if isinstance(tag, int):
            return self._modules[as_count(tag, len(self._modules))]
        if not as_text(tag).startswith("/"):
            raise ValueError(f"{tag!r} is not a tag")
        return as_text(tag)

    def _read_roots(self) -> Roots:
        roots = Roots(
            Root.of_rows(ModuleTree(_modules(columns)), as_text_or_none(in_model), map(_call_rows, traces))
            for in_model, columns, traces in self._document["roots"]
        )
        for tree in roots.trees:
            for path in (alias for info in tree for alias in info.aliases):
                tree.tag(path)  # raises if the alias is below a module that isn't there
        return roots


def _modules(columns: Any) -> Iterator[ModuleInfo]:
    containers = set(as_integers(columns["containers"]))
    aliases = {index: tuple(tuple(as_texts(path)) for path in paths) for index, paths in columns["aliases"]}
    if sum(map(len, chain.from_iterable(aliases.values()))) > MAX_ALIAS_NAMES:
        raise ValueError("more aliases than any model has")
    classes = [(as_name(short), as_text(full)) for short, full in columns["classes"]]
    paths: list[ModulePath] = []
    lengths: list[int] = []  # of the tags, roughly: a deep tree with long names would fill the memory with them
    total = names = 0
    rows = zip(*(columns[key] for key in ("parent", "name", "class", "calls", "parameters")), strict=True)
    for index, (parent, name, class_index, calls, parameters) in enumerate(rows):
        short, full = classes[as_count(class_index, len(classes))]
        if parent == _ABSENT:
            paths.append(tuple(map(as_name, as_texts(name))))
            lengths.append(sum(map(len, paths[-1])))
        else:
            paths.append((*paths[as_count(parent, index)], as_name(name)))
            lengths.append(lengths[parent] + len(short) + len(name) + 2)
        total += lengths[-1]
        names += len(paths[-1])
        if total > MAX_TAG_CHARACTERS or len(paths[-1]) > MAX_MODULE_DEPTH or names > MAX_TREE_NAMES:
            raise ValueError("the module tree is deeper than any")
        yield ModuleInfo(
            path=paths[-1],
            class_name=short,
            qualified_class=full[:-1] + short if full.endswith(".*") else full,
            container=index in containers,
            calls=as_count(calls, MAX_NUMBER),
            parameters=as_count(parameters, MAX_NUMBER),
            aliases=aliases.get(index, ()),
        )


def _as_tensor_name(value: Any) -> str:
    """A name in an ONNX file, which need not be UTF-8 there."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a string")
    value.encode("utf-8", "surrogateescape")
    return value


def _assembled(graphs: dict[str, Graph]) -> tuple[Function, ...]:
    """Puts bodies into the nodes that hold them, innermost first, and returns the functions."""
    functions = []
    bodies: dict[NodeKey, list[tuple[str, Graph]]] = {}
    for path, graph in reversed(graphs.items()):
        for index, node in enumerate(graph.nodes):
            node.bodies = tuple(reversed(bodies.pop((path, index), ())))
        above, index, element = split_body_path(path) or ("", -1, "")
        if element and above in graphs:
            bodies.setdefault((above, as_count(index, len(graphs[above].nodes))), []).append((element, graph))
        elif path:
            domain, separator, rest = path.partition("::")
            name, _, overload = rest.partition(":")
            if not separator:
                raise ValueError(f"{path[:80]!r} is not the path of a graph")
            functions.append(Function(domain, name, overload, graph))
    if bodies:
        raise ValueError("a body comes before the graph that holds it")
    return tuple(reversed(functions))
