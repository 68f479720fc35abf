"""Copy a package with one number changed: the epsilon of one LayerNorm. Then ask which module is wrong.

`make demo` runs this on all-MiniLM-L6-v2. Every result is a little off, and nothing in the files says why:

    python examples/break_a_module.py PACKAGE OUTPUT [MODULE]
    optimum-cli htp compare OUTPUT --reference PACKAGE
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import onnx

from optimum_htp import load_package

MODULE = "encoder.layer.3.output.LayerNorm"
EPSILON = 0.1


def main(package: Path, output: Path, module: str = MODULE) -> None:
    hierarchy = load_package(package).files["model.onnx"].hierarchy
    positions = {position for graph, position in hierarchy.nodes(module) if graph == ""}

    shutil.copytree(package, output)
    model = onnx.load(output / "model.onnx")
    for position in positions:
        node = model.graph.node[position]
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                print(f"{module}: epsilon was {attribute.f:.0e}, is {EPSILON}")
                attribute.f = EPSILON
                onnx.save(model, output / "model.onnx")
                return
    sys.exit(f"{module}: has no node with an epsilon")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python examples/break_a_module.py PACKAGE OUTPUT [MODULE]")
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
