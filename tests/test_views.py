"""What every verb shows, on terminals of two widths and in a pipe, in a notebook and where it is printed in Python.

The reports are made here, so that they are the same on every machine. What a person sees is held against `tests/golden`
(`--regenerate-golden`), and what has to be true of all of it is asserted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import optimum_htp
from optimum_htp import (
    Advice,
    CallComparison,
    CallRanges,
    Change,
    Check,
    Compared,
    CompareReport,
    Culprit,
    DiffReport,
    Errors,
    Explained,
    ExplainReport,
    ExplorerFile,
    ExplorerReport,
    ExportReport,
    ExposedTensor,
    ExposeReport,
    ExtractReport,
    FileDiff,
    FileProjection,
    FileTree,
    FunctionCall,
    FunctionsReport,
    FusedTime,
    Hierarchy,
    HtpError,
    HtpPackage,
    Microseconds,
    ModuleDiff,
    ModuleFunction,
    ModuleInfo,
    ModuleRow,
    ModuleSide,
    ModuleTime,
    ModuleTree,
    NodeRow,
    NoFunction,
    NotExposed,
    OpTime,
    PackReport,
    ParameterRow,
    ParamsReport,
    PartComparison,
    PhaseProfile,
    PhaseRanges,
    ProfileReport,
    ProjectReport,
    RangesReport,
    SelectedNode,
    Selection,
    StripReport,
    TagCounts,
    TagReport,
    TensorRange,
    TreeReport,
    UnknownNameError,
    UnpackReport,
    ValidationReport,
    Value,
    ViewReport,
    Work,
)
from optimum_htp.cli.views.blocks import Column, Heading, Note, Page, Row, Table
from optimum_htp.cli.views.compare import comparison_page
from optimum_htp.cli.views.fitting import Look, fitted
from optimum_htp.cli.views.folding import fold, fold_tree, ranges
from optimum_htp.cli.views.notebook import _PAGES, page_of
from optimum_htp.cli.views.params import params_page
from optimum_htp.cli.views.profile import profile_page
from optimum_htp.cli.views.profile_delta import delta_page
from optimum_htp.cli.views.profile_rows import folded_rows
from optimum_htp.cli.views.terminal import page_lines, print_page, working
from optimum_htp.cli.views.tree import tree_page
from optimum_htp.reports import Report
from optimum_htp.selections.file_selection import FileSelection
from optimum_htp.verbs.profile import NO_WORK, joined

LAYERS = 4
HOSTILE = "</td><script>alert('x')</script>\x1b[2J\u202e"

# --- Reports ------------------------------------------------------------------------------------------------------

# Path, class and own time in microseconds of each module, for the layers and what is around them.
BLOCK = [
    ("", "EncoderLayer", 0),
    (".attention", "EncoderSelfAttentionWithPositions", 310),
    (".attention.query", "Linear", 900),
    (".attention.relative_position_bias_table", "Embedding", 40),
    (".output", "Linear", 1200),
    (".output.LayerNorm", "LayerNorm", 90),
]
MODULES = [
    ("", "SentenceEncoderModel", 120),
    ("embeddings", "Embedding", 300),
    ("encoder", "Encoder", 0),
    *((f"encoder.layer.{n}{path}", name, time) for n in range(LAYERS) for path, name, time in BLOCK),
    ("pooler", "Linear", 200),
]
CLASSES = {path: name for path, name, _ in MODULES}


def above(path: str) -> Iterator[str]:
    """The modules around one, the root first."""
    parts = path.split(".") if path else []
    return (".".join(parts[:end]) for end in range(len(parts)) if ".".join(parts[:end]) in CLASSES)


def tag_of(path: str) -> str:
    tag, last = "", ""
    for module in (*above(path), path):
        name = module[len(last) :].lstrip(".")
        tag, last = f"{tag}/{CLASSES[module]}{'.' * bool(name)}{name}", module
    return tag


def depth_of(path: str) -> int:
    return sum(1 for _ in above(path))


def runs(time: int) -> Microseconds:
    return Microseconds((time, time + time // 50, time + time // 8))


def a_work(time: int, number: int = 0) -> Work:
    """What a kernel does that takes some time, the later the more is held; one without a time there is none of."""
    if not time:
        return NO_WORK
    facts = {
        "parameter_bytes": time * 400,
        "read_bytes": time * 100,
        "written_bytes": time * 90,
        "flops": time * 41_000,
    }
    memory = {"peak_bytes": 2_000_000 + 65_536 * (number % 9), "allocated_bytes": time * 100, "net_bytes": time - 400}
    return Work(**facts, **memory, uncounted={"Add": 1}, providers={"CPUExecutionProvider": 2})


def a_phase(*, slow: str = "encoder.layer.2.output", factor: float = 1.0, fused: bool = True) -> PhaseProfile:
    """A profile in which one layer is slower than the others."""
    own = {path: round(time * factor * (3 if path == slow else 1)) for path, _, time in MODULES}
    extra = {f"encoder.layer.{n}.attention": 150 for n in range(LAYERS)} if fused else {}
    zero = Microseconds((0, 0, 0))
    works = {path: a_work(time, number) for number, (path, time) in enumerate(own.items())}
    fusings = {path: a_work(time, 8) for path, time in extra.items()}
    modules = []
    for path, name, _ in MODULES:
        below = [each for each in own if path in (*above(each), each)]
        work = joined(kind[each] for kind in (works, fusings) for each in below if each in kind)
        total = sum((runs(own[each]) + runs(extra.get(each, 0)) for each in below), start=zero)
        ops = {"MatMul": OpTime(len(below), total)}
        layer = re.fullmatch(r"encoder\.layer\.\d+", path) is not None
        modules.append(
            ModuleTime(
                path, name, tag_of(path), depth_of(path), 1, layer, len(below), runs(own[path]), total, ops, works[path], work
            )
        )  # fmt: skip
    nodes = tuple(
        FusedTime(
            tag_of(path), (tag_of(f"{path}.query"), tag_of(path)), 1, runs(time), {"Gelu": OpTime(1, runs(time))},
            fusings[path],
        )
        for path, time in extra.items()
    )  # fmt: skip
    lost = runs(80)
    partly = Work(peak_bytes=1_900_000, uncounted={"Cast": 2}, providers={"CPUExecutionProvider": 2})
    whole = modules[0].total_work
    return PhaseProfile(
        file="model.onnx", phase="forward", inputs={"input_ids": (1, 128)}, modules=tuple(modules), fused=nodes, calls=(),
        unattributed=lost, unattributed_ops={"Cast": OpTime(2, lost)}, kernel_time=modules[0].total_time + lost,
        run_time=modules[0].total_time + runs(900), timeline=(), work=joined([whole, partly]), unattributed_work=partly,
        op_work={"MatMul": whole, "Cast": partly}, held_bytes=1_500_000,
        providers={"CPUExecutionProvider": OpTime(70, modules[0].total_time + lost)}, not_known={"parameters": PARTLY},
    )  # fmt: skip


PARTLY = "not known, nor of the modules around: those of 2 kernels that are no nodes of the graph"


def a_profile(package: str = "minilm", **options: Any) -> ProfileReport:
    return ProfileReport(package, "CPUExecutionProvider", None, 3, 3, "1.32.0", (a_phase(**options),))


def on_cuda() -> ProfileReport:
    """A profile of which one module ran on the CPU, after a copy."""
    phase = a_phase()
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    elsewhere = {"providers": {cpu: 1}, "copies": 2, "copied_bytes": 4096}

    def ran(work: Work, path: str) -> Work:
        both = {**elsewhere, "providers": {gpu: 66, cpu: 1}} if path == "" else {"providers": {gpu: 2}}
        return replace(work, **(elsewhere if path == "pooler" else both)) if work != NO_WORK else work

    modules = tuple(
        replace(
            each,
            self_work=replace(each.self_work, providers={gpu: 2})
            if each.path == ""
            else ran(each.self_work, each.path),
            total_work=ran(each.total_work, each.path),
        )
        for each in phase.modules
    )
    times = {gpu: OpTime(60, phase.kernel_time), cpu: OpTime(1, runs(200))}
    work = replace(
        phase.work, providers={"CUDAExecutionProvider": 68, "CPUExecutionProvider": 1}, copies=2, copied_bytes=4096
    )
    changed = replace(phase, modules=modules, fused=(), providers=times, work=work)
    return replace(a_profile(), provider="CUDAExecutionProvider", phases=(changed,))


def a_tree(*, nodes: bool = False) -> TreeReport:
    names = [path for path, _, _ in MODULES]
    rows = []
    for path, name, _ in MODULES:
        below = [each for each in names if path in (*above(each), each)]
        parent = [*above(path)][-1] if path else ""
        own = (
            (NodeRow("", f"{path}_out", f"/{path.replace('.', '/')}/MatMul", "MatMul", "scope", None),)
            if nodes
            else ()
        )
        rows.append(
            ModuleRow(
                depth_of(path), path, path[len(parent) :].lstrip("."), name, tag_of(path), 1,
                (10_000_000 if path.endswith("layer.2.output") else 147_456) * len(below), 1, len(below), len(below) - 1,
                (), None, None, own,
            )
        )  # fmt: skip
    counts = TagCounts(len(names), len(names), 0, 0, {"scope": len(names)})
    return TreeReport("minilm", (FileTree("model.onnx", counts, "sidecar", tuple(rows), ()),), nodes)


def errors(decibel: float) -> Errors:
    size = 10 ** (-decibel / 20)
    return Errors(size * 3, size, size, 1 - size / 100, decibel)


def a_comparison(*, sound: bool = False) -> CompareReport:
    calls = []
    for order, (path, name, _) in enumerate(MODULES):
        wrong = path == "encoder.layer.2.output" and not sound
        own = errors(7.0 if wrong else 39.0 + order % 3 * 0.7)
        own = errors(62.5) if path == "encoder.layer.1.attention" else own
        calls.append(
            CallComparison(
                order=order,
                tag=tag_of(path),
                path=path,
                class_name=name,
                nodes=1,
                own=own,
                errors=errors(30.0),
                over=wrong,
                evidence="name",
            )
        )
    calls.append(replace(calls[0], order=99, operations=True, own=errors(58.0), errors=None))
    wrong_call = next(call for call in calls if call.path == "encoder.layer.2.output")
    culprit = Culprit(row=wrong_call, expected_sqnr_db=15.0, output_error_without=0.004, output_sqnr_db_without=41.0)
    part = PartComparison(
        file="model.onnx", reference="minilm", inputs={"input_ids": (1, 128)}, precision="int8", tolerance=0.5,
        verdict="spread" if sound else "one", culprits=() if sound else (culprit,), calls=tuple(calls),
        outputs={"last_hidden_state": errors(20.0)}, outputs_sqnr_db=20.0,
    )  # fmt: skip
    return CompareReport(package="int8", reference="minilm", provider="CPUExecutionProvider", parts=(part,))


def a_diff() -> DiffReport:
    modules = []
    for path, name, _ in MODULES:
        before = ModuleSide(name, tag_of(path), 1, 10, 3, {"MatMul": 2, "Add": 1})
        odd = path == "encoder.layer.3.attention.query"
        quantized = {"MatMulInteger": 2, "Add": 1, "Cast": 2 + odd, "DynamicQuantizeLinear": 1}
        after = ModuleSide(name, tag_of(path), 1, 10, 6 + odd, quantized) if name == "Linear" else before
        modules.append(ModuleDiff(path, before, after))
    file = FileDiff(
        "model.onnx", "model_quantized.onnx", (84, 112), (Change("ai.onnx", 14, 17),), (),
        (Change("float32", 22_565_376, 30_759),), (Change("MatMul", 56, 38),), tuple(modules), False, (), Compared(56, (2, 30), 4, 0, 36),
    )  # fmt: skip
    return DiffReport("minilm", "int8", (file,), (), ("encoder.onnx",))


def a_parameter(name: str, **facts: Any) -> ParameterRow:
    usual = {
        "graph": "", "kind": "parameter", "parameters": (name,), "changes": ("same",), "duplicates": (), "scale": (),
        "zero_point": None, "file": "model.onnx", "data_type": 1, "shape": (384, 384), "anonymous": False,
    }  # fmt: skip
    return ParameterRow(name=name, **{**usual, **facts})


def the_params() -> ParamsReport:
    layers = [f"encoder.layer.{number}" for number in range(LAYERS)]
    rows = [
        a_parameter("embeddings.word_embeddings.weight", duplicates=("lm_head.weight",)),
        *(a_parameter(f"{layer}.attention.self.query.bias", shape=(384,)) for layer in layers),
        *(
            a_parameter(
                f"{layer}.output.dense.weight_quantized",
                parameters=(f"{layer}.output.dense.weight",),
                changes=("quantized",),
                scale=(f"{layer}.output.dense.weight_scale",),
            )
            for layer in layers
        ),
        *(
            a_parameter(
                f"onnx::MatMul_{740 + 16 * number}",
                parameters=(f"{layer}.attention.self.query.weight",),
                changes=("transposed",),
                anonymous=True,
            )
            for number, layer in enumerate(layers)
        ),
        a_parameter("ones", kind="constant", parameters=(), changes=(), shape=(1,)),
    ]
    return ParamsReport("minilm", "source", {"model.onnx": tuple(rows)}, True)


def an_extraction() -> ExtractReport:
    shape = ("batch_size", "sequence_length", 384)
    norm = "/encoder/layer.{}/output/LayerNorm/LayerNormalization_output_0"
    return ExtractReport(
        package="minilm", file="model.onnx", graph="", modules=("encoder.layer.3",), call=None, output="layer3.onnx",
        files=("layer3.onnx",), nodes=56, constants=23, shared=(), folded=(),
        inputs=(Value(norm.format(2), 1, shape), Value("/Where_1_output_0", 1, ("batch_size", 1, None))),
        outputs=(Value(norm.format(3), 1, shape),), initializers=16, weight_bytes=7_098_546, external_data=False,
        not_loaded=None,
    )  # fmt: skip


def an_exposure() -> ExposeReport:
    shape = ("batch_size", "sequence_length", 384)
    norm = "/encoder/layer.{}/output/LayerNorm/LayerNormalization_output_0"
    module = "/BertModel/BertEncoder.encoder/BertLayer.layer.{}"
    tensors = [
        ExposedTensor(
            file="model.onnx", module=module.format(layer), path=f"encoder.layer.{layer}", call=None,
            output=Value(f"encoder.layer.{layer}", 1, shape), tensors={"": norm.format(layer)},
        )
        for layer in range(2)
    ]  # fmt: skip
    last = replace(tensors[0], path="encoder.layer.5", output=Value("last_hidden_state", 1, shape), added=False)
    left = NotExposed(
        file="model.onnx", module=module.format(4), path="encoder.layer.4", call=None,
        reason="a part of encoder.layer.4 is inside com.microsoft::SkipLayerNormalization, which was fused with others' work",
    )  # fmt: skip
    return ExposeReport(package="minilm", output="states", tensors=(*tensors, last), left_out=(left,))


def some_functions() -> FunctionsReport:
    def call(path: str, number: int | None = None) -> FunctionCall:
        return FunctionCall(module=f"/Net/{path}", path=path, call=number, graph="", node=path)

    def left(path: str, reason: str) -> NoFunction:
        return NoFunction(file="model.onnx", module=f"/Net/{path}", path=path, call=None, graph="", reason=reason)

    layers = ModuleFunction(
        file="model.onnx", domain="transformers.models.bert.modeling_bert", name="BertLayer", nodes=79, inputs=18,
        outputs=1, constants=1, calls=tuple(call(f"encoder.layer.{layer}") for layer in range(11)),
    )  # fmt: skip
    shared = replace(
        layers, domain="torch.nn.modules.linear", name="Linear_2", nodes=2, inputs=3, constants=0,
        calls=(call("head", 0), call("head", 1), *map(call, ("a.x", "a.y", "b.x", "b.y"))),
    )  # fmt: skip
    less = "it has 78 nodes where others have 79: 1 fewer (DynamicQuantizeLinear)"
    left_out = (
        left("encoder.layer.11", less),
        left("a.norm", "it is one node already"),
        left("b.norm", "it is one node already"),
    )
    return FunctionsReport(
        package="bert", output="blocks", nodes_before=1_234, nodes=248, functions=(layers, shared), left_out=left_out
    )


def an_explanation() -> ExplainReport:
    attention = "/encoder/layer.3/attention/self/Reshape_2"
    found = Explained(
        text=attention, name=attention, kind="node", evidence="name", file="model.onnx",
        tag="/BertModel/BertEncoder.encoder/BertLayer.layer.3/BertAttention.attention/BertSdpaSelfAttention.self",
        path="encoder.layer.3.attention.self", class_name="BertSdpaSelfAttention", node=attention, operator="Reshape",
        inputs=(Value("/encoder/layer.3/attention/self/value/Add_output_0", 1, ("batch_size", "sequence_length", 384)),),
        outputs=(Value(f"{attention}_output_0", 1, ("batch_size", "sequence_length", 12, 32)),),
    )  # fmt: skip
    fused = replace(
        found, text="BiasGelu_token_16", name="BiasGelu_token_16", evidence="projection", operator="com.microsoft::BiasGelu",
        origins=("/BertModel/Linear.dense", "/BertModel/GELUActivation.act"), parameters=("dense.bias",), inputs=(), outputs=(),
    )  # fmt: skip
    advice = Advice(
        "a Reshape got another number of elements than its shape has", "run it with the sizes of the export"
    )
    return ExplainReport(package="minilm", names=(found, fused), advice=(advice,))


def the_ranges() -> RangesReport:
    def tensor(name: str, operator: str, largest: float, **facts: Any) -> TensorRange:
        usual = {
            "kind": "result", "type": "float32", "count": 98_304, "minimum": -largest, "maximum": largest / 2, "mean": 0.0125,
            "zeros": 0, "nans": 0, "infinite": 0,
        }  # fmt: skip
        return TensorRange(name=name, operator=operator, **{**usual, **facts})

    def call(path: str, class_name: str, *tensors: TensorRange, **facts: Any) -> CallRanges:
        return CallRanges(
            module=tag_of(path), path=path, class_name=class_name, call=None, known=True, result=tensors[-1], tensors=tensors,
            nodes=len(tensors), **facts,
        )  # fmt: skip

    calls = [
        call("", "Net", tensor("mask", "Where", 3.4e38, maximum=0.0, zeros=50_000, over=48_304, harmless=True)),
        *(call(f"encoder.layer.{n}.attention.query", "Linear", tensor(f"f{n}", "MatMul", 4.0 + n, largest_sum=9.5)) for n in range(LAYERS)),
        call(
            "encoder.layer.1.output", "Linear", tensor("g1", "MatMul", 5.22e6, over=12_288, problem="reaches 5.22e+06"),
            made=("g1",), place=30,
        ),
        call("encoder.layer.1.output.LayerNorm", "LayerNorm", tensor("y", "LayerNormalization", 3.2, lost=800), read=("g1",), place=90),
        call("encoder.layer.0.output", "Linear", tensor("g0", "MatMul", 60000.0, largest_sum=91_234.0)),
    ]  # fmt: skip
    phases = PhaseRanges(
        file="model.onnx", phase="prefill", samples=2, inputs={"input_ids": (1, 128)}, calls=tuple(calls), unseen=3,
        closed={"MultiHeadAttention": 12}, notes=("run on what minilm/model.onnx gives it",),
    )  # fmt: skip
    return RangesReport(
        package="minilm", dtype="fp16", accumulate="float32", headroom=1.0, given=(), phases=(phases,),
        not_run={"decoder.onnx": "it needs more memory than there is"}, selection=Selection("minilm", (), ()),
    )  # fmt: skip


A_PROJECTION = FileProjection(
    nodes=719,
    by_source={"scope": 476, "fused": 96, "inserted": 147},
    unresolved=0,
    below_root=700,
    several_origins=6,
    evidence="the skeleton in its own metadata",
)
COUNTS = TagCounts(1083, 1081, 2, 0, {"scope": 950, "parameter": 12, "dataflow": 112, "inserted": 7, "unresolved": 2})


def a_validation() -> ValidationReport:
    return ValidationReport(
        package="minilm",
        task="feature-extraction",
        files=("model.onnx",),
        checks=(
            Check("config", "ok", "says what kind of model this is"),
            Check("generation", "skipped", "feature-extraction does not generate"),
            Check("preprocessors", "warning", "no tokenizer", "save it there: tokenizer.save_pretrained('minilm')"),
            Check("dimensions", "failed", "vocabulary 30,522 in config.json and 30,000 in the graph of model.onnx, which "
                  "no text can be read with", "export the model again"),
        ),
    )  # fmt: skip


def a_selection() -> Selection:
    nodes = tuple(
        SelectedNode("", n, f"out_{n}", f"/encoder/layer.{n}/output/LayerNorm/LayerNormalization", "LayerNormalization",
                     tag_of(f"encoder.layer.{n}.output.LayerNorm"), None, False)
        for n in range(LAYERS)
    )  # fmt: skip
    model: Any = SimpleNamespace()
    return Selection("minilm", ("LayerNorm",), (FileSelection("model.onnx", (), nodes, 0, 2, frozenset(), {}, model),))


REPORTS: dict[str, Callable[[], Report]] = {
    "tree": a_tree,
    "tree_nodes": partial(a_tree, nodes=True),
    "profile": a_profile,
    "profile_delta": lambda: a_profile().compared_with(a_profile("int8", factor=0.6, fused=False, slow="pooler")),
    "compare": a_comparison,
    "compare_spread": partial(a_comparison, sound=True),
    "diff": a_diff,
    "params": the_params,
    "extract": an_extraction,
    "expose": an_exposure,
    "explain": an_explanation,
    "ranges": the_ranges,
    "functions": some_functions,
    "validate": a_validation,
    "select": a_selection,
    "export": lambda: ExportReport(
        Path("t5"), {"decoder_with_past_model.onnx": COUNTS, "encoder.onnx": COUNTS}, 25.04, 1.2
    ),
    "tag": lambda: TagReport(
        package=Path("t5"),
        files={"a.onnx": COUNTS},
        kept=(),
        restored=(),
        unknown=("a.onnx",),
        notes={"a.onnx": "numbered"},
        written=("config.json",),
        seconds=1.0,
    ),
    "project": lambda: ProjectReport(Path("t5"), {"a.onnx": A_PROJECTION}),
    "strip": lambda: StripReport("t5", {"a.onnx": True, "b.onnx": False, "export_metadata.json": True}),
    "pack": lambda: PackReport(Path("t5.onnx"), 123_456_789, ("config.json",)),
    "view": lambda: ViewReport(
        "t5", "html", "t5.html", 234_567, 34_567, ("a.onnx",), 120, 1_083, ("modules", "summary")
    ),
    "view_explorer": lambda: ExplorerReport(
        "t5",
        Path("me"),
        (ExplorerFile("a.onnx", Path("t5/a.onnx"), 9, 7, {"time": Path("me/a.time.json")}, {"time": 5}),),
        {"b.onnx": "no other"},
    ),
    "unpack": lambda: UnpackReport(Path("t5"), (Path("t5/config.json"), Path("t5/model.onnx"))),
}

PAGES: dict[str, Callable[[], Page]] = {
    **{name: lambda make=make: page_of(make()) for name, make in REPORTS.items()},  # type: ignore[misc]
    "tree_expanded": lambda: tree_page(a_tree(), expand=True),
    "profile_top": lambda: profile_page(a_profile(), top=5),
    "profile_class": lambda: profile_page(a_profile(), by="class"),
    "profile_layer": lambda: profile_page(a_profile(), by="layer"),
    "profile_op": lambda: profile_page(a_profile(), by="op"),
    "compare_all": lambda: comparison_page(a_comparison(), every=True, metric="cosine"),
    "params_expanded": lambda: params_page(the_params(), expand=True),
    "profile_memory": lambda: profile_page(
        a_profile(), sort="memory", top=8, columns=("memory", "bytes", "work", "copied", "provider")
    ),
    "profile_partly": lambda: profile_page(on_cuda(), columns=("total", "provider"), depth=1),
    "profile_delta_work": lambda: delta_page(
        a_profile().compared_with(a_profile("int8", factor=0.6, fused=False)),
        depth=1,
        columns=("total", "peak", "gflop", "provider"),
    ),
    "profile_delta_top": lambda: delta_page(
        a_profile().compared_with(a_profile("int8", factor=0.6, fused=False, slow="pooler")), top=6
    ),
}


# --- What a person sees -------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says that a person watches it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def printed(page: Page, stream: io.StringIO) -> str:
    with redirect_stdout(stream):
        print_page(page)
    return stream.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("name", PAGES)
def test_golden(name: str, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 and 200 columns, and in a pipe."""
    page, shown = list(PAGES[name]()), []
    for width in (80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        shown.append(f"=== {width} columns\n\n{plain(printed(page, Terminal()))}")
    shown.append(f"=== in a pipe\n\n{printed(page, io.StringIO())}")
    golden(f"view_{name}", "\n".join(shown))


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_terminal_and_no_answer_is_cut(name: str) -> None:
    """The first column has every name whole, wrapped or not; a column is shown or said to be left out."""
    page = list(PAGES[name]())
    copied = {block.text for block in page if isinstance(block, Note) and block.exact}
    for width in (20, 27, 41, 60, 79, 80, 101, 120, 200):
        look = Look(width, drawn=True)
        for line in ("".join(text for text, _ in line) for line in page_lines(page, look)):
            # A longer word is alone in its line; what is there to be copied is never broken.
            assert len(line) <= width or " " not in line.strip() or line in copied, line
        for table in (block for block in page if isinstance(block, Table)):
            found, left_out = fitted(table, Look(width))
            lines = list(found)
            first = "".join("".join(line[0][0].split()) for line in lines)
            assert "…" not in first
            for row in table.rows:
                assert "".join(str(row.cells[0]).split()) in first, (width, row)
            shown = " ".join(text for line in lines for text, _ in line).split()
            if width < 60:  # titles may be broken
                continue
            assert all(column.title in left_out or set(column.title.split()) <= set(shown) for column in table.columns)


@pytest.mark.parametrize("name", PAGES)
def test_a_pipe_has_everything_and_is_plain(name: str) -> None:
    """No colours, bars or lines; every cell in full, whatever COLUMNS says."""
    page = list(PAGES[name]())
    text = printed(page, io.StringIO())
    assert not re.search("[\x1b\u2500-\u259f…]", text)
    assert "for want of room" not in text
    for table in (block for block in page if isinstance(block, Table)):
        for cell in (cell for row in table.rows for cell in row.cells if isinstance(cell, str)):
            assert cell in text


@pytest.mark.parametrize(
    ("environment", "colour", "drawn"),
    [({}, True, True), ({"NO_COLOR": "1"}, False, True), ({"TERM": "dumb"}, False, False)],
    ids=["colours", "NO_COLOR", "dumb"],
)
def test_colours(environment: dict[str, str], colour: bool, drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = printed(PAGES["profile"](), Terminal()) + printed(PAGES["validate"](), Terminal())
    assert bool(re.search(r"\x1b\[(1;)?3[0-9]m", text)) == colour
    assert bool(re.search("[\u2500-\u259f]", text)) == drawn
    if "TERM" in environment:
        assert "\x1b" not in text


def test_an_old_encoding() -> None:
    terminal = Terminal()
    terminal.encoding = "latin-1"
    text = plain(printed(PAGES["profile"](), terminal))
    assert text.isascii()
    assert "layer.0-1,3 x3" in text and "+- ms" in text


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("132", 132), ("many", 80)])
def test_columns(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError()))
    lines = plain(printed([Heading("word " * 60)], Terminal())).splitlines()
    assert width - 6 <= max(map(len, lines)) <= width


def test_words_of_two_cells_and_of_none() -> None:
    """East Asian letters take two cells, combining ones none."""
    from rich.cells import cell_len

    row = Row(("モデル.エンコーダ.レイヤー.0.アテンション.e\u0301\u0301\u0301", "1"))
    for width in range(20, 60, 3):
        found, _ = fitted(Table((Column("module"), Column("n", number=True)), (row,)), Look(width, measure=cell_len))
        lines = list(found)
        assert all(sum(cell_len(text) for text, _ in line) <= width for line in lines)
        assert "".join(line[0][0].strip() for line in lines[1:]) == row.cells[0]


def test_a_name_without_end() -> None:
    """Of a hostile file: it takes a moment."""
    rows = (Row(("x" * 2_000_000, "1")), Row(("\u4e00" * 100_000, "1")))
    lines, _ = fitted(Table((Column("module"), Column("n", number=True)), rows), Look(80))
    assert sum(line[0][0].count("x") for line in lines) == 2_000_000


def test_paths_can_be_copied() -> None:
    """Above and below a table no word is broken: what is too long for a line is alone in it."""
    path = "/a/long/path" * 9 + "/model.onnx"
    lines = plain(
        printed([Heading(f"Wrote {path}: encoder.layer.3", (f"from {path}",)), Note(path)], Terminal())
    ).splitlines()
    assert lines == ["Wrote", f"{path}:", "encoder.layer.3", "from", path, path]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_clock_stays_beside_the_longest_path(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = "/".join(["a_long_directory"] * 30) + "/the_model"
    with redirect_stderr(Terminal()) as stream, working("Exporting", path):
        pass
    line = next(
        line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines() if "0:00:0" in line
    )
    assert "Exporting …" in line
    assert line.rstrip().endswith("the_model")
    assert len(line.rstrip()) <= columns


# --- Figures that add up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expand", [False, True])
def test_times_add_up(expand: bool) -> None:
    """Each row is what is its own and what is below it, in every run; all shares together are 1."""
    phase = a_phase()
    rows = folded_rows(phase, by="module", depth=None, top=None, sort=None, expand=expand)
    assert rows[-1].kind == "unattributed"
    for index, row in enumerate(rows):
        below = []
        for other in rows[index + 1 :]:
            if other.depth <= row.depth:
                break
            if other.depth == row.depth + 1:
                below.append(other.total_time)
        own = row.total_time if row.kind != "module" else row.self_time
        assert sum(below, start=own) == row.total_time, row.label
    everything = sum((row.self_time for row in rows[1:]), start=rows[0].self_time)
    assert everything == phase.kernel_time
    assert sum(row.total_time.median for row in rows if not row.depth) == phase.kernel_time.median


@pytest.mark.parametrize("expand", [False, True])
def test_nodes_and_parameters_add_up(expand: bool) -> None:
    """Nodes, own nodes and calls, as they are printed."""
    (table,) = (block for block in tree_page(a_tree(), expand=expand) if isinstance(block, Table))
    titles = [column.title for column in table.columns]

    def figure(row: Row, title: str) -> int:
        return int(str(row.cells[titles.index(title)]).replace(",", ""))

    for index, row in enumerate(table.rows):
        inside = [figure(row, "own")]
        for other in table.rows[index + 1 :]:
            if other.depth <= row.depth:
                break
            inside += [figure(other, "nodes")] * (other.depth == row.depth + 1)
        assert sum(inside) == figure(row, "nodes")
    assert sum(figure(row, "own") for row in table.rows) == len(MODULES)
    assert sum(figure(row, "calls") for row in table.rows) == len(MODULES)


def test_no_nodes_are_lost_by_diff() -> None:
    (table,) = (block for block in page_of(a_diff()) if isinstance(block, Table))
    *rows, total = ([int(str(cell).replace(",", "") or 0) for cell in row.cells[2:5]] for row in table.rows)
    assert [sum(column) for column in zip(*rows, strict=True)] == total


# --- Folding ------------------------------------------------------------------------------------------------------


def names(page: Page) -> list[tuple[str, int]]:
    return [(str(row.cells[0]), row.count) for block in page if isinstance(block, Table) for row in block.rows]


def test_the_layer_that_differs_stays_apart() -> None:
    """With all below it, wherever in it the difference is; what is below folded layers is folded with them."""
    shown = names(tree_page(a_tree()))
    assert shown.count(("layer.0-1,3", 3)) == 1 and shown.count(("layer.2", 1)) == 1
    assert shown.count(("query", 1)) == 2
    assert [name for name, count in shown if count > 1] == ["layer.0-1,3"]
    assert all(count == 1 for _, count in names(tree_page(a_tree(), expand=True)))


def test_what_a_busy_machine_adds_keeps_no_layers_apart() -> None:
    """The fastest run of each counts: one that was disturbed is no difference; one that is always slower is."""
    phase = a_phase(slow="")
    disturbed = replace(
        phase,
        modules=tuple(
            replace(module, self_time=Microseconds((module.self_time[0], *(time + 9_000 for time in module.self_time[1:]))))
            if module.path == "encoder.layer.1.output" else module
            for module in phase.modules
        ),
    )  # fmt: skip
    for each, label in ((phase, "layer.0-3"), (disturbed, "layer.0-3"), (a_phase(), "layer.0-1,3")):
        rows = folded_rows(each, by="module", depth=None, top=None, sort=None)
        assert label in [row.label for row in rows]


def test_compare_folds_what_is_about_as_far_off() -> None:
    """Never who is to blame, and not what is far better or worse."""
    shown = dict(names(comparison_page(a_comparison(), every=True)))
    assert shown["encoder.layer.2.output"] == 1
    assert shown["encoder.layer.1.attention"] == 1
    assert shown["encoder.layer.0,2-3.attention"] == 3
    assert shown["encoder.layer.0-1,3.output"] == 3
    expanded = dict(names(comparison_page(a_comparison(), every=True, expand=True)))
    assert max(expanded.values()) == 1 and len(expanded) == len(MODULES) + 1


def test_folded_initializers_are_those_with_the_parameters_names() -> None:
    """Also with a quantizer's ending, and in its scale; a name of its own is the answer, and stays."""
    rows = {row.cells[0]: row for block in params_page(the_params()) if isinstance(block, Table) for row in block.rows}
    bias = rows["encoder.layer.0-3.attention.self.query.bias"]
    assert bias.count == LAYERS and bias.cells[1] == "(the same)"
    weight = rows["encoder.layer.0-3.output.dense.weight"]
    assert weight.cells[1:3] == (
        "encoder.layer.0-3.output.dense.weight_quantized",
        "quantized (scale encoder.layer.0-3.output.dense.weight_scale)",
    )
    assert rows["encoder.layer.2.attention.self.query.weight"].cells[1] == "onnx::MatMul_772"


def test_folding_several_numbers() -> None:
    """From left to right; of a grid all or what is whole."""
    grid = [f"layer.{layer}.expert.{expert}.fc" for layer in range(3) for expert in range(4)]
    (row,) = fold(grid, name=str, like=lambda _: 0)
    assert (row.name, row.count) == ("layer.0-2.expert.0-3.fc", 12)
    holed = fold(grid[:-1], name=str, like=lambda _: 0)
    assert sum(row.count for row in holed) == 11 and len(holed) == 2
    assert [row.name for row in fold(["a.01", "a.1", "a.2"], name=str, like=lambda _: 0)] == ["a.01", "a.1-2"]
    assert [row.name for row in fold(["0", "1"], name=str, like=lambda _: None)] == ["0", "1"]
    assert ranges([9, 1, 2, 3, 11]) == "1-3,9,11"


def test_folding_deep_and_wide_trees() -> None:
    """A tree of any depth, and many layers, in a moment."""
    deep = [(depth, "child") for depth in range(3_000)]
    assert len(fold_tree(deep, depth=lambda row: row[0], name=lambda row: row[1], like=lambda _: 0)) == 3_000
    wide = [(0, "root"), *((depth, name) for n in range(4_000) for depth, name in ((1, f"layer.{n}"), (2, "fc")))]
    rows = fold_tree(wide, depth=lambda row: row[0], name=lambda row: row[1], like=lambda _: 0)
    long = fold([".".join(["0"] * 50_000), *map(str, range(5_000))], name=str, like=lambda _: 0)
    assert [row.count for row in long] == [1, 5_000]
    apart = fold([f"layer.{n}" for n in range(5_000)], name=str, like=lambda _: 0, near=lambda *_: False)
    assert len(apart) == 5_000
    assert [(row.name, row.count, row.depth) for row in rows] == [
        ("root", 1, 0),
        ("layer.0-3999", 4_000, 1),
        ("fc", 1, 2),
    ]


# --- In Python ----------------------------------------------------------------------------------------------------


def test_every_report_has_a_view() -> None:
    for name in optimum_htp.__all__:
        getattr(optimum_htp, name)
    assert {kind.__name__ for kind in Report.__subclasses__()} == set(_PAGES)
    assert {type(make()).__name__ for make in REPORTS.values()} == set(_PAGES)


@pytest.mark.parametrize("name", REPORTS)
def test_print_is_short_and_says_what_it_leaves_out(name: str) -> None:
    """What the command prints, within 40 lines of 100."""
    report = REPORTS[name]()
    lines = str(report).splitlines()
    assert 0 < len(lines) <= 40
    assert max(map(len, lines)) <= 100
    command = printed(page_of(report), io.StringIO()).splitlines()
    assert lines[0][:40] == command[0][:40]
    assert len(repr(report)) < 700
    assert "\n" not in repr(report)


def test_what_is_too_long_to_print_says_so() -> None:
    report = the_params()
    (rows,) = report.files.values()
    many = replace(report, files={"model.onnx": tuple(replace(rows[-1], name=f"constant_{n}") for n in range(300))})
    *_, last = str(many).splitlines()
    assert re.fullmatch(r"and \d+ lines more: to_dict\(\) has all", last)
    assert "rows more: to_dict() has all" in many._repr_html_()


@pytest.mark.parametrize("name", REPORTS)
def test_html_of_a_notebook(name: str) -> None:
    """Every cell is in it; its elements are closed."""
    report = REPORTS[name]()
    html = report._repr_html_()
    parser = Elements()
    parser.feed(html)
    assert parser.open == []
    assert parser.seen <= {"p", "b", "br", "small", "table", "thead", "tbody", "tr", "th", "td"}
    for table in (block for block in page_of(report) if isinstance(block, Table)):
        assert all(isinstance(cell, float) or cell in parser.text for row in table.rows for cell in row.cells)


class Elements(HTMLParser):
    """What is in a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_are_text_everywhere() -> None:
    """In HTML, on a terminal and in a pipe."""
    tree = a_tree()
    rows = (replace(tree.files[0].rows[0], class_name=HOSTILE), replace(tree.files[0].rows[1], attribute=HOSTILE))
    report = replace(tree, files=(replace(tree.files[0], name=HOSTILE, rows=rows),))
    html = report._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html
    for text in (
        html,
        str(report),
        plain(printed(page_of(report), Terminal())),
        printed(page_of(report), io.StringIO()),
    ):
        assert "\u202e" not in text and "\x1b[2J" not in text


def test_access_by_name() -> None:
    """By dotted path or tag, in the part that has it and in the whole report."""
    path, tag = "encoder.layer.1.output", tag_of("encoder.layer.1.output")
    profile, tree, comparison, difference = a_profile(), a_tree(), a_comparison(), a_diff()
    delta = profile.compared_with(profile)
    assert profile[path] is profile[tag] is profile.phases[0][path]
    assert profile[""].class_name == "SentenceEncoderModel"
    assert tree[path] is tree.files[0][tag]
    assert comparison[path] is comparison.parts[0][path] and not comparison[""].operations
    assert difference[path] is difference.files[0][path]
    assert delta[path] is delta.phases[0][tag]
    assert the_params()["onnx::MatMul_740"].parameters == ("encoder.layer.0.attention.self.query.weight",)
    assert a_validation()["config"].status == "ok"


def test_access_to_calls() -> None:
    comparison = a_comparison()
    call = replace(comparison.parts[0].calls[1], call=1)
    part = replace(comparison.parts[0], calls=(replace(call, call=0), call))
    assert part["embeddings@1"] is call
    with pytest.raises(UnknownNameError, match="'embeddings@0'"):
        part["embeddings"]


@pytest.mark.parametrize(
    ("get", "message"),
    [
        (
            lambda: a_profile()["encoder.layer.9"],
            "there is no module 'encoder.layer.9'; like it are: 'encoder.layer.3'",
        ),
        (lambda: a_tree()["zzz"], "there is no module 'zzz'; there are "),
        (lambda: a_comparison()["encodr"], "like it are: 'encoder'"),
        (lambda: a_diff()["poler"], "like it are: 'pooler'"),
        (
            lambda: the_params()["onnx::MatMul_741"],
            "there is no initializer 'onnx::MatMul_741'; like it are: 'onnx::Mat",
        ),
        (lambda: a_validation()["confg"], "there is no check 'confg'; like it are: 'config'"),
        (lambda: ParamsReport("p", "m", {}, False)["x"], "there is no initializer 'x'; there is none at all"),
        (
            lambda: replace(a_profile(), phases=(a_phase(), a_phase()))["encoder"],
            r"module 'encoder' is in each of phases\[0\], phases\[1\]: ask one of them",
        ),
    ],
)
def test_a_name_that_nothing_has(get: Callable[[], object], message: str) -> None:
    """An error that says what there is, for those who catch either kind."""
    with pytest.raises(KeyError, match=message) as caught:
        get()
    assert isinstance(caught.value, HtpError)


def test_sums_by_layer() -> None:
    phase = a_phase()
    assert [layer.path for layer in phase.by_layer()] == [f"encoder.layer.{n}" for n in range(LAYERS)]
    parts = [*(layer.total_time for layer in phase.by_layer()), phase.outside_layers, phase.unattributed]
    assert sum(parts[1:], start=parts[0]) == phase.kernel_time


def test_representations(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph([], "g", [value], [value]), ir_version=10), tmp_path / "model.onnx")
    package = HtpPackage(tmp_path)
    assert repr(package.files["model.onnx"]) == f"HtpFile('model.onnx', {str(tmp_path / 'model.onnx')!r})"
    with pytest.raises(UnknownNameError, match=r"there is no ONNX file 'modle\.onnx'; like it are: 'model\.onnx'"):
        package.files["modle.onnx"]
    hierarchy = Hierarchy(
        [ModuleTree([ModuleInfo((), "Net", "pkg.Net"), ModuleInfo(("linear",), "Linear", "nn.Linear")])], {}
    )
    assert repr(hierarchy) == "<Hierarchy of /Net: 2 modules, 0 nodes>"
    for get in (hierarchy.nodes, hierarchy.module, hierarchy.tag, hierarchy.children):
        with pytest.raises(UnknownNameError, match="there is no module 'lnear'; like it are: 'linear'"):
            get("lnear")
