"""Random nets: trees of modules with nasty names, that call each other in every way that Python allows.

What a net does is drawn from a seed: modules registered twice, called twice, called past their parents, borrowed from
elsewhere in the tree, inside `Sequential`s, lists and dicts; weights that are read without their module being called,
and weights that two modules share.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 4
# Names that look like others' repetitions, like list positions, and like the exporter's own separators.
NAMES = (
    "a",
    "b",
    "x",
    "layer",
    "layers",
    "a_1",
    "x_1",
    "x_2",
    "layer_1",
    "a_1_1",
    "0",
    "1",
    "10",
    "0_1",
    "_1",
    "a_01",
)
_OPERATORS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.sin,
    torch.tanh,
    lambda x: x * 2.0,
    lambda x: x.reshape(x.shape[0], -1).reshape(x.shape),
    lambda x: x.transpose(0, 1).transpose(0, 1),
    lambda x: x + torch.arange(x.shape[-1]),
)

Step = Callable[[Tensor], Tensor]


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    """A function whose nodes have no scope."""
    return torch.cos(x) * x


class Block(nn.Module):
    """A module that does what its steps say."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["steps"] = []

    def forward(self, x: Tensor) -> Tensor:
        """Takes each step, some of them beside a residual path."""
        for step, residual in self.__dict__["steps"]:
            x = x + step(x) if residual else step(x)
        return x


class Other(Block):
    """The same under another name."""


class _Builder:
    """Makes a net; modules call only what was made before them, so that nothing calls itself."""

    def __init__(self, seed: int, *, scripted: bool) -> None:
        self.random = random.Random(seed)
        self.made: list[nn.Module] = []
        self.cost: dict[nn.Module, int] = {}
        self.scripted = scripted
        self.borrowed: list[tuple[nn.Module, nn.Module, list[nn.Module]]] = []

    def net(self) -> nn.Module:
        depth = self.random.choice((1, 2, 2, 3))
        net = self.block(depth) if self.random.random() < 0.9 else self.sequential(depth)
        shown = {module: _shown(path) for path, module in net.named_modules()}
        for borrower, lent, target in self.borrowed:
            if borrower in shown and shown.get(lent) in {shown[each] for each in borrower.modules()}:
                target[0] = nn.Identity()  # who has an `x` of its own calls that
        return net

    def module(self, depth: int) -> nn.Module:
        if self.made and self.random.random() < 0.15:
            return self.random.choice(self.made)
        kinds: list[Callable[[], nn.Module]] = [self.leaf]
        if depth:
            kinds += [lambda: self.block(depth - 1), lambda: self.block(depth - 1), lambda: self.sequential(depth - 1)]
        module = self.random.choice(kinds)()
        self.made.append(module)
        return module

    def leaf(self) -> nn.Module:
        module = self.random.choice(
            (nn.ReLU, nn.Identity, lambda: nn.LayerNorm(WIDTH), *[lambda: nn.Linear(WIDTH, WIDTH)] * 3)
        )()
        linears = [each for each in self.made if isinstance(each, nn.Linear)]
        if isinstance(module, nn.Linear) and linears and self.random.random() < 0.15:
            module.weight = self.random.choice(linears).weight
        self.cost[module] = 1
        return module

    def sequential(self, depth: int) -> nn.Module:
        module = nn.Sequential(*(self.module(depth) for _ in range(self.random.randint(1, 3))))
        self.cost[module] = sum(self.cost[each] for each in module)
        return module

    def block(self, depth: int) -> nn.Module:
        block = self.random.choice((Block, Other))()
        children = self.children(block, depth)
        cost = 1
        for _ in range(self.random.randint(1, 4)):
            step, steps_cost = self.step(block, children)
            if cost + steps_cost < 60:
                block.__dict__["steps"].append((step, self.random.random() < 0.5))
                cost += steps_cost
        self.cost[block] = cost
        return block

    def children(self, block: nn.Module, depth: int) -> list[nn.Module]:
        """Registers children, some of them in a list or dict that is never called."""
        children = []
        for name in self.random.sample(NAMES, self.random.randint(1, 4)):
            draw = self.random.random()
            if draw < 0.15:
                held: nn.Module = nn.ModuleList(self.module(depth) for _ in range(self.random.randint(1, 2)))
            elif draw < 0.25:
                names = self.random.sample(NAMES, self.random.randint(1, 2))
                held = nn.ModuleDict({inner: self.module(depth) for inner in names})
            else:
                held = self.module(depth)
            block.add_module(name, held)
            children += (
                [each for each in held.children()] if isinstance(held, nn.ModuleList | nn.ModuleDict) else [held]
            )
        return children

    def step(self, block: nn.Module, children: list[nn.Module]) -> tuple[Step, int]:
        draw = self.random.random()
        if draw < 0.6:
            return self.call(self.random.choice(children))
        if draw < 0.7:  # past the parents
            below = [each for each in block.modules() if each in self.cost and each is not block]
            return self.call(self.random.choice(below))
        if draw < 0.75:  # of somebody else
            return self.borrow(block, self.random.choice(self.made))
        if draw < 0.85:
            linears = [each for each in block.modules() if isinstance(each, nn.Linear)]
            if linears:
                linear = self.random.choice(linears)
                return (lambda x: functional.linear(x, linear.weight, linear.bias)), 1
        if draw < 0.87 and self.scripted:
            return scripted, 1
        return self.random.choice(_OPERATORS), 1

    def borrow(self, block: nn.Module, module: nn.Module) -> tuple[Step, int]:
        target = [module]
        self.borrowed.append((block, module, target))
        return (lambda x: target[0](x)), self.cost[module]

    def call(self, module: nn.Module) -> tuple[Step, int]:
        return (lambda x: module(x)), self.cost[module]


def _shown(path: str) -> str:
    """The last attribute of a path, and the numbers after it."""
    parts = path.split(".")
    start = len(parts) - 1
    while start and parts[start].isdecimal():
        start -= 1
    return ".".join(parts[start:])


def random_net(seed: int, *, scripted: bool = True) -> nn.Module:
    """The net of a seed."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        return _Builder(seed, scripted=scripted).net().eval()
    finally:
        torch.set_rng_state(state)


def export(net: nn.Module, file: Path, *, rank: int = 3) -> None:
    """Exports a net as Optimum exports a model."""
    inputs = torch.linspace(-1.0, 1.0, WIDTH**rank).reshape(*([WIDTH] * rank))
    torch.onnx.export(
        net,
        (inputs,),
        str(file),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch"}},
        do_constant_folding=True,
        opset_version=17,
        dynamo=False,
    )
