"""A CI check that an upgrade did not change the graph: what is exported now against the package of an earlier export.

Keep the package of an export that you trust (the golden one), export again after the upgrade, and compare:

    optimum-cli htp diff golden/ exported/ --weights --exit-code

The exit code is 1 if anything differs: nodes, connections, attributes, constants, opsets, inputs and outputs, weights.
Names don't count. This script does the same from Python, with a tiny model that it makes, exports, exports again as after an
upgrade that changes nothing, and then with another epsilon, as after one that does.

    python examples/upgrade_check.py [DIRECTORY]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from optimum_htp import diff, export_module


class Encoder(nn.Module):
    """Two layers, each a Linear and a LayerNorm."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, eps=epsilon)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        for layer in self.layers:
            x = layer(x)
        return x


def export(output: Path, *, epsilon: float) -> Path:
    torch.manual_seed(0)
    export_module(Encoder(epsilon), torch.zeros(1, 8), output)
    return output


def check(package: Path, golden: Path) -> bool:
    """Prints what changed, and whether that is nothing."""
    report = diff(package, golden, weights=True)
    for file in report.files:
        for module in file.changed_modules:
            for change in module.contents:
                print(f"  {module.path}: {change.operator} {change.name}: {change.before} -> {change.after}")
    print(f"{package.name}: {'CHANGED' if report.changed else 'the same'}")
    return not report.changed


def main(directory: Path) -> None:
    golden = export(directory / "golden", epsilon=1e-12)
    same = export(directory / "after_a_harmless_upgrade", epsilon=1e-12)
    other = export(directory / "after_another_upgrade", epsilon=1e-5)
    results = [check(package, golden) for package in (same, other)]
    if results != [True, False]:
        sys.exit("not what this example is about")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
