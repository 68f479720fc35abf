"""Float16 on the CPU: what a graph gives if each tensor is rounded, as on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from optimum_htp.models.half_rounding import open_rounded
from optimum_htp.models.runtime import open_session, session_options
from optimum_htp.onnxfile.reading import read_model

LARGE = "float b = {30000.0}, float s = {0.0001}"
OVERFLOWS = "a1 = Mul(x, big) a2 = Mul(a1, big) a3 = Mul(a2, small) {result} = Mul(a3, small)"


def model(text: str, directory: Path) -> Path:
    path = directory / "model.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'), path)
    return path


@pytest.mark.parametrize(
    "body",
    [
        OVERFLOWS.format(result="y"),
        f"""
        y = If(p) <
            then_branch = t () => (float16[2] d) {{ {OVERFLOWS.format(result="d")} }},
            else_branch = e () => (float16[2] f) {{ f = Neg(x) }}>
        """,
        f"""
        n = Constant<value_int = 1>()
        y = Loop(n, p, x) <
            body = l (int64 i, bool q, float16[2] v) => (bool r, float16[2] w) {{
                r = Identity(q) {OVERFLOWS.format(result="k")} w = Add(k, v)
            }}>
        """,
        f"""
        y = If(p) <
            then_branch = t () => (float16[2] o) {{
                o = If(p) <
                    then_branch = u () => (float16[2] d) {{ {OVERFLOWS.format(result="d")} }},
                    else_branch = v () => (float16[2] f) {{ f = Neg(x) }}>
            }},
            else_branch = e () => (float16[2] h) {{ h = Neg(x) }}>
        """,
    ],
    ids=["main graph", "branch", "loop", "branch of a branch"],
)
def test_overflows_wherever_it_is(body: str, tmp_path: Path) -> None:
    """ONNX Runtime alone computes in float32, where nothing overflows."""
    constants = "big = Cast<to = 10>(b) small = Cast<to = 10>(s)"
    path = model(f"g (float16[2] x, bool p) => (float16[2] y) <{LARGE}> {{ {constants} {body} }}", tmp_path)
    feed = {"x": np.array([1, -2], np.float16), "p": np.array(True)}
    plain = open_session(path, session_options(), provider="CPUExecutionProvider", name="model")
    assert np.isfinite(plain.run(None, feed)[0]).all()
    session, rounded = open_rounded(read_model(path), name="model")
    assert rounded
    assert not np.isfinite(session.run(None, feed)[0]).any()


def test_nothing_in_float16(tmp_path: Path) -> None:
    """The file itself is run."""
    path = model("g (float[2] x) => (float[2] y) { y = Neg(x) }", tmp_path)
    session, rounded = open_rounded(read_model(path), name="model")
    assert not rounded
    assert [value.name for value in session.get_inputs()] == ["x"]
