"""Toy nets that carry their truth.

Each net is nasty in one way. `ToyNet.expected` says, for chosen operators, which module call owns every node of that
operator, in the order in which the nodes stand in the file (a node, then its bodies); `ToyNet.parameters` says which
module holds a parameter. Paths are those of the tag: a module with several names goes by the one below its caller.

    >>> toy = TOYS["twice_beside_suffix"]
    >>> toy.export(Path("net.onnx"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Owner(NamedTuple):
    """The module call that owns a node: a dotted path (``""`` is the root) and the 0-based call of that object.

    The call is None for a node that serves several calls of its module.
    """

    path: str
    call: int | None = 0


@dataclass(frozen=True, slots=True)
class ToyNet:
    """A small net, its inputs, and what is true about its export."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    expected: Mapping[str, tuple[Owner, ...]]
    parameters: Mapping[str, str] = field(default_factory=dict)
    export_kwargs: Mapping[str, Any] = field(default_factory=dict)
    unscoped: frozenset[str] = frozenset()
    """Operators in `expected` whose nodes torch gives names without a scope, so that the oracle can't tell."""
    data_flow: Mapping[str, tuple[Owner, ...]] = field(default_factory=dict)
    """By operator, the owners of all nodes that no scope tells of: of who reads them, or holds what they write."""

    def build(self) -> nn.Module:
        """The net in eval mode, its weights seeded."""
        state = torch.get_rng_state()
        torch.manual_seed(0)
        try:
            return self.make().eval()
        finally:
            torch.set_rng_state(state)

    def export(self, file: Path, net: nn.Module | None = None) -> nn.Module:
        """Export the net (a fresh one by default) with the TorchScript exporter and return it."""
        net = self.build() if net is None else net
        options: dict[str, Any] = {"opset_version": 17, "dynamo": False, **self.export_kwargs}
        torch.onnx.export(net, self.inputs(), str(file), **options)
        return net


TOYS: dict[str, ToyNet] = {}


def _own(*owners: str | tuple[str, int]) -> tuple[Owner, ...]:
    return tuple(Owner(owner) if isinstance(owner, str) else Owner(*owner) for owner in owners)


def _vector() -> tuple[Tensor, ...]:
    return (torch.linspace(-1.0, 1.0, 8).reshape(2, 4),)


def _picture() -> tuple[Tensor, ...]:
    return (torch.linspace(-1.0, 1.0, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6),)


def _tokens() -> tuple[Tensor, ...]:
    return (torch.tensor([[1, 2, 3], [4, 5, 6]]),)


def _toy(
    make: Callable[[], nn.Module],
    expected: Mapping[str, tuple[Owner, ...]],
    name: str,
    inputs: Callable[[], tuple[Tensor, ...]] = _vector,
    **options: Any,
) -> None:
    TOYS[name] = ToyNet(name=name, make=make, inputs=inputs, expected=expected, **options)


class Op(nn.Module):
    """One function, no parameters: its node shows the call."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(x)


class Sin(Op):
    """``Sin`` as a module."""

    def __init__(self) -> None:
        super().__init__(torch.sin)


class Cos(Op):
    """``Cos`` as a module."""

    def __init__(self) -> None:
        super().__init__(torch.cos)


class Chain(nn.Module):
    """Calls the named children (dotted paths) one after the other."""

    def __init__(self, order: tuple[str, ...], **children: nn.Module) -> None:
        super().__init__()
        self.order = order
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        """Call every module of `order`."""
        for path in self.order:
            x = self.get_submodule(path)(x)
        return x


# --- Names --------------------------------------------------------------------------------------------------------


def _conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


_toy(
    lambda: Chain(("conv", "conv_1", "conv"), conv=_conv(), conv_1=_conv()),
    {"Conv": _own("conv", "conv_1", ("conv", 1))},
    "twice_beside_suffix",
    _picture,
)
_toy(
    lambda: Chain(("act", "act_1", "act", "act_1", "act", "act_2"), act=Sin(), act_1=Sin(), act_2=Sin()),
    {"Sin": _own("act", "act_1", ("act", 1), ("act_1", 1), ("act", 2), "act_2")},
    "suffixes_collide",
)
_toy(
    lambda: Chain(("layer_1", "layer", "layer"), layer=Chain(("layer",), layer=Sin()), layer_1=Sin()),
    {"Sin": _own("layer_1", "layer.layer", ("layer.layer", 1))},
    "layer_in_layer",
)
_toy(
    lambda: Chain(
        ("layer",),
        layer=nn.Sequential(OrderedDict(layer=nn.Sequential(OrderedDict(layer=Sin(), other=Cos())))),
    ),
    {"Sin": _own("layer.layer.layer"), "Cos": _own("layer.layer.other")},
    "sequential_layer_layer",
)


class Nest(nn.Module):
    """Sine, then the child, then cosine."""

    def __init__(self, name: str, child: nn.Module | None) -> None:
        super().__init__()
        self.name = name
        if child is not None:
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        """Work before and after the child."""
        x = torch.sin(x)
        if self.name in self._modules:
            x = self._modules[self.name](x)
        return torch.cos(x)


_toy(
    lambda: Nest("a", Nest("b", Nest("a", Nest("b", Nest("", None))))),
    {
        "Sin": _own("", "a", "a.b", "a.b.a", "a.b.a.b"),
        "Cos": _own("a.b.a.b", "a.b.a", "a.b", "a", ""),
    },
    "deep_repeats",
)
_toy(
    lambda: nn.Sequential(nn.Sequential(Sin(), Cos()), Sin(), nn.Sequential(nn.Sequential(Cos()), Sin())),
    {"Sin": _own("0.0", "1", "2.1"), "Cos": _own("0.1", "2.0.0")},
    "sequential_root",
)


class NumericBlocks(nn.Module):
    """Sequentials within Sequentials in a ModuleList: paths made of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Sequential(Sin(), Cos()), Sin()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Call the blocks in reverse, the first one twice."""
        for block in (self.blocks[1], self.blocks[0], self.blocks[0]):
            x = block(x)
        return x


_toy(
    NumericBlocks,
    {
        "Sin": _own("blocks.1.0.0", "blocks.1.1", "blocks.0.0.0", "blocks.0.1", ("blocks.0.0.0", 1),
                    ("blocks.0.1", 1)),
        "Cos": _own("blocks.1.0.1", "blocks.0.0.1", ("blocks.0.0.1", 1)),
    },
    "numeric_paths",
)  # fmt: skip


class OddKeys(nn.Module):
    """A ModuleDict whose keys hold the characters that tags and node names are built with."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"a/b": Sin(), "50%": Cos(), "plain": Sin(), "%2F": Sin(), "x y": Cos()})

    def forward(self, x: Tensor) -> Tensor:
        """Call every head."""
        for head in self.heads.values():
            x = head(x)
        return x


_toy(
    OddKeys,
    {"Sin": _own("heads.a/b", "heads.plain", "heads.%2F"), "Cos": _own("heads.50%", "heads.x y")},
    "odd_keys",
)


def _homonym() -> type[nn.Module]:
    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x)

    Linear.__module__, Linear.__qualname__ = "elsewhere.layers", "Linear"
    return Linear


_toy(
    lambda: Chain(("ours", "theirs"), ours=_homonym()(), theirs=nn.Linear(4, 4)),
    {"Sin": _own("ours"), "Gemm": _own("theirs")},
    "same_class_name",
)

# --- Calls --------------------------------------------------------------------------------------------------------


class Loop(nn.Module):
    """One block called in a Python loop, back to back."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Nest("act", Op(torch.tanh))

    def forward(self, x: Tensor) -> Tensor:
        """Three calls of the same block."""
        for _ in range(3):
            x = self.block(x)
        return x


_toy(
    Loop,
    {
        "Sin": _own("block", ("block", 1), ("block", 2)),
        "Tanh": _own("block.act", ("block.act", 1), ("block.act", 2)),
        "Cos": _own("block", ("block", 1), ("block", 2)),
    },
    "python_loop",
)
_toy(
    lambda: Chain(("act", "act"), act=Sin()),
    {"Sin": _own("act", ("act", 1))},
    "back_to_back",
)


class SilentCalls(nn.Module):
    """Some calls leave no node, so torch's name suffixes skip them but call indices do not."""

    def __init__(self) -> None:
        super().__init__()
        self.maybe = MaybeSin()

    def forward(self, x: Tensor) -> Tensor:
        """Calls 1 and 3 of five do something."""
        for work in (False, True, False, True, False):
            x = self.maybe(x, work)
        return x


class MaybeSin(nn.Module):
    """Sine, or nothing."""

    def forward(self, x: Tensor, work: bool) -> Tensor:
        """Pass through unless there is `work`."""
        return torch.sin(x) if work else x


_toy(SilentCalls, {"Sin": _own(("maybe", 1), ("maybe", 3))}, "silent_calls")


class Borrower(nn.Module):
    """Calls a module that is registered elsewhere."""

    def __init__(self, borrowed: nn.Module) -> None:
        super().__init__()
        self.borrowed = [borrowed]

    def forward(self, x: Tensor) -> Tensor:
        """Call the borrowed module between two operations of its own."""
        return torch.exp(self.borrowed[0](torch.tanh(x)))


def _borrowing() -> nn.Module:
    lender = Nest("inner", Op(torch.abs))
    return Chain(("borrower", "lender.inner"), borrower=Borrower(lender), lender=lender)


_toy(
    _borrowing,
    {"Tanh": _own("borrower"), "Exp": _own("borrower"), "Sin": _own("lender"), "Cos": _own("lender"),
     "Abs": _own("lender.inner", ("lender.inner", 1))},
    "borrowed_module",
)  # fmt: skip
_toy(
    lambda: Chain(("model.decoder",), model=Chain((), decoder=Nest("layer", Op(torch.tanh)))),
    {"Sin": _own("model.decoder"), "Tanh": _own("model.decoder.layer"), "Cos": _own("model.decoder")},
    "bypassed_parent",
)


class ForwardDirectly(nn.Module):
    """Calls ``child.forward``: no hook fires and torch pushes no scope, so the work is the caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Nest("inner", Op(torch.tanh))

    def forward(self, x: Tensor) -> Tensor:
        """The child's own forward, then the child."""
        return self.child(torch.exp(self.child.forward(x)))


_toy(
    ForwardDirectly,
    {"Sin": _own("", "child"), "Tanh": _own("child.inner", ("child.inner", 1)), "Cos": _own("", "child"),
     "Exp": _own("")},
    "forward_directly",
)  # fmt: skip


class Outer(nn.Module):
    """Calls `inner`, which calls this module again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner([self])

    def forward(self, x: Tensor, depth: int) -> Tensor:
        """Recurse `depth` times."""
        x = torch.sin(x)
        return torch.exp(self.inner(x, depth)) if depth else x


class Inner(nn.Module):
    """Calls the module that it is part of."""

    def __init__(self, outer: list[Outer]) -> None:
        super().__init__()
        self.outer = outer

    def forward(self, x: Tensor, depth: int) -> Tensor:
        """One level down."""
        return torch.cos(self.outer[0](torch.tanh(x), depth - 1))


class Recursion(nn.Module):
    """Starts the recursion."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = Outer()

    def forward(self, x: Tensor) -> Tensor:
        """Two levels of recursion."""
        return self.outer(x, 2)


_toy(
    Recursion,
    {
        "Sin": _own("outer", ("outer", 1), ("outer", 2)),
        "Tanh": _own("outer.inner", ("outer.inner", 1)),
        "Cos": _own(("outer.inner", 1), "outer.inner"),
        "Exp": _own(("outer", 1), "outer"),
    },
    "recursion",
)


class Unused(nn.Module):
    """One module is never called, two do nothing, one works."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(4, 4)
        self.identity = nn.Identity()
        self.dropout = nn.Dropout(0.5)
        self.work = Sin()

    def forward(self, x: Tensor) -> Tensor:
        """Only `work` leaves a node."""
        return self.work(self.dropout(self.identity(x)))


_toy(Unused, {"Sin": _own("work"), "Dropout": (), "Gemm": ()}, "unused_modules")
_toy(
    lambda: Chain(("left", "right", "left"), left=Chain(("first", "second"), first=Sin(), second=Cos()),
                  right=Chain(("second", "first"), first=Sin(), second=Cos())),
    {"Sin": _own("left.first", "right.first", ("left.first", 1)),
     "Cos": _own("left.second", "right.second", ("left.second", 1))},
    "same_names_in_two_parents",
)  # fmt: skip


class SameWork(nn.Module):
    """Two modules compute the same thing from the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Sin(), Sin()

    def forward(self, x: Tensor) -> Tensor:
        """The difference of two equal things."""
        return self.left(x) - self.right(x)


# torch's common-subexpression pass keeps one node, the first
_toy(SameWork, {"Sin": _own("left"), "Sub": _own("")}, "same_work")


class KeywordsAndTuples(nn.Module):
    """Modules with keyword arguments, tuple outputs and an output that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.split = Split()
        self.join = Join()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Join two of the three parts."""
        first, second, _ = self.split(x=x)
        return self.join(left=first, right=second), first


class Split(nn.Module):
    """Three outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sine, cosine, and an unused exponential."""
        return torch.sin(x), torch.cos(x), torch.exp(x)


class Join(nn.Module):
    """Two inputs."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """The product."""
        return left * right


_toy(
    KeywordsAndTuples,
    {"Sin": _own("split"), "Cos": _own("split"), "Exp": (), "Mul": _own("join")},
    "keywords_and_tuples",
)

# --- One object, several names ------------------------------------------------------------------------------------


def _shared_activation() -> nn.Module:
    activation = nn.GELU()
    first = Chain(("dense", "act"), dense=nn.Linear(4, 4), act=activation)
    second = Chain(("dense", "act"), dense=nn.Linear(4, 4), act=activation)
    return Chain(("first", "second", "first"), first=first, second=second)


_toy(
    _shared_activation,
    {
        "Gemm": _own("first.dense", "second.dense", ("first.dense", 1)),
        "Erf": _own("first.act", ("second.act", 1), ("first.act", 2)),
    },
    "shared_activation",
)


class T5Like(nn.Module):
    """An embedding registered at the root and below the encoder and the decoder, called under the latter two."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(8, 4)
        self.encoder = Stack(self.shared)
        self.decoder = Stack(self.shared)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Encode one text and decode another."""
        return self.encoder(x) + self.decoder(y)


class Stack(nn.Module):
    """Embeds tokens."""

    def __init__(self, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Embed, then the sine."""
        return torch.sin(self.embed_tokens(x))


_toy(
    T5Like,
    {"Gather": _own("encoder.embed_tokens", ("decoder.embed_tokens", 1)), "Sin": _own("encoder", "decoder"),
     "Add": _own("")},
    "shared_embedding",
    lambda: (torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]])),
    parameters={"shared.weight": "shared"},
)  # fmt: skip


class Alias(nn.Module):
    """One module under two names of the same parent: nothing says which name the caller used, the first one counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Sin()
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        """Call it by both names."""
        return self.second(torch.cos(self.first(x)))


_toy(Alias, {"Sin": _own("first", ("first", 1)), "Cos": _own("")}, "two_names_one_parent")


class BorrowsFromShared(nn.Module):
    """A module shared by two stacks is called by the root, which has no name of its own for it."""

    def __init__(self) -> None:
        super().__init__()
        act = Sin()
        self.left = Chain(("act",), act=act)
        self.right = Chain(("act",), act=act)

    def forward(self, x: Tensor) -> Tensor:
        """The root's caller sees both names below itself, in no child it is in: the first one counts."""
        return self.right.act(self.right(x))


_toy(BorrowsFromShared, {"Sin": _own("right.act", ("left.act", 1))}, "shared_called_by_root")

# --- Parameters ---------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """The output projection uses the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Embed and project back."""
        return self.head(self.embedding(x))


_toy(
    Tied,
    {"Gather": _own("embedding"), "MatMul": _own("head")},
    "tied_weights",
    _tokens,
    parameters={"embedding.weight": "embedding"},
)


def _equal_weights() -> nn.Module:
    net = Chain(("first", "second", "third"), first=nn.LayerNorm(4), second=nn.LayerNorm(4), third=nn.LayerNorm(4))
    nn.init.normal_(net.get_submodule("third").bias)
    return net


_toy(
    _equal_weights,
    {"LayerNormalization": _own("first", "second", "third")},
    "equal_weights",
    data_flow={"Identity": _own("third", "second", "second")},
    parameters={"first.weight": "first", "second.weight": "second", "third.weight": "third", "second.bias": "second"},
)


class ParameterLists(nn.Module):
    """Parameters in a ParameterList and a ParameterDict, used by the root."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList(nn.Parameter(torch.full((4,), float(i + 2))) for i in range(2))
        self.shifts = nn.ParameterDict({"up": nn.Parameter(torch.ones(4))})

    def forward(self, x: Tensor) -> Tensor:
        """Scale twice and shift."""
        return x * self.scales[0] * self.scales[1] + self.shifts["up"]


_toy(
    ParameterLists,
    {"Mul": _own("", ""), "Add": _own("")},
    "parameter_containers",
    parameters={"scales.0": "scales", "scales.1": "scales", "shifts.up": "shifts"},
)


def _old_weight_norm() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return Chain(("conv", "act"), conv=torch.nn.utils.weight_norm(nn.Conv2d(3, 3, 3)), act=Sin())


_toy(
    _old_weight_norm,
    {"Conv": _own("conv"), "Sin": _own("act")},
    "weight_norm_hook",
    _picture,
)
_toy(
    lambda: Chain(("conv", "act"), conv=torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), act=Sin()),
    {"Conv": _own("conv"), "Sin": _own("act")},
    "weight_norm_parametrized",
    _picture,
)


class Exponential(nn.Module):
    """A parametrization: the weight is the exponential of what is stored."""

    def forward(self, x: Tensor) -> Tensor:
        """Exponential."""
        return torch.exp(x)


class ScaledByInput(nn.Module):
    """Uses a parametrized weight twice; constant folding is off in this toy, so its nodes stay."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 4)
        torch.nn.utils.parametrize.register_parametrization(self.dense, "weight", Exponential())

    def forward(self, x: Tensor) -> Tensor:
        """Two calls of the layer."""
        return self.dense(torch.sin(self.dense(x)))


_toy(
    ScaledByInput,
    {
        # the second call computes the same thing, and torch's common-subexpression pass drops it
        "Exp": _own("dense.parametrizations.weight.0"),
        "Gemm": _own("dense", ("dense", 1)),
        "Sin": _own(""),
    },
    "parametrization_called_twice",
    export_kwargs={"do_constant_folding": False},
)


def _batch_norm() -> nn.Module:
    net = nn.Sequential(
        OrderedDict(
            convolution=nn.Conv2d(3, 3, 3, bias=False), normalization=nn.BatchNorm2d(3), activation=nn.ReLU(),
            alone=nn.BatchNorm2d(3),
        )
    )  # fmt: skip
    for norm in (net.normalization, net.alone):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.weight)
    return net


_toy(
    _batch_norm,
    {"Conv": _own("convolution"), "Relu": _own("activation"), "BatchNormalization": _own("alone")},
    "folded_batch_norm",
    _picture,
    parameters={"alone.weight": "alone", "alone.running_mean": "alone"},
)

# --- torch's own containers ---------------------------------------------------------------------------------------


class Attention(nn.Module):
    """nn.MultiheadAttention uses its output projection's weights without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        """Attend and normalize."""
        return self.norm(x + self.attention(x, x, x)[0])


_toy(
    Attention,
    {"Softmax": _own("attention"), "LayerNormalization": _own("norm")},
    "multihead_attention",
    lambda: (torch.linspace(-1.0, 1.0, 24).reshape(2, 3, 4),),
    parameters={"attention.out_proj.bias": "attention.out_proj", "attention.in_proj_bias": "attention"},
    data_flow={"Identity": _own("norm")},
)


class CallableList(nn.ModuleList):
    """A ModuleList with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Call the children, with an operation of its own in between."""
        for child in self:
            x = torch.tanh(child(x))
        return x


_toy(
    lambda: Chain(("blocks", "plain.1"), blocks=CallableList([Sin(), Cos()]), plain=nn.ModuleList([Sin(), Cos()])),
    {"Sin": _own("blocks.0"), "Tanh": _own("blocks", "blocks"), "Cos": _own("blocks.1", "plain.1")},
    "module_list_with_forward",
)
_toy(
    lambda: Chain(("lstm",), lstm=FirstOutput(nn.LSTM(4, 3, batch_first=True))),
    {"LSTM": _own("lstm.rnn")},
    "lstm",
    lambda: (torch.linspace(-1.0, 1.0, 24).reshape(2, 3, 4),),
    data_flow={"Constant": _own("lstm.rnn") * 4, "Unsqueeze": _own("lstm.rnn") * 2},
)


class FirstOutput(nn.Module):
    """The first output of a recurrent layer."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        """Only the sequence."""
        return self.rnn(x)[0]


# --- Control flow -------------------------------------------------------------------------------------------------


@torch.jit.script
def branch(x: Tensor) -> Tensor:
    """An ``If`` with one operator in each body."""
    if bool(x.sum() > 0):  # noqa: SIM108
        y = torch.sigmoid(x)
    else:
        y = torch.floor(x)
    return y


@torch.jit.script
def repeat(x: Tensor, times: Tensor) -> Tensor:
    """A ``Loop`` whose number of turns is an input."""
    for _ in range(int(times)):
        x = torch.tanh(x)
    return x


@torch.jit.script
def branch_in_loop(x: Tensor, times: Tensor) -> Tensor:
    """An ``If`` inside a ``Loop``."""
    for _ in range(int(times)):
        if bool(x.sum() > 0):  # noqa: SIM108
            x = torch.ceil(x)
        else:
            x = torch.neg(x)
    return x


class Scripted(nn.Module):
    """Calls a scripted function between two operations of its own."""

    def __init__(self, function: Callable[..., Tensor], inner: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.inner = inner

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Sine, the scripted function, the inner module."""
        return self.inner(self.function(torch.sin(x), *rest))


class TwoBranches(nn.Module):
    """Two modules with an ``If`` each, the first one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Scripted(branch, Cos())
        self.second = Scripted(branch, Cos())

    def forward(self, x: Tensor) -> Tensor:
        """First, second, first."""
        return self.first(self.second(self.first(x)))


# what torch inlines from a scripted function has no scope at all, the If or Loop itself included
_SCRIPTED = frozenset({"If", "Loop", "Sigmoid", "Floor", "Tanh", "Ceil", "Neg"})

_toy(
    TwoBranches,
    {
        "If": _own("first", "second", ("first", 1)),
        "Sigmoid": _own("first", "second", ("first", 1)),
        "Floor": _own("first", "second", ("first", 1)),
        "Sin": _own("first", "second", ("first", 1)),
        "Cos": _own("first.inner", "second.inner", ("first.inner", 1)),
    },
    "scripted_if",
    unscoped=_SCRIPTED,
)


class WithTimes(nn.Module):
    """Hands the second input to the scripted child."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.scripted = Scripted(function, Cos())

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """One call."""
        return torch.exp(self.scripted(x, times))


def _vector_and_times() -> tuple[Tensor, ...]:
    return (*_vector(), torch.tensor(3))


_toy(
    lambda: WithTimes(repeat),
    {"Loop": _own("scripted"), "Tanh": _own("scripted"), "Sin": _own("scripted"), "Cos": _own("scripted.inner"),
     "Exp": _own("")},
    "scripted_loop",
    _vector_and_times,
    unscoped=_SCRIPTED,
)  # fmt: skip
_toy(
    lambda: WithTimes(branch_in_loop),
    {"Loop": _own("scripted"), "If": _own("scripted"), "Ceil": _own("scripted"), "Neg": _own("scripted"),
     "Cos": _own("scripted.inner")},
    "scripted_if_in_loop",
    _vector_and_times,
    unscoped=_SCRIPTED,
)  # fmt: skip


# --- Nodes without a scope ----------------------------------------------------------------------------------------


class Flatten(nn.Module):
    """Reads its input's shape: Shape, Gather, Constants and Reshape, some of them without a scope."""

    def forward(self, x: Tensor) -> Tensor:
        """Join the last two dimensions."""
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2])


class Positions(nn.Module):
    """Adds a range as long as the input: Range, Cast and Shape made by graph passes."""

    def forward(self, x: Tensor) -> Tensor:
        """Add 0, 1, 2, … along the last dimension."""
        return x + torch.arange(x.shape[-1], dtype=x.dtype)


_toy(
    lambda: Chain(("sin", "flatten", "cos", "positions"), sin=Sin(), flatten=Flatten(), cos=Cos(),
                  positions=Positions()),
    {"Sin": _own("sin"), "Cos": _own("cos"), "Reshape": _own("flatten"), "Range": _own("positions"),
     "Add": _own("positions"), "Mul": _own("flatten")},
    "dynamic_shapes",
    lambda: (torch.linspace(-1.0, 1.0, 24).reshape(2, 3, 4),),
    data_flow={"Constant": _own("flatten", "flatten")},
    export_kwargs={"input_names": ["x"], "dynamic_axes": {"x": {0: "batch", 1: "rows", 2: "columns"}}},
)  # fmt: skip


class Constants(nn.Module):
    """Two modules with a constant each."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = Op(lambda x: x * 2.0)
        self.third = Op(lambda x: x / 3.0)

    def forward(self, x: Tensor) -> Tensor:
        """Both."""
        return self.third(self.twice(x))


_toy(
    Constants,
    {"Mul": _own("twice"), "Div": _own("third"), "Constant": _own("twice", "third")},
    "constants",
)


class Stacked(nn.Module):
    """A list of blocks, one after the other."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Call each block."""
        for block in self.blocks:
            x = block(x)
        return x


def _summing() -> nn.Module:
    return Op(lambda x: x + x.sum(-1, keepdim=True))


# torch keeps one of equal constants: whoever reads it has in common what contains them all, which is no list
_toy(
    lambda: Chain(("first", "stack"), first=Sin(), stack=Stacked(_summing(), _summing())),
    {"Add": _own("stack.blocks.0", "stack.blocks.1")},
    "shared_constant",
    data_flow={"Constant": _own("stack")},
)
_toy(
    lambda: Chain(("stack", "stack"), stack=Stacked(_summing(), Cos(), _summing())),
    {"Cos": _own("stack.blocks.1", ("stack.blocks.1", 1))},
    "constant_of_several_calls",
    data_flow={"Constant": (Owner("stack", None),)},
)
_toy(
    lambda: Chain(("block", "block"), block=_summing()),
    {"Add": _own("block", ("block", 1))},
    "constant_of_every_call",
    data_flow={"Constant": (Owner("block", None),)},
)

# --- Names that nobody should give --------------------------------------------------------------------------------


def _named(name: str) -> nn.Module:
    """A child and a grandchild of one name, registered past the checks of ``add_module``."""
    net = Chain((), **{"plain": Sin()})
    net._modules[name] = Chain(("inner",), inner=Cos())
    net._modules[name]._modules[name] = Op(torch.tanh)
    net.forward = lambda x: net._modules[name]._modules[name](net._modules[name](net.get_submodule("plain")(x)))
    return net


for _label, _name in {
    "dot": "a.b", "slash": "a/b", "percent": "%2E", "colon": "a:b", "scope_separator": "a::b", "empty": "", "space": " ",
    "line_break": "a\nb", "unicode": "層", "combining": "e\u0301", "emoji": "😀", "control": "\x7f",
    "line_separator": "\u2028", "quotes": "'\"", "backslash": "\\", "our_own_mark": "optimum_htp.call.3",
    "long": "x" * 300, "negative": "-1", "optimum_suffix": "a_1",
}.items():  # fmt: skip
    _toy(
        lambda name=_name: _named(name),
        {"Sin": _own("plain"), "Cos": _own(f"{_name}.inner"), "Tanh": _own(f"{_name}.{_name}")},
        f"name_{_label}",
    )


def _odd_classes() -> nn.Module:
    return Chain(
        ("dotted", "scoped", "unicode"),
        dotted=type("A.B/C%", (Sin,), {})(), scoped=type("x::y", (Cos,), {})(), unicode=type("層", (Sin,), {})(),
    )  # fmt: skip


_toy(_odd_classes, {"Sin": _own("dotted", "unicode"), "Cos": _own("scoped")}, "odd_class_names")


def nested(depth: int) -> nn.Module:
    """A sine below as many modules, each of which calls the next."""
    net: nn.Module = Sin()
    for _ in range(depth):
        net = Chain(("x",), x=net)
    return net


_toy(lambda: nested(100), {"Sin": _own(".".join("x" * 100))}, "deep_nesting")

# --- One object in several containers -----------------------------------------------------------------------------


class SharedInContainers(nn.Module):
    """A block and its activation, each in several lists of a dict and below a child."""

    def __init__(self) -> None:
        super().__init__()
        act = Sin()
        block = Chain(("act",), act=act)
        self.lists = nn.ModuleDict({"x": nn.ModuleList([act, block]), "y": nn.ModuleList([block, act])})
        self.child = Chain(("items.1", "items.0"), items=nn.ModuleList([act, block]))

    def forward(self, x: Tensor) -> Tensor:
        """The root reaches both by its first lists, the child by its own, the block its activation by its own name."""
        x = self.lists["y"][0](x)
        return self.child(self.lists["y"][1](x))


_toy(
    SharedInContainers,
    {"Sin": _own("lists.x.1.act", ("lists.x.0", 1), ("child.items.1.act", 2), ("child.items.0", 3))},
    "shared_in_containers",
)


class NearestName(nn.Module):
    """An activation has a name below a child, which comes first, and one in a list of the caller's own."""

    def __init__(self) -> None:
        super().__init__()
        act = Sin()
        self.block = Chain(("act",), act=act)
        self.acts = nn.ModuleList([act])

    def forward(self, x: Tensor) -> Tensor:
        """A list is no module on the way: its name is the nearer one."""
        return self.block(torch.cos(self.acts[0](x)))


_toy(NearestName, {"Sin": _own("acts.0", ("block.act", 1)), "Cos": _own("")}, "nearest_name")


class SharedSubtree(nn.Module):
    """A subtree shared by two parents and the root, and a leaf of it that the root has a name of its own for."""

    def __init__(self) -> None:
        super().__init__()
        core = Chain(("deep.leaf", "deep.leaf"), deep=Chain((), leaf=Sin()))
        self.first = Chain(("core",), core=core)
        self.second = Chain(("core",), core=core)
        self.core = core
        self.leaf = core.get_submodule("deep.leaf")

    def forward(self, x: Tensor) -> Tensor:
        """By each of the names."""
        return self.leaf(self.core(self.second(self.first(x))))


_toy(
    SharedSubtree,
    {
        "Sin": _own("first.core.deep.leaf", ("first.core.deep.leaf", 1), ("second.core.deep.leaf", 2),
                    ("second.core.deep.leaf", 3), ("core.deep.leaf", 4), ("core.deep.leaf", 5), ("leaf", 6)),
    },
    "shared_subtree",
)  # fmt: skip


class SharedList(nn.Module):
    """One ModuleList under two names, and below a child."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList([Sin(), Cos()])
        self.right = self.left
        self.holder = Chain(("items.0", "items.1"), items=self.left)

    def forward(self, x: Tensor) -> Tensor:
        """From the root by the second name, then from the child."""
        return self.holder(self.right[0](x))


_toy(SharedList, {"Sin": _own("left.0", ("holder.items.0", 1)), "Cos": _own("holder.items.1")}, "shared_list")


class AlwaysEqual(Op):
    """A module that equals every other of its class, and has their hash."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AlwaysEqual)

    def __hash__(self) -> int:
        return 7


_toy(
    lambda: Chain(("a", "b", "c.d", "a"), a=AlwaysEqual(torch.sin), b=AlwaysEqual(torch.cos),
                  c=Chain((), d=AlwaysEqual(torch.tanh))),
    {"Sin": _own("a", ("a", 1)), "Cos": _own("b"), "Tanh": _own("c.d")},
    "modules_that_are_equal",
)  # fmt: skip

# --- Calls that come from elsewhere -------------------------------------------------------------------------------


class HooksThatCall(nn.Module):
    """Hooks of one module call others, and work themselves: both is the caller's doing, outside the module."""

    def __init__(self) -> None:
        super().__init__()
        self.hooked = Sin()
        self.before = Nest("inner", Op(torch.tanh))
        self.after = Op(torch.exp)
        self.hooked.register_forward_pre_hook(lambda _, args: (self.before(torch.abs(args[0])),))
        self.hooked.register_forward_hook(lambda _, args, output: torch.floor(self.after(output)))

    def forward(self, x: Tensor) -> Tensor:
        """Two calls."""
        return self.hooked(self.hooked(x))


_toy(
    HooksThatCall,
    {
        "Abs": _own("", ""), "Floor": _own("", ""), "Exp": _own("after", ("after", 1)),
        "Tanh": _own("before.inner", ("before.inner", 1)), "Cos": _own("before", ("before", 1)),
        "Sin": _own("before", "hooked", ("before", 1), ("hooked", 1)),
    },
    "hooks_that_call",
)  # fmt: skip


class ReplacesChild(nn.Module):
    """Puts a new module in a child's place while it runs, and then the child back."""

    def __init__(self) -> None:
        super().__init__()
        self.act = Sin()

    def forward(self, x: Tensor) -> Tensor:
        """The new one is no module of the model: its work is the caller's."""
        known = self.act
        x = known(x)
        self.act = Op(torch.tanh)
        x = self.act(x)
        self.act = known
        return self.act(x)


_toy(ReplacesChild, {"Sin": _own("act", ("act", 1)), "Tanh": _own("")}, "replaced_while_running")


class SwapsChildren(nn.Module):
    """Two children change places while it runs; each keeps the name that it began with."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Sin(), Cos()

    def forward(self, x: Tensor) -> Tensor:
        """Cosine first."""
        self.a, self.b = self.b, self.a
        x = self.b(self.a(x))
        self.a, self.b = self.b, self.a
        return x


_toy(SwapsChildren, {"Sin": _own("a"), "Cos": _own("b")}, "swapped_while_running")


class Lazily(nn.Module):
    """Returns a generator: what it yields is computed while the caller runs, the calls of its children are theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Sin(), Cos()

    def forward(self, x: Tensor) -> Any:
        """Sine, an exponential of its own, cosine."""
        yield self.first(x)
        yield torch.exp(x)
        yield self.last(x)


class Consumes(nn.Module):
    """Adds up what a generator yields."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = Lazily()
        self.act = Op(torch.tanh)

    def forward(self, x: Tensor) -> Tensor:
        """Each part through the activation."""
        for part in self.parts(x):
            x = x + self.act(part)
        return x


_toy(
    Consumes,
    {"Sin": _own("parts.first"), "Cos": _own("parts.last"), "Exp": _own(""), "Add": _own("", "", ""),
     "Tanh": _own("act", ("act", 1), ("act", 2))},
    "generator",
)  # fmt: skip


class Fails(nn.Module):
    """Raises after its child has run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Sin()

    def forward(self, x: Tensor) -> Tensor:
        """Leave the child's output on the exception."""
        raise ArithmeticError(self.inner(x))


class Catches(nn.Module):
    """Goes on with what a failing child left."""

    def __init__(self) -> None:
        super().__init__()
        self.fails, self.good = Fails(), Cos()

    def forward(self, x: Tensor) -> Tensor:
        """The calls of the child and of its child are over when the exception comes out."""
        try:
            return self.fails(x)
        except ArithmeticError as error:
            return torch.exp(self.good(torch.tanh(error.args[0])))


_toy(
    Catches,
    {"Sin": _own("fails.inner"), "Tanh": _own(""), "Cos": _own("good"), "Exp": _own("")},
    "raises_and_is_caught",
)


class CalledTwice(nn.Module):
    """Runs twice whenever it is called, with work in between that no forward does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Sin()

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(torch.tanh(super().__call__(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Sine and an exponential."""
        return torch.exp(self.inner(x))


_toy(
    lambda: Chain(("act",), act=CalledTwice()),
    {"Sin": _own("act.inner", ("act.inner", 1)), "Exp": _own("act", ("act", 1)), "Tanh": _own("")},
    "call_overridden",
)


class OwnForward(nn.Sequential):
    """A Sequential with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Work of its own after each child."""
        for child in self:
            x = torch.tanh(child(x))
        return x


_toy(
    lambda: OwnForward(Sin(), OwnForward(Cos()), nn.ModuleList([CallableList([Sin()])])[0]),
    {"Sin": _own("0", "2.0"), "Cos": _own("1.0"), "Tanh": _own("", "1", "", "2", "")},
    "sequential_with_forward",
)


class Delegates(nn.Module):
    """Attributes that it lacks are its child's, modules included."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Chain(("act",), act=Sin())

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)

    def forward(self, x: Tensor) -> Tensor:
        """The child, then the child's child."""
        return self.act(self.inner(x))


_toy(Delegates, {"Sin": _own("inner.act", ("inner.act", 1))}, "attributes_of_the_child")


class DoubleExponential(torch.autograd.Function):
    """A function with operators of its own choice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The exponential, twice."""
        return torch.exp(torch.exp(x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        """The same in ONNX."""
        return g.op("Exp", g.op("Exp", x))


_toy(
    lambda: Chain(("a", "b", "a"), a=Op(DoubleExponential.apply), b=Cos()),
    {"Exp": _own("a", "a", ("a", 1), ("a", 1)), "Cos": _own("b")},
    "autograd_function",
)


class BorrowsWeights(nn.Module):
    """Uses the weights of modules that it does not call there."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """A product that is the root's, with the weight of one child and the bias of the other."""
        return self.other(torch.sin(nn.functional.linear(x, self.dense.weight, self.other.bias)))


_toy(BorrowsWeights, {"Gemm": _own("", "other"), "Sin": _own("")}, "borrowed_weights")
_toy(
    lambda: Chain(("net",), net=nn.DataParallel(Chain(("dense", "dense"), dense=nn.Linear(4, 4)))),
    {"Gemm": _own("net.module.dense", ("net.module.dense", 1))},
    "data_parallel",
)

# --- Recurrent and attention layers of torch's own ----------------------------------------------------------------


def _sequence() -> tuple[Tensor, ...]:
    return (torch.linspace(-1.0, 1.0, 24).reshape(2, 3, 4),)


_toy(
    lambda: Chain(
        ("a", "b", "a"),
        a=FirstOutput(nn.LSTM(4, 2, 2, bidirectional=True, batch_first=True)),
        b=FirstOutput(nn.GRU(4, 4, batch_first=True)),
    ),
    {"LSTM": _own("a.rnn", "a.rnn", ("a.rnn", 1), ("a.rnn", 1)), "GRU": _own("b.rnn")},
    "recurrent_layers",
    _sequence,
    # the constants and sizes of the initial states; the second call of `a` has copies of the weights of the first
    data_flow={
        "Constant": _own("a.rnn") * 8 + _own("b.rnn") * 2 + _own(("a.rnn", 1)) * 8,
        "Unsqueeze": _own("a.rnn") * 4 + _own("b.rnn") + _own(("a.rnn", 1)) * 4,
        "Identity": _own(("a.rnn", 1)) * 6,
    },
)


class Cells(nn.Module):
    """Recurrent cells in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.linear = nn.GRUCell(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Three steps."""
        state = torch.zeros_like(x[:, 0])
        for step in range(3):
            state = self.gru(self.linear(x[:, step]), state)
        return state


_toy(
    Cells,
    {"Tanh": _own("gru", ("gru", 1), ("gru", 2)), "Sigmoid": _own(*(("gru", call) for call in (0, 0, 1, 1, 2, 2)))},
    "recurrent_cells",
    _sequence,
)
_toy(
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2, enable_nested_tensor=False
    ),
    {
        "Softmax": _own("layers.0.self_attn", "layers.1.self_attn"),
        "LayerNormalization": _own("layers.0.norm1", "layers.0.norm2", "layers.1.norm1", "layers.1.norm2"),
        "Relu": _own("layers.0", "layers.1"),
    },
    "transformer_encoder",
    _sequence,
    # torch copies one layer into all, and keeps one of equal weights: the others are copies, last first
    data_flow={
        "Identity": _own("layers.1.linear2", "layers.1.linear1", "layers.1.self_attn")
        + _own("layers.1.norm2", "layers.1.norm2", "layers.1.norm1", "layers.1.norm1")
        + _own("layers.1.linear2", "layers.1.linear1")
        + _own("layers.1.self_attn.out_proj", "layers.1.self_attn.out_proj", "layers.1.self_attn")
        + _own("layers.0.norm2", "layers.0.norm2", "layers.0.norm1"),
    },
)

# --- Nothing to do ------------------------------------------------------------------------------------------------


class HandsOn(nn.Module):
    """Returns an input as it is, past a module that does nothing to it; the exporter makes it an Identity."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = nn.Identity()
        self.act = Sin()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input, and its sine."""
        return self.identity(x), self.act(x)


_toy(HandsOn, {"Sin": _own("act")}, "hands_on", data_flow={"Identity": _own("")})

# --- Scripted functions wherever they stand -----------------------------------------------------------------------


class ScriptedEverywhere(nn.Module):
    """A scripted function first, last, and alone in modules; nothing after it shows whose it was."""

    def __init__(self) -> None:
        super().__init__()
        self.only = Op(branch)
        self.last = Op(lambda x: branch(torch.cos(branch(x))))

    def forward(self, x: Tensor) -> Tensor:
        """In a Python loop, too."""
        for _ in range(2):
            x = branch(self.last(self.only(branch(x))))
        return x


_toy(
    ScriptedEverywhere,
    {"If": _own("", "only", "last", "last", "", "", ("only", 1), ("last", 1), ("last", 1), ""),
     "Cos": _own("last", ("last", 1))},
    "scripted_first_and_last",
    unscoped=_SCRIPTED,
)  # fmt: skip
