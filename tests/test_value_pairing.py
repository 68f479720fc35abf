"""Which input of one graph is which of another: renamed by a prefix, by another exporter, or all of it by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from optimum_htp import Check, compare, validate
from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError
from optimum_htp.onnxfile import NUMBERS, Graph, OnnxModel, Value
from optimum_htp.package.value_pairing import check_renamed, paired_values

if TYPE_CHECKING:
    import onnx

TYPES = {"i": "int64", "f": "float32", "h": "float16", "b": "bool", "?": "undefined"}


def values(text: str) -> list[Value]:
    """`input_ids:i[b,s] pixels:f[1,3,h,w] unknown:?` as inputs."""
    listed = []
    for item in text.split():
        name, _, rest = item.rpartition(":")
        axes = rest[2:-1].split(",") if "[" in rest else None
        shape = None if axes is None else tuple(int(axis) if axis.isdecimal() else axis for axis in axes if axis)
        listed.append(Value(name, NUMBERS[TYPES[rest[0]]], shape))
    return listed


BERT = "input_ids:i[b,s] attention_mask:i[b,s] token_type_ids:i[b,s]"
DECODER = "input_ids:i[b,s] past_key_values.0.key:f[b,4,p,8] past_key_values.0.value:f[b,4,p,8]"

CASES = {
    "equal": (BERT, BERT, "", ""),
    "fewer": ("input_ids:i[b,s]", BERT, "", ""),
    "onnx.compose.add_prefix": ("enc_x:f[2,8]", "x:f[2,8]", "enc_x=x", "its name without 'enc_'"),
    "of the reference": ("x:f[2,8]", "m/x:f[2,8]", "x=m/x", "its name with 'm/'"),
    "behind": ("x.1:f[2] y.1:i[2]", "x:f[2] y:i[2]", "x.1=x y.1=y", "its name without '.1'"),
    "without a sign": ("encx:f[2] ency:i[2]", "x:f[2] y:i[2]", "encx=x ency=y", "its name without 'enc'"),
    "one within another": (
        "enc_input_ids:i[b,s] enc_decoder_input_ids:i[b,s]",
        "decoder_input_ids:i[b,s] input_ids:i[b,s]",
        "enc_input_ids=input_ids enc_decoder_input_ids=decoder_input_ids",
        "its name without 'enc_'",
    ),
    "some of them": (
        "enc_input_ids:i[b,s] enc_attention_mask:i[b,s]",
        BERT,
        "enc_input_ids=input_ids enc_attention_mask=attention_mask",
        "its name without 'enc_'",
    ),
    "torch.export": (
        "past_key_values_0_key:f[1,4,p,8] past_key_values_0_value:f[1,4,p,8] inputIds:i[1,s]",
        DECODER,
        "past_key_values_0_key=past_key_values.0.key past_key_values_0_value=past_key_values.0.value inputIds=input_ids",
        "spelled differently",
    ),
    "another kind": ("pixels:f[1,3,h,w] ids:i[b,s]", "input_ids:i[1,9] images:h[b,3,8,8]", "pixels=images ids=input_ids",
                     "the only ones of their type and shape"),
    "order": ("a:i[b,s] b:i[b,s] c:f[b]", "input_ids:i[n,m] scale:f[n] attention_mask:b[n,m]",
              "a=input_ids b=attention_mask c=scale", "by order, type and shape"),
    "nothing declared": ("a:? b:?", "x:i[b] y:f[b]", "a=x b=y", "by order, type and shape"),
    "sizes": ("a:f[b,8] b:f[b,16]", "x:f[2,16] y:f[2,8]", "a=y b=x", "the only ones of their type and shape"),
}  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "expected", "why"), CASES.values(), ids=CASES.keys())
def test_paired(ours: str, theirs: str, expected: str, why: str) -> None:
    """With what decided it, where names are not equal."""
    pairs = paired_values(values(ours), values(theirs))
    assert " ".join(f"{one}={other}" for one, other in pairs.renamed.items()) == expected
    assert set(pairs.evidence) == set(pairs.renamed)
    assert not why or why in set(pairs.evidence.values())
    assert pairs.problem() is None and not pairs.only_ours
    assert set(pairs.only_theirs) == {value.name for value in values(theirs)} - set(pairs.names.values())
    if len(pairs.names) == len(values(theirs)):  # the same in the other direction
        back = paired_values(values(theirs), values(ours))
        assert {other: one for one, other in back.names.items()} == dict(pairs.names)


@pytest.mark.parametrize(
    ("ours", "theirs", "candidates"),
    [
        # In one language another name is another thing, whatever its shape.
        ("input_ids:i[b,s] position_ids:i[b,s]", "input_ids:i[b,s] token_type_ids:i[b,s]", "token_type_ids"),
        ("input_ids:i[b,s] encoder_attention_mask:i[b,s]", "input_ids:i[b,s] attention_mask:i[b,s]", "attention_mask"),
        # Two of three, and no name that says which.
        ("a:i[b,s] b:i[b,s]", BERT, "input_ids attention_mask token_type_ids"),
        ("x:f[2,8]", "ids:i[2,8]", ""),
        ("x:f[2,8]", "y:f[2,8,1]", ""),
        ("x:f[2,8]", "y:f[2,9]", ""),
    ],
)
def test_open(ours: str, theirs: str, candidates: str) -> None:
    """What nothing decides is not paired, and the way out is said."""
    pairs = paired_values(values(ours), values(theirs))
    open_ones = [name for name in pairs.only_ours if name in pairs.candidates]
    assert bool(open_ones) == bool(candidates)
    assert not pairs.renamed
    for name in open_ones:
        assert pairs.candidates[name] == tuple(candidates.split())
    if open_ones:
        assert f"--map {open_ones[0]}={candidates.split()[0]}" in str(pairs.problem())


def test_modules_tell_what_a_value_is_for() -> None:
    """Order would be wrong here; a module that reads neither is no candidate."""
    ours, theirs = values("a:i[b,s] b:i[b,s]"), values(BERT)
    tags = {name: frozenset([f"/Bert/{module}"]) for name, module in
            {"input_ids": "Words", "attention_mask": "Attention", "token_type_ids": "Types"}.items()}  # fmt: skip
    pairs = paired_values(ours, theirs, uses=({"a": tags["attention_mask"], "b": tags["input_ids"]}, tags))
    assert pairs.names == {"a": "attention_mask", "b": "input_ids"}
    assert set(pairs.evidence.values()) == {"by the modules that use them"}

    both = values("input_ids:i[b,s] position_ids:i[b,s]")
    pairs = paired_values(both, theirs, uses=({"position_ids": ["/Bert/Positions"]}, tags))
    assert pairs.problem() is None and pairs.only_ours == ("position_ids",)


def test_one_that_was_renamed_among_others() -> None:
    """In the same place, for the same modules; else the candidates are named."""
    ours, theirs = values("ids:i[b,s] attention_mask:i[b,s]"), values("input_ids:i[b,s] attention_mask:i[b,s]")
    uses: list[Any] = [{"ids": ["/Bert/Words"]}, {"input_ids": ["/Bert/Words"]}]
    pairs = paired_values(ours, theirs, uses=(uses[0], uses[1]))
    assert pairs.explain() == ["ids is input_ids (in the same place, and used by the same modules)"]
    for left, right, known in (
        (ours[::-1], theirs, uses), (ours[:1], theirs, uses), (ours, theirs, [{}, {}]), (ours, theirs, [uses[0], {}]),
    ):  # fmt: skip
        pairs = paired_values(left, right, uses=(known[0], known[1]))
        assert not pairs.renamed or left == ours[:1]
    assert "'ids' is input_ids there, or new: say which with --map ids=input_ids" in str(pairs.problem())


def test_values_of_one_module_go_in_order() -> None:
    """The keys and values of a cache."""
    ours, theirs = values("a:f[b] b:f[b] c:f[b] d:f[b]"), values("k0:f[b] k1:f[b] v0:f[b] v1:f[b]")
    layers: list[Any] = [["/Net/Layer.0"], ["/Net/Layer.1"]]
    uses = dict(zip("abcd", (layers[0], layers[0], layers[1], layers[1]), strict=True))
    pairs = paired_values(ours, theirs, uses=(uses, {name.name: layers[int(name.name[1])] for name in theirs}))
    assert pairs.names == {"a": "k0", "b": "v0", "c": "k1", "d": "v1"}


def test_what_the_caller_maps() -> None:
    """It goes before all else; what is for no file is refused."""
    ours, theirs = values("a:i[b,s] b:i[b,s]"), values(BERT)
    pairs = paired_values(ours, theirs, renamed={"a": "attention_mask", "elsewhere": "x"})
    assert pairs.names == {"a": "attention_mask"} and pairs.evidence == {"a": "as given"}
    assert pairs.explain() == ["a is attention_mask (as given)"]
    assert pairs.candidates == {"b": ("input_ids", "token_type_ids")}
    swapped = paired_values(theirs, theirs, renamed={"input_ids": "attention_mask", "attention_mask": "input_ids"})
    assert swapped.names["input_ids"] == "attention_mask"
    new = paired_values(ours, theirs, renamed={"a": "input_ids", "b": ""})
    assert new.problem() is None and new.only_ours == ("b",)
    assert new.theirs({"a": 1, "b": 2}) == {"input_ids": 1} and new.ours({"input_ids": 1}) == {"a": 1}

    with pytest.raises(
        HtpError, match=r"--map a=ids: 'ids' is not there; there are input_ids, attention_mask, token_type"
    ):
        paired_values(ours, theirs, renamed={"a": "ids"})
    with pytest.raises(HtpError, match="'input_ids' is mapped already"):
        paired_values(ours, theirs, renamed={"a": "input_ids", "b": "input_ids"})
    model = OnnxModel(graph=Graph(inputs=tuple(ours)))
    with pytest.raises(HtpError, match="--map c=x: no input or output is called 'c'; there are a, b"):
        check_renamed({"c": "x"}, [model])
    check_renamed({"a": "attention_mask", "b": ""}, [model])


# --- Where it counts ---


def renamed(package: Path, output: Path, rename: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Path:
    import onnx

    output.mkdir()
    onnx.save(rename(onnx.load(package / "model.onnx")), output / "model.onnx")
    shutil.copy(package / "config.json", output)
    return output


def with_prefix(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx.compose import add_prefix

    return add_prefix(model, "enc_")


def without_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs as other exporters number them, the inputs in another order."""
    inputs = sorted(model.graph.input, key=lambda value: value.name)
    names = {value.name: f"input{index}" for index, value in enumerate(inputs)}
    names |= {value.name: f"output{index}" for index, value in enumerate(model.graph.output)}
    for value in (*inputs, *model.graph.output):
        value.name = names[value.name]
    for node in model.graph.node:
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, name) for name in listed]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


@pytest.mark.parametrize("rename", [with_prefix, without_names])
def test_renamed_model_is_compared(
    rename: Callable[[onnx.ModelProto], onnx.ModelProto], exported: Callable[..., Path], tmp_path: Path
) -> None:
    """Every input is where it belongs, or the comparison would be off; the outputs are found as well."""
    report = compare(renamed(exported("bert"), tmp_path / "renamed", rename), reference=exported("bert"))
    assert report.ok
    (part,) = report.parts
    assert len(part.outputs) == 1 and all(call.errors is not None for call in part.modules)


def test_renamed_model_and_pytorch(
    exported: Callable[..., Path], zoo_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """A prefix is seen through; where only the order tells, that may be the fault, and the names can be given."""

    def outputs(package: Path, **options: Any) -> Check:
        checks = validate(package, model=zoo_model("bert"), **options).checks
        return next(check for check in checks if check.name == "outputs")

    prefixed = renamed(exported("bert"), tmp_path / "prefixed", with_prefix)
    assert outputs(prefixed).status == "ok"
    report = compare(prefixed, model=zoo_model("bert"))
    assert report.ok and list(report.parts[0].outputs) == ["enc_logits"]
    nameless = renamed(exported("bert"), tmp_path / "nameless", without_names)
    guess = outputs(nameless)
    assert (
        guess.status == "warning"
        and "if by their order input0 for input_ids, input1 for attention_mask" in guess.reason
    )
    given = {"input0": "attention_mask", "input1": "input_ids"}
    assert outputs(nameless, renamed=given).status == "ok"
    assert compare(nameless, model=zoo_model("bert"), renamed=given).ok
    for options in ({"renamed": {"x": "y"}}, {"renamed": given, "model": None}):
        with pytest.raises(HtpError, match="--map"):
            validate(nameless, **{"model": zoo_model("bert"), **options})


def test_profiles_on_the_same_arrays(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The arrays have the names of the first package; what the second calls them is found, or given."""
    import numpy as np

    other = renamed(exported("bert"), tmp_path / "renamed", with_prefix)
    ones = np.ones((1, 5), np.int64)
    np.savez(tmp_path / "a.npz", input_ids=ones, attention_mask=ones, token_type_ids=ones - 1)
    command = ["profile", str(exported("bert")), "--runs", "1", "--warmup", "0", "--json"]
    given = ["--compare", str(other), "--inputs", str(tmp_path / "a.npz")]
    for options in ([], ["--map", "input_ids=enc_input_ids"]):
        assert main([*command, *given, *options]) == 0
        assert len(json.loads(capsys.readouterr().out)["phases"]) == 1
    for options, why in (
        ([*given, "--map", "x=enc_input_ids"], "no input or output is called 'x'"),
        (["--map", "x=y"], "--map tells how --reference calls what is in --inputs"),
    ):
        assert main([*command, *options]) == 2
        assert why in capsys.readouterr().err


def test_a_map_on_the_command_line(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong one shows, and one for no input at all is refused."""
    package = renamed(exported("bert"), tmp_path / "renamed", with_prefix)
    command = ["compare", str(package), "--reference", str(exported("bert")), "--json"]
    crossed = ["enc_token_type_ids=attention_mask", "enc_attention_mask=token_type_ids"]
    assert main([*command, "--map", crossed[0], "--map", crossed[1]]) == 1
    assert main([*command, "--map", "enc_input_ids=input_ids"]) == 0
    capsys.readouterr()
    assert main([*command, "--map", "x=input_ids"]) == 2
    assert "no input or output is called 'x'; there are enc_input_ids" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--map", "x"])
    assert "'x' is not of the form NEW=OLD" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [lambda number: (1,), lambda number: (number,)], ids=["alike", "each of its own"])
def test_more_values_than_any_model_has(shape: Callable[[int], tuple[int]]) -> None:
    """Thousands under other names: by their order if they are alike, else it is open; and at once."""
    count = 5_000
    ours, theirs = ([Value(f"{name}{number}", 1, shape(number)) for number in range(count)] for name in ("a", "b"))
    pairs = paired_values(ours, theirs)
    assert len(pairs.names) == (count if shape(2) == (1,) else 0)
    assert len(pairs.candidates) == count - len(pairs.names)
    assert len(pairs.problem() or "") < 200
