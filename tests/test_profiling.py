"""Profiles: times that add up, kernels joined to modules, phases, inputs, and what is shown."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optimum_htp
from optimum_htp.cli.main import main
from optimum_htp.cli.views.profile import profile_page
from optimum_htp.cli.views.profile_delta import delta_page
from optimum_htp.cli.views.profile_rows import ORDERS, VIEWS, profile_rows
from optimum_htp.cli.views.profile_traces import chrome_document, speedscope_document
from optimum_htp.cli.views.terminal import print_page
from optimum_htp.errors import HtpError, PackageError
from optimum_htp.models.inputs import InputSizes, load_inputs, make_inputs, phases
from optimum_htp.onnxfile.reading import read_model
from optimum_htp.verbs.profile import runs as running
from optimum_htp.verbs.profile.report import ProfileReport
from optimum_htp.verbs.profile.times import Microseconds, PhaseProfile
from optimum_htp.verbs.profile.verb import profile
from optimum_htp.verbs.profile.work import joined

pytestmark = pytest.mark.xdist_group("profiling")

MODELS = ("bert", "albert", "gpt2", "llama", "vit", "resnet", "t5", "bart")


@pytest.fixture(scope="module")
def profiled(exported: Callable[..., Path]) -> Callable[[str], ProfileReport]:
    made: dict[str, ProfileReport] = {}

    def of(name: str) -> ProfileReport:
        if name not in made:
            made[name] = profile(exported(name), threads=1, runs=3, warmup=1)
        return made[name]

    return of


# --- Times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_times_add_up_to_the_kernel_time(name: str, profiled: Callable[[str], ProfileReport]) -> None:
    """In every run: modules alone, nodes fused across modules, and what is not attributed."""
    for phase in profiled(name).phases:
        for run, whole in enumerate(phase.kernel_time):
            own = sum(module.self_time[run] for module in phase.modules)
            fused = sum(each.time[run] for each in phase.fused)
            assert own + fused + phase.unattributed[run] == whole
            roots = sum(module.total_time[run] for module in phase.modules if not module.depth)
            assert roots + phase.unattributed[run] == whole
            assert sum(group.total_time[run] for group in phase.by_op()) == whole


@pytest.mark.parametrize("name", MODELS)
def test_work_adds_up(name: str, profiled: Callable[[str], ProfileReport]) -> None:
    """Modules alone, nodes fused across modules, and what is not attributed; by layer, operator and node too."""
    for phase in profiled(name).phases:
        fused = [each.work for each in phase.fused]
        ways = {
            "alone": [*(module.self_work for module in phase.modules), *fused, phase.unattributed_work],
            "roots": [*(module.total_work for module in phase.modules if not module.depth), phase.unattributed_work],
            "layers": [
                *(layer.total_work for layer in phase.by_layer()), phase.outside_layers_work, phase.unattributed_work
            ],
            "operators": [group.total_work for group in phase.by_op()],
            "nodes": [node.work for node in phase.nodes],
        }  # fmt: skip
        for way, works in ways.items():
            assert joined(works).to_dict() == phase.work.to_dict(), (phase.file, phase.phase, way)
        assert phase.work.peak_bytes is not None and phase.held_bytes is not None and not phase.not_known
        assert phase.work.flops and phase.work.providers == {"CPUExecutionProvider": sum(
            module.kernels for module in phase.modules if not module.depth
        )}  # fmt: skip


@pytest.mark.parametrize("name", ["bert", "vit", "resnet"])
def test_operations_are_those_that_torch_counts(
    name: str, profiled: Callable[[str], ProfileReport], zoo_model: Callable[[str], Path]
) -> None:
    """All models of the zoo are in `benchmarks/flops.py`."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.AutoConfig.from_pretrained(zoo_model(name), attn_implementation="eager")
    model = getattr(transformers, config.architectures[0])(config).eval()
    (phase,) = profiled(name).phases
    inputs = {each: torch.ones(shape, dtype=torch.float32 if len(shape) == 4 else torch.int64)
              for each, shape in phase.inputs.items()}  # fmt: skip
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    assert phase.work.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_kernel_time_is_that_of_the_profiler(exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Summed from ONNX Runtime's own file, without control flow, whose time contains its bodies'."""
    traces = []
    original = json.loads

    def loads(content: Any, **kwargs: Any) -> Any:
        value = original(content, **kwargs)
        if isinstance(value, list):
            traces.append(value)
        return value

    monkeypatch.setattr(running.json, "loads", loads)
    report = profile(exported("t5"), file="decoder_model_merged.onnx", threads=1, runs=2, warmup=0)
    (trace,) = [trace for trace in traces if trace and isinstance(trace[0], dict) and "cat" in trace[0]]
    times = [
        entry["dur"] for entry in trace
        if entry["cat"] == "Node" and entry["name"].endswith("_kernel_time") and entry["args"]["op_name"] != "If"
    ]  # fmt: skip
    assert sum(map(sum, (phase.kernel_time for phase in report.phases))) == sum(times)
    _check_totals(report, [entry for entry in trace if entry["cat"] == "Node" or entry["name"] == "model_run"])


def _check_totals(report: ProfileReport, trace: list[dict[str, Any]]) -> None:
    """Sizes and memory are those of ONNX Runtime's own totals over the first of each two runs."""
    runs: list[list[dict[str, Any]]] = [[]]
    for entry in trace:
        if entry["cat"] == "Node" and entry["args"].get("op_name") != "If" and "output_size" in entry["args"]:
            runs[-1].append({key: int(value) for key, value in entry["args"].items() if str(value).isdigit()})
        elif entry["name"] == "model_run":
            runs.append([])
    for phase, first in zip(report.phases, runs[0:-1:2], strict=True):
        work = phase.work
        assert work.read_bytes == sum(each["activation_size"] for each in first)
        assert work.written_bytes == sum(each["output_size"] for each in first)
        assert work.allocated_bytes == sum(each["mem_in_use_delta"] for each in first)
        assert phase.held_bytes == first[0]["mem_bytes_in_use"] - first[0]["mem_in_use_delta"]
        assert work.net_bytes == first[-1]["mem_bytes_in_use"] - phase.held_bytes
        highest = max(each["mem_bytes_in_use"] for each in first)
        rose = first[-1]["mem_in_use_peak"] > first[0]["mem_in_use_peak"]
        assert work.peak_bytes == (first[-1]["mem_in_use_peak"] if rose else highest)


@pytest.mark.parametrize("name", MODELS)
def test_kernel_time_is_attributed(name: str, profiled: Callable[[str], ProfileReport]) -> None:
    for phase in profiled(name).phases:
        assert phase.attributed >= 0.99, (phase.file, phase.unattributed_ops)
        assert all(kernel.tag is not None for kernel in phase.timeline), phase.file


def test_kernels_belong_to_the_modules_that_their_names_say(profiled: Callable[[str], ProfileReport]) -> None:
    """Kernels that kept the exporter's name kept its scope: another witness than projection."""
    (phase,) = profiled("bert").phases
    checked = 0
    for kernel in phase.timeline:
        scope = kernel.node.split("/")[1:-1]
        if kernel.node.startswith("/bert") and len(kernel.origins) < 2:
            path = kernel.tag and optimum_htp.hierarchy.tag_module_path(kernel.tag)
            assert path == ".".join(scope), kernel
            checked += 1
    assert checked > 60


def test_calls_of_a_module_that_runs_again(profiled: Callable[[str], ProfileReport]) -> None:
    """ALBERT's one layer: the calls have as many kernels each, and share out the module's time."""
    (phase,) = profiled("albert").phases
    layer = next(module for module in phase.modules if module.class_name == "AlbertLayer")
    calls = [call for call in phase.calls if call.tag == layer.tag]
    assert [call.call for call in calls] == list(range(layer.calls or 0))
    assert len({call.kernels for call in calls}) == 1
    for run, whole in enumerate(layer.total_time):
        assert sum(call.total_time[run] for call in calls) == whole


def test_fused_nodes_are_shown_once(profiled: Callable[[str], ProfileReport]) -> None:
    """With their modules; their time is in no module's own."""
    (phase,) = profiled("bert").phases
    gelu = [fused for fused in phase.fused if "BiasGelu" in fused.ops]
    assert len(gelu) == 2
    assert [sorted(origin.rpartition(".")[2] for origin in fused.origins) for fused in gelu] == [
        ["dense", "intermediate_act_fn"]
    ] * 2
    rows = [row for row in profile_rows(phase) if row.kind == "fused" and "BiasGelu" in row.ops]
    assert [row.label for row in rows] == ["dense + intermediate_act_fn"] * 2


def test_class_totals_count_nested_modules_once(profiled: Callable[[str], ProfileReport]) -> None:
    for phase in profiled("bert").phases:
        classes = {group.name: group for group in phase.by_class()}
        assert classes["BertForSequenceClassification"].total_time == phase.kernel_time
        assert classes["BertLayer"].members == 2
        assert all(all(a <= b for a, b in zip(group.total_time, phase.kernel_time, strict=True))
                   for group in classes.values())  # fmt: skip


# --- Phases and inputs --------------------------------------------------------------------------------------------


def test_phases_of_models_that_generate(profiled: Callable[[str], ProfileReport]) -> None:
    """Of a decoder in several forms the merged one; a decode step takes one token."""
    seen = {name: [(phase.file, phase.phase) for phase in profiled(name).phases] for name in ("gpt2", "t5", "bert")}
    assert seen == {
        "gpt2": [("model.onnx", "prefill"), ("model.onnx", "decode")],
        "t5": [("decoder_model_merged.onnx", "prefill"), ("decoder_model_merged.onnx", "decode"),
               ("encoder_model.onnx", "forward")],
        "bert": [("model.onnx", "forward")],
    }  # fmt: skip
    prefill, decode = profiled("gpt2").phases
    assert prefill.inputs["input_ids"] == (1, 61)
    assert decode.inputs["input_ids"] == (1, 1)
    assert (prefill.inputs["past_key_values.0.key"][2], decode.inputs["past_key_values.0.key"][2]) == (0, 61)


def test_branches_of_a_merged_decoder_are_told_apart(profiled: Callable[[str], ProfileReport]) -> None:
    """Only the branch without past key values projects the encoder's output, in T5's cross attention."""
    prefill, decode = profiled("t5").phases[:2]
    name = "decoder.block.0.layer.1.EncDecAttention.k"
    assert name in {module.path for module in prefill.modules}
    assert name not in {module.path for module in decode.modules}


def test_sizes_are_those_asked_for(exported: Callable[..., Path]) -> None:
    report = profile(exported("bert"), batch_size=2, sequence_length=7, threads=1, runs=1, warmup=0)
    assert report.phases[0].inputs["input_ids"] == (2, 7)


def test_inputs_from_a_file(exported: Callable[..., Path], tmp_path: Path) -> None:
    """What they are tells the phase."""
    model = read_model(exported("gpt2") / "model.onnx")
    made = make_inputs(model, None, sizes=InputSizes(sequence_length=5), phase="decode")
    np.savez(tmp_path / "inputs.npz", **made)
    report = profile(exported("gpt2"), inputs=tmp_path / "inputs.npz", threads=1, runs=1, warmup=0)
    assert [(phase.phase, phase.inputs["past_key_values.0.key"][2]) for phase in report.phases] == [("decode", 5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.pop("attention_mask"), "lacks attention_mask"),
        (lambda made: made.update(other=made["input_ids"]), "has other in addition"),
        (lambda made: made.update(input_ids=made["input_ids"].astype(np.int32)), "is int32.*takes int64"),
        (lambda made: made.update(input_ids=made["input_ids"][0]), r"is \[61\].*\[batch_size, sequence_length\]"),
        (lambda made: made.update(input_ids=made["input_ids"][:, 1:]), r"'attention_mask' is \[1, 61\]"),
    ],
)
def test_wrong_inputs_are_told(
    change: Callable[[dict[str, Any]], Any], message: str, exported: Callable[..., Path], tmp_path: Path
) -> None:
    config = json.loads((exported("bert") / "config.json").read_text())
    model = read_model(exported("bert") / "model.onnx")
    made = make_inputs(model, config)
    change(made)
    np.savez(tmp_path / "inputs.npz", **made)
    with pytest.raises(HtpError, match=message):
        load_inputs(tmp_path / "inputs.npz", model)


def test_a_file_alone_is_run_on_what_it_takes(exported: Callable[..., Path], tmp_path: Path) -> None:
    """Without a config, how long a text may be is told by the table of positions."""
    shutil.copy(exported("bert") / "model.onnx", tmp_path / "alone.onnx")
    report = profile(tmp_path / "alone.onnx", threads=1, runs=1, warmup=0)
    assert report.phases[0].inputs["input_ids"] == (1, 61)
    assert report.phases[0].attributed == 1.0


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


def archive_of(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("input_ids", content)
        archive.writestr("input_ids.npy", content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"hello",
        pickle.dumps(Trap()),
        archive_of(b"no array"),
        archive_of(b"\x93NUMPY\x01\x00\x10\x00{'descr':((((((("),
        archive_of(b"\x93NUMPY\x01\x00\x46\x00{'descr':'<i8','fortran_order':False,'shape':(1,10**12)}".ljust(80)),
        archive_of(b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr':'|O','fortran_order':False,'shape':(1,)}".ljust(117) + b"\n"
                   + pickle.dumps([Trap()])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [1.0, 0.6])
def test_inputs_that_are_no_arrays(content: bytes, cut: float, exported: Callable[..., Path], tmp_path: Path) -> None:
    """Damaged, something else, or objects, which are never unpickled: one line says what is the matter."""
    (tmp_path / "inputs.npz").write_bytes(content[: int(cut * len(content))])
    with pytest.raises(HtpError, match=r"inputs.npz: not a file of named numpy arrays"):
        load_inputs(tmp_path / "inputs.npz", read_model(exported("bert") / "model.onnx"))


def test_byte_order_of_inputs_is_no_matter(exported: Callable[..., Path], tmp_path: Path) -> None:
    model = read_model(exported("bert") / "model.onnx")
    made = make_inputs(model, None, sizes=InputSizes(sequence_length=5))
    np.savez(tmp_path / "inputs.npz", **{name: array.astype(">i8") for name, array in made.items()})
    loaded = load_inputs(tmp_path / "inputs.npz", model)
    assert all(np.array_equal(loaded[name], array) and loaded[name].dtype == np.int64 for name, array in made.items())


def test_phases_of_decoders(exported: Callable[..., Path]) -> None:
    found = {path.stem: phases(read_model(path)) for path in exported("t5").glob("*.onnx")}
    assert found == {
        "encoder_model": ("forward",),
        "decoder_model": ("prefill",),
        "decoder_with_past_model": ("decode",),
        "decoder_model_merged": ("prefill", "decode"),
    }


# --- Two packages -------------------------------------------------------------------------------------------------


def test_packages_side_by_side(
    exported: Callable[..., Path], profiled: Callable[[str], ProfileReport], tmp_path: Path
) -> None:
    """A quantized package, tagged by itself or by the package that it was made from."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(exported("bert") / "model.onnx"), str(tmp_path / "model_quantized.onnx"))
    right = profile(tmp_path, threads=1, runs=3, warmup=1, reference=exported("bert"))
    delta = profiled("bert").compared_with(right)
    (phase,) = delta.phases
    assert delta.unpaired == ()
    layers = [module for module in phase.modules if module.class_name == "BertLayer"]
    assert [module.path for module in layers] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    assert all(module.left and module.right and module.ratio for module in layers)
    assert any("DynamicQuantizeMatMul" in module.right.ops for module in layers if module.right)
    tags = [module.tag for module in phase.modules]
    assert len(set(tags)) == len(tags)
    assert all(tags.index(tag.rpartition("/")[0]) < place for place, tag in enumerate(tags) if tag.count("/") > 1)


def test_packages_with_nothing_in_common(profiled: Callable[[str], ProfileReport]) -> None:
    with pytest.raises(HtpError, match="no file and phase in common"):
        profiled("bert").compared_with(profiled("gpt2"))


def printed_delta(delta: Any, **options: Any) -> list[str]:
    with redirect_stdout(io.StringIO()) as stream:
        print_page(delta_page(delta, **options, expand=True))
    return stream.getvalue().splitlines()


def test_side_by_side_in_every_view(profiled: Callable[[str], ProfileReport]) -> None:
    """A profile beside itself: both times are those that the profile alone shows, in its order."""
    (phase,) = profiled("albert").phases
    delta = profiled("albert").compared_with(profiled("albert"))
    for by in VIEWS:
        for sort in ("total", "self", "kernels"):
            every = profile_rows(phase, by=by, sort=sort)
            if by == "module":  # side by side, what was fused across modules has no line there, however long it takes
                every = tuple(row for row in every if row.kind != "fused")
            rows = every[:4]
            lines = printed_delta(delta, by=by, sort=sort, top=4)[4:]
            assert len(lines) == 1 + len(rows), lines
            measures = [row.kernels if sort == "kernels" else
                        (row.total_time if sort == "total" else row.self_time).median for row in every[:5]]  # fmt: skip
            if len(set(measures)) == len(measures):
                assert [line.split()[0] for line in lines[1:]] == [row.label.split()[0] for row in rows]
            assert all({"1.00", "0.000"} & set(line.split()) for line in lines[1:]), lines
    (document,) = delta.to_dict()["phases"]
    assert [module["left_self"] for module in document["modules"]] == [
        module["self_time"] for module in profiled("albert").to_dict()["phases"][0]["modules"]
    ]


class Terminal(io.StringIO):
    """What a person watches."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "narrow"), [(80, True), (200, False)])
def test_narrow_terminals_do_without_some_columns(
    columns: int, narrow: bool, profiled: Callable[[str], ProfileReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and times stay whole; what is left out is said."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with redirect_stdout(Terminal()) as stream:
        print_page(profile_page(profiled("bert"), depth=3))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert all(len(line) <= columns for line in lines)
    table = next(at for at, line in enumerate(lines) if line.startswith("module"))
    header = lines[table].split()
    assert {"total", "share", "self"} <= set(header)
    assert any("token_type_embeddings" in line.split() for line in lines[table:])
    left_out = [title for title in ("class", "calls", "operators") if title not in header]
    assert left_out == (["class", "calls", "operators"] if narrow else [])
    assert any(line.startswith("not shown, for want of room: ") for line in lines) == narrow


def test_packages_of_different_models(profiled: Callable[[str], ProfileReport]) -> None:
    """Each is one file that runs forward, and that is all that they share."""
    with pytest.raises(HtpError, match=r"no module in common.*BertForSequence.* and AlbertForSequence"):
        profiled("bert").compared_with(profiled("albert"))


# --- What is shown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", VIEWS)
@pytest.mark.parametrize("sort", [None, *ORDERS])
def test_every_view_in_every_order(by: str, sort: str | None, profiled: Callable[[str], ProfileReport]) -> None:
    for name in ("albert", "resnet"):
        with redirect_stdout(io.StringIO()) as stream:
            print_page(profile_page(profiled(name), by=by, sort=sort))
        assert "ms in kernels" in stream.getvalue()
        (phase,) = profiled(name).phases
        rows = profile_rows(phase, by=by, sort=sort)
        if sort in ("total", "self"):
            times = [(row.total_time if sort == "total" else row.self_time).median for row in rows]
            assert times == sorted(times, reverse=True)
        assert profile_rows(phase, by=by, sort=sort, top=2) == (
            rows[:2] if sort else profile_rows(phase, by=by, top=2)
        )


def test_layers_and_the_rest_are_everything(profiled: Callable[[str], ProfileReport]) -> None:
    for name in ("bert", "resnet", "gpt2"):
        for phase in profiled(name).phases:
            rows = profile_rows(phase, by="layer")
            assert len(rows) > 2
            assert Microseconds(map(sum, zip(*(row.total_time for row in rows), strict=True))) == phase.kernel_time


def test_depth_cuts_the_tree(profiled: Callable[[str], ProfileReport]) -> None:
    (phase,) = profiled("bert").phases
    assert {row.depth for row in profile_rows(phase, depth=2)} == {0, 1, 2}


def test_speedscope_document(profiled: Callable[[str], ProfileReport]) -> None:
    """Each weight has a stack of known frames; they are the run's kernel time, and the memory that kernels take."""
    report = profiled("gpt2")
    document = speedscope_document(report)
    frames = document["shared"]["frames"]
    assert [made["unit"] for made in document["profiles"]] == ["microseconds", "bytes"] * len(report.phases)
    for made, phase in zip(document["profiles"], (each for each in report.phases for _ in range(2)), strict=True):
        assert len(made["samples"]) == len(made["weights"])
        sums = phase.kernel_time if made["unit"] == "microseconds" else (phase.work.allocated_bytes,)
        assert sum(made["weights"]) == made["endValue"] in sums
        assert all(0 <= frame < len(frames) for stack in made["samples"] for frame in stack)
    assert len({frame["name"] for frame in frames}) == len(frames)


def test_chrome_document(profiled: Callable[[str], ProfileReport]) -> None:
    """Spans of one thread never overlap, and each kernel is there."""
    report = profiled("t5")
    events = chrome_document(report)["traceEvents"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    assert len(kernels) == sum(len(phase.timeline) for phase in report.phases)
    held = [event["args"]["bytes"] for event in events if event["ph"] == "C"]
    assert len(held) == len(kernels) and max(held) == max(phase.work.peak_bytes or 0 for phase in report.phases)
    threads: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in events:
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in threads.values():
        ordered = sorted(spans)
        assert all(left[1] <= right[0] + 1 for left, right in pairwise(ordered))


def test_document_is_json(profiled: Callable[[str], ProfileReport]) -> None:
    document = json.loads(json.dumps(profiled("albert").to_dict()))
    (phase,) = document["phases"]
    assert phase["modules"][0]["total_time"]["runs_us"] == phase["kernel_time"]["runs_us"]
    assert len(phase["calls"]) > 2


# --- Bad input ----------------------------------------------------------------------------------------------------


def test_provider_that_is_not_installed(exported: Callable[..., Path]) -> None:
    with pytest.raises(HtpError, match=r"'rocm' is not installed.*CPUExecutionProvider"):
        profile(exported("bert"), provider="rocm")


def test_graph_that_is_not_tagged(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(exported("bert"), plain)
    optimum_htp.strip(plain)
    assert main(["profile", str(plain)]) == 2
    assert f"optimum-cli htp tag {plain}" in capsys.readouterr().err


def test_sizes_that_the_model_does_not_take(exported: Callable[..., Path]) -> None:
    with pytest.raises(HtpError, match=r"input_ids \[1, 500\]"):
        profile(exported("bert"), sequence_length=500, threads=1)


def test_file_that_is_not_there(exported: Callable[..., Path]) -> None:
    with pytest.raises(PackageError, match=r"no file of it is called 'x'; it has model.onnx"):
        profile(exported("bert"), file="x")


def test_command_line(exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option at once, as text and as JSON."""
    arguments = ["profile", str(exported("bert")), "--threads", "1", "--runs", "2", "--warmup", "0"]
    traces = ["--speedscope", str(tmp_path / "s.json"), "--chrome-trace", str(tmp_path / "c.json")]
    assert main([*arguments, *traces, "--depth", "1", "--sequence-length", "4", "--batch-size", "2"]) == 0
    assert "input_ids [2, 4]" in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["profiles"]
    assert json.loads((tmp_path / "c.json").read_text())["traceEvents"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phases"][0]["attributed"] >= 0.99
    assert main([*arguments, "--compare", str(exported("bert")), "--depth", "2"]) == 0
    assert "times as long" in capsys.readouterr().out


def test_phase_without_kernels_has_no_share() -> None:
    nothing = Microseconds(())
    phase = PhaseProfile("f", "forward", {}, (), (), (), nothing, {}, nothing, nothing, ())
    assert (phase.attributed, phase.share(nothing)) == (1.0, 0.0)
