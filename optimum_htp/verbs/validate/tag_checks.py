"""Checks of what the HTP pass wrote: tags, distinct keys, and a sidecar that describes these graphs."""

from __future__ import annotations

from collections.abc import Iterator

from optimum_htp.hierarchy import NodeKey
from optimum_htp.onnxfile import MAX_MODEL_BYTES, OnnxModel, node_id
from optimum_htp.package import SIDECAR, HtpFile, Ownership, read_tags
from optimum_htp.tagging import NAME_SCOPES, statements
from optimum_htp.verbs.validate.contents import Contents
from optimum_htp.verbs.validate.report import Finding, failed, good, skipped, warning


def check_tags(package: Contents) -> Iterator[Finding]:
    """Every node is tagged, and says so itself."""
    tagged = total = 0
    for name, file in package.readable_files.items():
        keys = [key for key, _ in file.model.nodes()]
        garbled = _garbled(file.model)
        if garbled:
            reason = f"{name}: what {len(garbled):,} nodes say in {NAME_SCOPES} can't be read or contradicts itself"
            yield failed(f"{reason}, such as {_name(file.model, garbled[0])}", "export the model again")
        nodes, tags = len(keys), file.tags
        unresolved = [key for key, tag in tags.items() if tag.source == "unresolved"]
        missing = nodes - len(tags)
        tagged, total = tagged + len(tags) - len(unresolved), total + nodes
        again = f"tag it: optimum-cli htp tag {package.path}"
        advice = f"if a tool changed it: optimum-cli htp project {package.path} --reference TAGGED; else {again}"
        origin = package.origins.get(name) if missing else None
        if origin is not None:
            advice = again = f"carry the tags of {origin} over: optimum-cli htp project {package.path}"
        if nodes and not tags:
            stale = "delete it if an earlier export left it; else " if package.sidecar is not None else ""
            yield failed(f"{name}: no node is tagged", again if origin is not None else f"{stale}{again}")
        elif missing:
            example = next(_name(file.model, key) for key in keys if key not in tags)
            yield failed(f"{name}: {missing:,} of {nodes:,} nodes are not tagged, such as {example}", advice)
        carried = len(tags.keys() & read_tags(file.model).keys())
        if carried < len(tags) and _has_room(file):
            what = f"{carried:,} of {nodes:,} nodes carry their tags; the others' are in {SIDECAR} only"
            yield warning(f"{name}: {what}", f"write them into the file: optimum-cli htp project {package.path}")
        if unresolved:
            example = _name(file.model, unresolved[0])
            yield warning(f"{name}: the modules of {len(unresolved):,} nodes are unknown, such as {example}")
    yield good(f"{tagged:,} of {total:,} nodes") if package.readable_files else skipped("no file could be read")


def _garbled(model: OnnxModel) -> list[NodeKey]:
    """The nodes whose own metadata, not what we wrote there, says of their modules what can't be so."""
    found = statements(model).garbled
    ours, nodes = Ownership.of(model), dict(model.nodes()) if found else {}
    return sorted(key for key in found if NAME_SCOPES in ours.without_ours(key, nodes[key].metadata))


def _has_room(file: HtpFile) -> bool:
    """Whether the tags fit into a file; beyond protobuf's limit they are in the sidecar only."""
    longest = 4 * sum(len(tag.tag) for tag in file.tags.values())  # with what else is written on the nodes
    return file.path.stat().st_size + longest < MAX_MODEL_BYTES


def _name(model: OnnxModel, key: NodeKey) -> str:
    node = dict(model.nodes())[key]
    return f"{node.op_type} {node.name or node_id(node, key[1])!r}"


def check_keys(package: Contents) -> Iterator[Finding]:
    """No node has a metadata key twice: readers differ in which one they take."""
    for name, model in package.readable.items():
        ours = Ownership.of(model)
        again = f"write the tags again: optimum-cli htp project {package.path}"
        for (_, index), node in model.nodes():
            for key in node.repeated_keys:
                reason = f"{name}: the node {node.name or f'#{index}'!r} has the metadata key {key!r} twice"
                yield failed(reason, again if ours.has(key) else "remove one: readers differ in which they take")
    yield good("each key once per node") if package.readable else skipped("no file could be read")


def check_sidecar(package: Contents) -> Iterator[Finding]:
    """export_metadata.json describes just these graphs."""
    sidecar = package.sidecar
    again = f"tag the package again: optimum-cli htp tag {package.path}"
    if SIDECAR in package.problems:
        yield failed(str(package.problems[SIDECAR]), f"delete it, then {again}")
        return
    if sidecar is None:
        yield warning(f"there is no {SIDECAR}: the export did not end, or another tool wrote the package", again)
        return
    names = set(package.files) if package.packed is None else {package.packed.onnx_name}
    for name in sorted(names - sidecar.files.keys()):
        origin = package.origins.get(name)
        if origin in sidecar.files:  # a variant that was put beside it
            carry = f"add it: optimum-cli htp project {package.path}"
            yield warning(f"{SIDECAR} does not know {name}, which was made from {origin}", carry)
        elif not (name in package.readable_files and package.files[name].evidence == "none"):  # else `tags` says so
            yield failed(f"{SIDECAR} does not know {name}", f"delete it if an earlier export left it; else {again}")
    missing = sorted(sidecar.files.keys() - names)
    if missing and package.path.is_dir():
        yield failed(f"{SIDECAR} describes {missing[0]}, which is not there", again)
    for name, file in package.readable_files.items():
        if file.record is None:
            continue
        if file.evidence != "sidecar":
            advice = f"carry the tags over: optimum-cli htp project {package.path}"
            yield failed(f"{name} was changed after it was described in {SIDECAR}", advice)
            continue
        written = read_tags(file.model)  # without any, `tags` says so
        differing = [key for key, tag in file.record.tags.items() if written and written.get(key) != tag]
        if differing:
            what = f"{len(differing):,} nodes have other tags than in {SIDECAR}, or none"
            advice = f"write them again: optimum-cli htp project {package.path}"
            yield failed(f"{name}: {what}, such as {_name(file.model, differing[0])}", advice)
    yield good("describes just these graphs") if package.readable_files else skipped("no file could be read")
