"""What the fuzzer tries: each target makes an input of what a generator draws, and says what must hold.

`benchmarks/fuzz.py` (`make fuzz`) runs them a million times, hypothesis and atheris draw for them too, and
`tests/test_fuzz.py` runs a slice. Wherever protobuf reads the same bytes it is the oracle: what we read is what it reads,
what it does not read `check_parsable` refuses, and what we write and take back is what was there. Everywhere else: an
`HtpError` or an answer, never another exception; in the verbs an exit code of 0, 1 or 2, one line of error, and with 2 a
package that has not changed by a byte.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from odd_protobuf import CHANGES, Field, is_ours_to_refuse, messages, put_together, read, taken_apart, theirs

from optimum_htp.cli.main import main
from optimum_htp.errors import HtpError, OnnxFileError
from optimum_htp.hierarchy.patterns import ModulePattern
from optimum_htp.models.inputs import read_arrays
from optimum_htp.onnxfile.model import OnnxModel
from optimum_htp.onnxfile.reading import read_content, read_model
from optimum_htp.onnxfile.renaming import renamable_initializers, rename_initializers, undo_renames
from optimum_htp.onnxfile.rewriting import rewrite_metadata
from optimum_htp.onnxfile.running import data_bytes
from optimum_htp.onnxfile.soundness import check_parsable
from optimum_htp.package.archive import FILE_PREFIX, MANIFEST, read_packed
from optimum_htp.package.json_files import parse_config
from optimum_htp.package.package import HtpPackage
from optimum_htp.package.sidecar.sidecar import SIDECAR, Sidecar
from optimum_htp.package.skeleton import unpack_skeleton

CORPUS = Path(__file__).parent / "fixtures" / "fuzz"
TAG = "pkg.optimum_htp.tag"

Target = Callable[[random.Random, Path], str]
"""Takes what draws and an empty scratch directory in memory; says what became of the input, in a word. Raises what is wrong."""


# --- Bounds -------------------------------------------------------------------------------------------------------


class TooLongError(Exception):
    """A call that takes more than its time."""


SECONDS = 2.0
EXTRA_BYTES = 200_000_000
"""What a call may take: of the processor's time, and of memory above what the process has. No input has 100,000 bytes."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raises TooLongError, or a MemoryError, in a block that takes more. For the main thread."""

    def too_long(*_: object) -> None:
        raise TooLongError(f"more than {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    data = data_bytes() or 1 << 40
    before = signal.signal(signal.SIGVTALRM, too_long)
    resource.setrlimit(resource.RLIMIT_DATA, (data + EXTRA_BYTES, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)


# --- Inputs -------------------------------------------------------------------------------------------------------


@cache
def seeds() -> tuple[bytes, ...]:
    """The ONNX files of the corpus, and a short one that most changes leave readable."""
    short = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17]> g (float[n, 2] x) => (float[n, 2] y) <float[2] w = {1, 2}>'
        " { a = Add(x, w) b = Relu(a) y = Add(b, w) }"
    )
    short.graph.node[1].metadata_props.add(key="author", value="somebody")
    files = (CORPUS / "odd.onnx", CORPUS / "package" / "model.onnx")
    return (*[short.SerializeToString()] * 18, *(path.read_bytes() for path in files))


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changes: other ones, some left out, doubled, put elsewhere, and numbers at the limits."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(made) + 1)
        length = rng.choice((1, 1, 2, 4, 16, 100))
        kind = rng.randrange(6)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del made[at : at + length]
        elif kind == 3:
            made[at:at] = made[at : at + length]
        elif kind == 4:
            start = rng.randrange(len(data) or 1)
            made[at:at] = data[start : start + length]
        else:
            made[at:at] = rng.choice(
                (b"\xff" * 9 + b"\x01", b"\x80" * 4 + b"\x00", bytes(length), rng.randbytes(length))
            )
    return bytes(made)


def copied(message: list[Field]) -> list[Field]:
    return [
        Field(field.tag, field.content if isinstance(field.content, bytes) else copied(field.content))
        for field in message
    ]


@cache
def seed_fields(seed: bytes) -> list[Field]:
    return taken_apart(seed, onnx.ModelProto.DESCRIPTOR)


def odd_model(rng: random.Random) -> bytes:
    """An ONNX file that no serializer writes: by its fields, or by its bytes."""
    seed = rng.choice(seeds())
    if rng.random() < 0.4:
        return changed_bytes(seed, rng)
    whole = copied(seed_fields(seed))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        rng.choice(CHANGES)(rng.choice([each for each in messages(whole) if each]), rng)
    widths = rng.choice(((1,), (1,), (2,), (5,), (1, 1, 1, 2, 3, 4, 5)))
    return put_together(whole, lambda: rng.choice(widths))


JSON_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**31,
        2**63,
        10**40,
        0.5,
        float("inf"),
        float("nan"),
        "",
        "/",
        "..",
        "a.b",
        "\ud800",
    ),
    *("x" * 3000, "\x1b[31m", [], {}, [[]], {"": None}, [0] * 50),
)


def odd_json(text: str, rng: random.Random) -> Any:
    """A document with a few values changed, left out, doubled or put elsewhere."""
    document = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not document:
            break
        holder, key = _place(document, rng)
        kind = rng.randrange(5)
        if kind == 0:
            holder[key] = copy.deepcopy(rng.choice(JSON_VALUES))
        elif kind == 1:
            del holder[key]
        elif kind == 2:
            other, where = _place(document, rng)
            holder[key] = copy.deepcopy(other[where])
        elif kind == 3 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += rng.choice((-1, 1, 100))
        elif isinstance(holder[key], str):
            holder[key] = holder[key][: rng.randrange(len(holder[key]) + 1)]
    return document


def _place(document: Any, rng: random.Random) -> tuple[Any, Any]:
    """Some value in a document: what holds it, and its key there."""
    holder = document
    while True:
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or rng.random() < 0.15:
            return holder, key
        holder = holder[key]


def odd_text(text: str, rng: random.Random) -> bytes:
    """JSON that is odd by its values, or by its bytes."""
    if rng.random() < 0.7:
        return json.dumps(odd_json(text, rng)).encode()
    return changed_bytes(text.encode(), rng)


# --- What holds of an ONNX file -----------------------------------------------------------------------------------

_WHERE = Path("model.onnx")


def _owned(key: str) -> bool:
    return key.startswith("pkg.optimum_htp.")


def _parsed(content: bytes) -> onnx.ModelProto | None:
    try:
        return onnx.ModelProto.FromString(content)
    except DecodeError:
        return None


def _without_tags(value: Any) -> Any:
    """What `read` or `theirs` gives, without our metadata."""
    if isinstance(value, dict):
        return {key: _without_tags(item) for key, item in value.items() if not (isinstance(key, str) and _owned(key))}
    if isinstance(value, (list, tuple)):
        return [_without_tags(item) for item in value]
    return value


def _entries(model: OnnxModel) -> dict[tuple[str, int], dict[str, str]]:
    return {key: {TAG: f"/Net/{key[1]}" + "x" * (key[1] % 3 * 100)} for key, _ in model.nodes()}


def _read(content: bytes) -> OnnxModel | None:
    """What we read of a file; None where we refuse it. Protobuf refuses it too, or we have a reason."""
    try:
        return read_content(content, path=_WHERE)
    except OnnxFileError as error:
        if not is_ours_to_refuse(content, error):
            raise AssertionError(f"protobuf reads what we refuse: {error}") from error
        return None


def reader(rng: random.Random, scratch: Path) -> str:
    """What is read is what protobuf reads, and `check_parsable` knows what it does not read."""
    content = odd_model(rng)
    model, proto = _read(content), _parsed(content)
    if model is not None and proto is not None:
        assert read(model) == theirs(proto)
    if content:
        path = scratch / "model.onnx"
        path.write_bytes(content)
        try:
            check_parsable(path)
            parsable = True
        except OnnxFileError as error:
            parsable = "nested deeper" in str(error)
        assert parsable == (proto is not None), f"protobuf {'does' if proto is not None else 'does not'} read it"
    return "read" if model is not None and proto is not None else "refused"


def rewriter(rng: random.Random, scratch: Path) -> str:
    """Tags that are written and taken away again leave the bytes that were there; protobuf sees the same model in between."""
    content = odd_model(rng)
    model = _read(content)
    if model is None:
        return "refused"
    path = scratch / "model.onnx"
    path.write_bytes(content)
    proto = _parsed(content)
    had_ours = any(map(_owned, model.metadata)) or any(
        map(_owned, (key for _, node in model.nodes() for key in node.metadata))
    )
    rewrite_metadata(path, nodes=_entries(model), owned=_owned, model={"pkg.optimum_htp.tagged.0": "{}"})
    tagged = read_model(path)
    assert [node.metadata[TAG] for _, node in tagged.nodes()] == [entry[TAG] for entry in _entries(model).values()]
    if proto is not None:
        after = _parsed(path.read_bytes())
        assert after is not None, "protobuf does not read what was tagged"
        assert _without_tags(theirs(after)) == _without_tags(theirs(proto))
    rewrite_metadata(path, nodes={}, owned=_owned, model={})
    assert had_ours or path.read_bytes() == content, "strip does not give the bytes back"
    return "same"


def rename(rng: random.Random, scratch: Path) -> str:
    """Initializers that are renamed, before or after the tags are written, and get their names back: the same bytes."""
    content = odd_model(rng)
    model = _read(content)
    names = sorted(renamable_initializers(model)) if model is not None else []
    if model is None or not names:
        return "refused"
    path = scratch / "model.onnx"
    path.write_bytes(content)
    new = {name: f"renamed_{'x' * rng.choice((0, 1, 100, 200))}{number}" for number, name in enumerate(names)}
    tagged = rng.random() < 0.5 and not any(map(_owned, (key for _, node in model.nodes() for key in node.metadata)))
    if tagged:
        rewrite_metadata(path, nodes=_entries(model), owned=_owned, model={})
    try:
        rename_initializers(path, new)
    except HtpError as error:
        assert "in use" in str(error)
        return "refused"
    known = {tensor.name for _, graph in read_model(path).graphs() for tensor in graph.initializers}
    assert known.issuperset(new.values())
    undo_renames(path, {after: before for before, after in new.items()})
    if tagged:
        rewrite_metadata(path, nodes={}, owned=_owned, model={})
    had_ours = any(map(_owned, model.metadata))
    assert (tagged and had_ours) or path.read_bytes() == content, "the names came back in other bytes"
    return "same"


# --- What holds of the rest ---------------------------------------------------------------------------------------


@cache
def documents() -> dict[str, str]:
    """The JSON of the corpus: sidecar, config, manifest, and what a skeleton holds."""
    packed = read_model(CORPUS / "packed.onnx").metadata
    model = read_model(CORPUS / "package" / "model.onnx").metadata
    skeleton = next(value for key, value in model.items() if ".skeleton." in key)
    return {
        "sidecar": (CORPUS / "package" / SIDECAR).read_text(encoding="utf-8"),
        "config": (CORPUS / "package" / "config.json").read_text(encoding="utf-8"),
        "manifest": packed[MANIFEST],
        "skeleton": _inflated(skeleton).decode(),
    }


def _inflated(skeleton: str) -> bytes:
    import base64
    import zlib

    return zlib.decompress(base64.b85decode(skeleton))


def _deflated(content: bytes) -> str:
    import base64
    import zlib

    return base64.b85encode(zlib.compress(content, 1)).decode()


def sidecar(rng: random.Random, _: Path) -> str:
    """`export_metadata.json`."""
    try:
        Sidecar.parse(odd_text(documents()["sidecar"], rng), where=SIDECAR)
    except HtpError:
        return "refused"
    return "read"


def skeleton(rng: random.Random, _: Path) -> str:
    """The skeleton in a model's metadata."""
    text = _deflated(odd_text(documents()["skeleton"], rng))
    if rng.random() < 0.1:
        text = changed_bytes(text.encode(), rng).decode("latin-1")
    try:
        graph = unpack_skeleton(text)
    except HtpError:
        return "refused"
    assert graph.tags.keys() <= {key for key, _ in graph.model.nodes()}
    return "read"


def packed_names(rng: random.Random, scratch: Path) -> str:
    """What a packed file says of the files in it: names stay in the package, sizes within bounds."""
    names = [
        "a.txt",
        "b/c.json",
        "..",
        "../x",
        "/etc/x",
        "a\\b",
        "C:x",
        "con",
        "A.TXT",
        "é.txt",
        "e\u0301.txt",
        ".git/x",
        "a" * 300,
    ]
    entries = {
        FILE_PREFIX + rng.choice(names) + rng.choice(("", "", "/d", "\0", " ")): "YQ=="
        for _ in range(rng.randrange(4))
    }
    manifest = odd_text(documents()["manifest"], rng).decode("latin-1")
    try:
        packed = read_packed(OnnxModel(path=_WHERE, metadata={**entries, MANIFEST: manifest}))
    except HtpError:
        return "refused"
    assert packed is not None
    for name in (packed.onnx_name, *packed.encoded, *packed.external_sizes):
        assert (scratch / name).resolve().is_relative_to(scratch.resolve())
    for name in packed.encoded:
        with contextlib.suppress(HtpError):
            packed.read(name)
    return "read"


def config(rng: random.Random, _: Path) -> str:
    """config.json, as far as every verb reads it."""
    try:
        assert isinstance(parse_config(odd_text(documents()["config"], rng), where="config.json"), dict)
    except HtpError:
        return "refused"
    return "read"


def npz(rng: random.Random, scratch: Path) -> str:
    """The arrays of an .npz file."""
    path = scratch / "inputs.npz"
    path.write_bytes(changed_bytes((CORPUS / "inputs.npz").read_bytes(), rng))
    try:
        read_arrays(path)
    except HtpError:
        return "refused"
    return "read"


@cache
def _hierarchy() -> Any:
    (file,) = HtpPackage(CORPUS / "package").files.values()
    return file.tagged.trees


_PATTERN_PARTS = (
    "layers",
    ".",
    "0",
    "*",
    "?",
    "[",
    "]",
    "re:",
    "class:",
    "@1",
    "@0-3",
    "-",
    "!",
    "/Net",
    "Linear",
    "(",
    "{9}",
    "|",
    "\\",
    "\x00",
)


def pattern(rng: random.Random, _: Path) -> str:
    """A pattern that selects modules."""
    text = "".join(rng.choice(_PATTERN_PARTS) for _ in range(rng.randrange(7)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parsed = ModulePattern.parse(text)
            for tree in _hierarchy():
                tree.select(parsed)
    except HtpError:
        return "refused"
    return "read"


_VERBS = (
    *(["tree", "@"], ["validate", "@"], ["validate", "@", "--json"], ["select", "@", "*"], ["diff", "@", "="]),
    *(
        ["strip", "@"],
        ["project", "@"],
        ["pack", "@", "@.onnx", "--overwrite"],
        ["extract", "@", "layers.0", "@.out", "--overwrite"],
    ),
    *(["unpack", "packed.onnx", "@.out", "--overwrite"], ["select", "@", "layers.*", "--write-layer-annotations"]),
)


def _state(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".optimum-htp" not in path.parts
    }


def verbs(rng: random.Random, scratch: Path) -> str:
    """A command on a package with a damaged file."""
    package = scratch / "package"
    shutil.copytree(CORPUS / "package", package)
    shutil.copy(CORPUS / "packed.onnx", scratch / "packed.onnx")
    name = rng.choice(("model.onnx", "model.onnx", "model.onnx", SIDECAR, "config.json", "w.bin"))
    victim = package / name
    if name == "model.onnx" and rng.random() < 0.7:
        whole = copied(seed_fields(seeds()[-1]))
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice(CHANGES)(rng.choice([each for each in messages(whole) if each]), rng)
        victim.write_bytes(put_together(whole, lambda: 1))
    elif name.endswith(".json"):
        victim.write_bytes(odd_text(victim.read_text(encoding="utf-8"), rng))
    else:
        victim.write_bytes(changed_bytes(victim.read_bytes(), rng))
    if rng.random() < 0.3:
        (package / SIDECAR).unlink()
    words = list(rng.choice(_VERBS))
    if words[0] == "unpack":
        (scratch / "packed.onnx").write_bytes(changed_bytes((scratch / "packed.onnx").read_bytes(), rng))
    arguments = [word.replace("@", str(package)).replace("=", str(CORPUS / "package")) for word in words]
    if words[0] == "unpack":
        arguments[1] = str(scratch / "packed.onnx")
    before = _state(package)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as error:
            code = int(error.code or 0)
    said = err.getvalue()
    assert code in (0, 1, 2), f"{words[0]}: exit code {code}\n{said}"
    assert code != 2 or said.count("error: ") == 1, f"{words[0]}: {said}"
    assert "Traceback" not in said, said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out.getvalue() + said), f"{words[0]}: control characters"
    if code == 2 or words[0] in ("tree", "validate", "diff", "pack", "extract", "unpack"):
        assert _state(package) == before, f"{words[0]} changed the package"
    return f"exit {code}"


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (reader, rewriter, rename, sidecar, skeleton, packed_names, config, npz, pattern, verbs)
}
ONE_LINE = {name: (target.__doc__ or "").splitlines()[0] for name, target in TARGETS.items()}


def in_memory() -> str | None:
    """Where files cost nothing."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(name: str, rng: random.Random, scratch: Path) -> str:
    """One case of a target, within its bounds."""
    for left in scratch.iterdir() if name != "reader" else ():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    with bounded():
        return TARGETS[name](rng, scratch)


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory in memory."""
    with tempfile.TemporaryDirectory(dir=in_memory(), prefix="optimum-htp-fuzz-") as directory:
        yield Path(directory)
