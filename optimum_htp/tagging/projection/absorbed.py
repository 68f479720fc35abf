"""What nodes took on after they were named: their results lie further down than the names say.

ONNX Runtime lays convolutions out in blocks of channels, as many as the processor's vectors hold, and names each after
the result that it had then. The addition and the activation that it takes on afterwards leave no name. What fits no
block stays as it was: so each kind of processor makes another graph, and nothing here depends on the width.
"""

from __future__ import annotations

from optimum_htp.tagging.projection.flow import GLUE
from optimum_htp.tagging.projection.join import BREADTH, REACH, Join


def match_absorbed(join: Join) -> None:
    """Finds what nodes with names made from old ones took on, makers first, so that each tells what the next reads."""
    for number in join.new.order:
        outputs = join.new.operations[number].outputs
        single = len(outputs) == 1 and outputs[0] in join.same and len(join.matches[number].anchors) == 1
        if not single or number not in join.renamed or join.new_op(number) in GLUE:
            continue
        absorbed = _absorbed(join, number, outputs[0])
        if absorbed:
            for each in absorbed:
                join.anchor(number, each)
            del join.same[outputs[0]]
            join.rename(number, absorbed[-1])


def _absorbed(join: Join, number: int, made: int) -> list[int]:
    """The vanished nodes in a row between what a node makes by its name and what those that read it begin with."""
    begun = {_beginning(join, reader) for reader in _workers_behind(join, made)}
    reads = join.reads(number)
    value = join.same[made]
    absorbed: list[int] = []
    for _ in range(REACH):
        if not begun.isdisjoint(_readers_of(join, value)):
            return absorbed
        behind = join.old.values[value].readers
        if len(behind) != 1 or join.old.values[value].returned or join.owner[behind[0]] is not None:
            break
        node = join.old.operations[behind[0]]
        others = {each for each in node.inputs if each >= 0 and each != value and join.flows(each)}
        # A convolution takes on no other convolution: that has weights of its own.
        if not others <= reads or join.op(behind[0]) in (join.new_op(number), f"Fused{join.new_op(number)}"):
            break
        if len(node.outputs) != 1 or node.outputs[0] < 0:
            break
        absorbed.append(behind[0])
        value = node.outputs[0]
    return []


def _workers_behind(join: Join, value: int) -> list[int]:
    """The nodes of the target that a value goes to, those that were put in looked through."""
    found: list[int] = []
    front = join.new.values[value].readers[:BREADTH]
    for _ in range(REACH):
        put_in = [each for each in front if join.new_op(each) in GLUE and not join.is_itself(each)]
        found += [each for each in front if each not in put_in]
        front = [reader for each in put_in for reader in join.new.readers(each)][:BREADTH]
    return found


def _readers_of(join: Join, value: int) -> set[int]:
    """The tagged nodes that a value goes to, vanished ones that only move it looked through."""
    found: set[int] = set()
    front = join.old.values[value].readers[:BREADTH]
    for _ in range(REACH):
        found.update(front)
        moving = [each for each in front if join.op(each) in GLUE and join.owner[each] is None]
        front = [reader for each in moving for reader in join.old.readers(each)][:BREADTH]
    return found


def _beginning(join: Join, number: int) -> int | None:
    """The tagged node that gave a node of the target its operator: in front of it lies the work of others."""
    op_type = join.new_op(number)
    kinds = {op_type, f"Fused{op_type}"}
    if op_type == "Conv":
        kinds.add("BatchNormalization")  # laid out in blocks, it is a convolution
    front = list(join.matches[number].anchors)[:1]
    for _ in range(REACH):
        for each in front:
            if join.op(each) in kinds:
                return each
        front = [maker for each in front for maker in join.old.makers(each) if join.owner[maker] is None][:BREADTH]
    return None
