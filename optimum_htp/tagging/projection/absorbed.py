"""What nodes took on after they were named: their results are those of later nodes than the names say.

ONNX Runtime lays convolutions out in blocks of channels, as many as the processor's vectors hold, and names each after
the result that it had then. The addition and the activation that it takes on afterwards leave no name. What fits no
block stays as it was: so each kind of processor makes another graph, and nothing here depends on the width.

Example: the last name that is left is `c`, but `y = Exp` consumes what `Relu` produced, so `Conv` took on `Relu`.

    before:  [conv] c = Conv(x, w);  r = Relu(c);  y = Exp(r)
    after:   t = Conv(x, w), named after `c`;      y = Exp(t)
"""

from __future__ import annotations

from optimum_htp.tagging.projection.flow import BREADTH, GLUE, REACH
from optimum_htp.tagging.projection.join import Join


def match_absorbed(join: Join) -> None:
    """Finds what nodes with names made from old ones took on, producers first: each says what the next consumes."""
    for new in join.new.order:
        outputs = join.new.operations[new].outputs
        single = len(outputs) == 1 and outputs[0] in join.same and len(join.matches[new].anchors) == 1
        if not single or new not in join.renamed or join.new.op_type(new) in GLUE:
            continue
        absorbed = _absorbed(join, new, outputs[0])
        if absorbed:
            for old in absorbed:
                join.anchor(new, old)
            del join.same[outputs[0]]
            join.rename(new, absorbed[-1])


def _absorbed(join: Join, new: int, output: int) -> list[int]:
    """The vanished nodes in a row between what a node produces by its name and what its consumers begin with."""

    def is_put_in(other: int) -> bool:
        return join.new.op_type(other) in GLUE and not join.is_itself(other)

    def is_gone_movement(old: int) -> bool:
        return join.old.op_type(old) in GLUE and join.owner[old] is None

    workers = [other for other in join.new.consumers_through(output, is_put_in) if not is_put_in(other)]
    begun = {_beginning(join, worker) for worker in workers}
    reads = join.reads(new)
    value = join.same[output]
    absorbed: list[int] = []
    for _ in range(REACH):
        if not begun.isdisjoint(join.old.consumers_through(value, is_gone_movement)):
            return absorbed
        consumers = join.old.values[value].consumers
        if len(consumers) != 1 or join.old.values[value].is_output or join.owner[consumers[0]] is not None:
            break
        old = consumers[0]
        operation = join.old.operations[old]
        others = {other for other in operation.consumed if other != value and join.flows(other)}
        # A convolution takes on no other convolution: that has weights of its own.
        op_type = join.new.op_type(new)
        if not others <= reads or join.old.op_type(old) in (op_type, f"Fused{op_type}"):
            break
        if len(operation.outputs) != 1 or not operation.produced:
            break
        absorbed.append(old)
        value = operation.outputs[0]
    return []


def _beginning(join: Join, new: int) -> int | None:
    """The tagged node that gave a node of the target its operator: in front of it lies the work of others."""
    op_type = join.new.op_type(new)
    kinds = {op_type, f"Fused{op_type}"}
    if op_type == "Conv":
        kinds.add("BatchNormalization")  # laid out in blocks, it is a convolution
    front = list(join.matches[new].anchors)[:1]
    for _ in range(REACH):
        for old in front:
            if join.old.op_type(old) in kinds:
                return old
        producers = (producer for old in front for producer in join.old.producers(old))
        front = [producer for producer in producers if join.owner[producer] is None][:BREADTH]
    return None
