"""The small files beside the ONNX files: read with limits, completed after an export, and our block in config.json.

Optimum saves config, tokenizer and processor files itself. What it leaves behind (custom code, and what it could only
have read by running that code) is copied from the model's own directory. Nothing here is executed and no weight is read.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import PackageError, writing
from optimum_htp.package.json_files import read_config, read_small, write_text_atomically
from optimum_htp.package.limits import MAX_CODE_BYTES, MAX_CODE_FILES, MAX_SMALL_BYTES


if TYPE_CHECKING:
    from optimum_htp.package.sidecar.record import FileRecord


logger = logging.getLogger(__name__)

METADATA_KEY = "htp_metadata"
"""The member of config.json that `--config-metadata` adds."""

CONFIG = "config.json"
MODEL_INDEX = "model_index.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

# What a tokenizer is made of, as the tokenizer classes of transformers name their files (`vocab_files_names`).
VOCABULARY_FILES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "sentencepiece.model", "spm.model", "tokenizer.model", "source.spm", "target.spm", "bpe.codes", "dict.txt",
    "tekken.json", "emoji.json", "spm_char.model", "vocabulary.txt", "entity_vocab.json", "prophetnet.tokenizer",
    "vocab-src.json", "vocab-tgt.json", "normalizer.json", "qwen.tiktoken",
)  # fmt: skip
TOKENIZER_FILES = (TOKENIZER_CONFIG, *VOCABULARY_FILES, "special_tokens_map.json", "added_tokens.json")
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""What an image processor or a feature extractor may be read from."""

# Architectures whose class generates: the ends of their names.
GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel", "EncoderDecoderModel")

# Which task the end of an architecture's name stands for, where the package does not say it; the first that fits.
_TASKS = (
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForImageClassification", "image-classification"),
    ("ForAudioClassification", "audio-classification"),
    ("ForAudioFrameClassification", "audio-frame-classification"),
    ("ForSemanticSegmentation", "semantic-segmentation"),
    ("ForObjectDetection", "object-detection"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForMultipleChoice", "multiple-choice"),
    ("ForMaskedLM", "fill-mask"),
    ("ForCausalLM", "text-generation"),
    ("WithLMHeadModel", "fill-mask"),  # XLM and its kin
    ("LMHeadModel", "text-generation"),
    ("ForCTC", "automatic-speech-recognition"),
)


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path, after all links, is in a package.

    The `blobs` of the Hub's cache are where the files of its snapshots are, so links of a snapshot may go there.

    Args:
        path: The path, which need not exist.
        root: The package's directory.
    """
    resolved, home = os.path.realpath(path), Path(os.path.realpath(root))
    homes = [home]
    for directory in (home, *home.parents):
        if directory.parent.name == "snapshots":
            homes.append(directory.parent.parent / "blobs")
            break
    return any(Path(resolved).is_relative_to(each) for each in homes)


def generates(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a model that generates, as far as `architectures` says.

    >>> generates({"architectures": ["GPT2LMHeadModel"]}), generates({"architectures": ["BertModel"]})
    (True, False)
    """
    return any(name.endswith(GENERATING) for name in architectures(config))


def architectures(config: Mapping[str, Any]) -> list[str]:
    """The class names in `architectures`; empty where there are none, or something else."""
    listed = config.get("architectures")
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def task_of(config: Mapping[str, Any]) -> str | None:
    """The task that `architectures` stands for, None where it may be one or another.

    >>> task_of({"architectures": ["BertForTokenClassification"]})
    'token-classification'
    """
    for name in architectures(config):
        for end, task in _TASKS:
            if name.endswith(end):
                return task
    return None


def code_files(*configs: Mapping[str, Any] | None) -> list[str]:
    """The Python files beside a config that its `auto_map` names; those of other repositories on the Hub are not.

    >>> code_files({"auto_map": {"AutoModel": "modeling_x.Model", "AutoConfig": "org/name--other.Config"}})
    ['modeling_x.py']
    """
    names: dict[str, None] = {}
    for config in configs:
        mapped = (config or {}).get("auto_map")
        references = list(mapped.values()) if isinstance(mapped, dict) else mapped
        listed = references if isinstance(references, list) else []
        flat = [item for each in listed for item in (each if isinstance(each, list) else [each])]
        for reference in flat:
            if isinstance(reference, str) and "--" not in reference:
                module, _, _ = reference.rpartition(".")
                if module and all(part.isidentifier() for part in module.split(".")):
                    names[module.replace(".", "/") + ".py"] = None
    return list(names)


def preprocessors_of(directory: Path) -> dict[str, bool]:
    """Whether a model directory, or a pipeline's, has what prepares its inputs: a `tokenizer`, a `processor`.

    The sidecar of an export says so, for not every model has them, and one that lost them has to be told apart.
    """
    places = {"tokenizer": ("", "tokenizer", "tokenizer_2"), "processor": ("", "feature_extractor")}
    files = {"tokenizer": (TOKENIZER_CONFIG, *VOCABULARY_FILES), "processor": PROCESSOR_FILES}
    return {
        kind: any((directory / place / name).is_file() for place in places[kind] for name in files[kind])
        for kind in files
    }


def complete_package(directory: str | Path, source: str | Path, *, trust_remote_code: bool = False) -> list[str]:
    """Copies what Optimum left behind from a local model directory, and gives all files the modes of new ones.

    That is the Python files that an `auto_map` names and those that they import from beside them (never executed:
    they are parsed only), a tokenizer, processor or chat template that Optimum could not load without running such
    code, and the generation config of a generating model. What is there already stays as it is.

    Args:
        directory: The package.
        source: The model that was exported. One that is no local directory gives nothing.
        trust_remote_code: Whether the export ran the model's code; without, a log line says that it was copied only.

    Returns:
        The files that were added, by their path in the package.

    Raises:
        HtpError: A file can't be written.
    """
    directory, source = Path(directory), Path(source)
    added: list[str] = []
    with writing(directory):
        if source.is_dir() and directory.is_dir():
            added = [name for name in _missing(directory, source) if _copy(source, directory, name)]
            code = [name for name in _code(directory, source) if _copy(source, directory, name)]
            if code and not trust_remote_code:
                logger.info("Copied %s with the model; nothing of it was run.", ", ".join(code))
            added += code
        normalize_modes(directory)
    return added


def normalize_modes(directory: Path) -> None:
    """Gives every file and directory below a directory the modes that a new one has: nobody's secrets, no programs."""
    mask = os.umask(0)
    os.umask(mask)
    for path in directory.rglob("*"):
        if path.is_symlink():
            continue
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        if stat.S_IMODE(path.stat().st_mode) != wanted:
            path.chmod(wanted)


def _missing(directory: Path, source: Path) -> Iterator[str]:
    """The files to copy: of each kind, those of the source if the package has none."""
    if not any((directory / name).exists() for name in (TOKENIZER_CONFIG, *VOCABULARY_FILES)):
        yield from TOKENIZER_FILES
    if not any((directory / name).exists() for name in PROCESSOR_FILES):
        yield from (*PROCESSOR_FILES, "video_preprocessor_config.json")
    if not any((directory / name).exists() for name in CHAT_TEMPLATES):
        tokenizer = _lenient(directory / TOKENIZER_CONFIG)
        if "chat_template" not in tokenizer:
            yield from CHAT_TEMPLATES
    if not (directory / GENERATION_CONFIG).exists() and generates(_lenient(directory / CONFIG)):
        yield GENERATION_CONFIG


def _lenient(path: Path) -> dict[str, Any]:
    try:
        return read_config(path) or {}
    except PackageError:
        return {}


def _copy(source: Path, directory: Path, name: str) -> bool:
    """Copies one file, if it is there, is what it should be and is not in the package; says whether it did."""
    origin, target = source / name, directory / name
    if target.exists() or not origin.is_file():
        return False
    if not is_inside(origin, source):
        logger.warning("%s is a link that leads out of the model's directory: it was not copied.", origin)
        return False
    try:
        if name.endswith(".json") and name not in VOCABULARY_FILES:
            read_config(origin)
        elif origin.stat().st_size > MAX_SMALL_BYTES:
            raise PackageError(f"{origin}: more than {MAX_SMALL_BYTES:,} bytes")
    except PackageError as error:
        logger.warning("%s; it was not copied.", error)
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, target)
    return True


def _code(directory: Path, source: Path) -> list[str]:
    """The Python files that the package's configs name, and all that these import from beside them."""
    configs = [_lenient(directory / name) for name in (CONFIG, TOKENIZER_CONFIG, *PROCESSOR_FILES)]
    configs += [_lenient(source / name) for name in (CONFIG, TOKENIZER_CONFIG, *PROCESSOR_FILES)]
    found: dict[str, None] = {}
    waiting = code_files(*configs)
    while waiting and len(found) < MAX_CODE_FILES:
        name = waiting.pop()
        if name not in found and (source / name).is_file() and is_inside(source / name, source):
            found[name] = None
            waiting += _local_imports(source, name)
    return sorted(found)


def _local_imports(source: Path, name: str) -> Iterator[str]:
    """The files that a Python file imports relatively: `from .layers import Block`. It is parsed, never run."""
    try:
        tree = ast.parse(read_small(source / name, MAX_CODE_BYTES) or b"")
    except (PackageError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        logger.warning("%s: what it imports is not known (%s).", source / name, error)
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            parents = PurePosixPath(name).parents
            if node.level > len(parents):
                continue
            base = parents[node.level - 1]
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            for module in modules:
                path = base / module.replace(".", "/")
                yield from (f"{path}.py", f"{path}/__init__.py")


def add_config_metadata(directory: str | Path, records: Mapping[str, FileRecord]) -> bool:
    """Adds the block `htp_metadata` to a package's config.json, every other byte of which stays as it is.

    The block has, for each ONNX file, the number of modules in its hierarchy and how many there are of each class.
    One that is there is replaced. A diffusion pipeline has no config.json and gets none.

    Args:
        directory: The package.
        records: What the sidecar says of each ONNX file.

    Returns:
        Whether there is a config.json.

    Raises:
        HtpError: It is not a JSON object, or can't be written.
    """
    path = Path(directory, CONFIG)
    if read_config(path) is None:
        return False
    remove_config_metadata(directory)
    text = _text(path)
    head = text.rstrip()[:-1].rstrip()
    comma = "" if head.endswith("{") else ","
    write_text_atomically(path, head + comma + _member(_block(records)) + text[len(head) :])
    return True


def _member(block: Any) -> str:
    """The block as a member of an object, as we write it."""
    return json.dumps({METADATA_KEY: block}, indent=2)[1:-2]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise PackageError(f"{path}: not UTF-8, so {METADATA_KEY!r} has no place in it; save it as UTF-8") from error


def _block(records: Mapping[str, FileRecord]) -> dict[str, Any]:
    files = {}
    for name, record in sorted(records.items()):
        classes = [module.class_name for root in record.roots for module in root.tree]
        types = {each: classes.count(each) for each in sorted(set(classes))}
        files[name] = {"modules": len(classes), "module_types": types}
    return {"export_strategy": "htp", "files": files}


def remove_config_metadata(directory: str | Path) -> bool:
    """Takes the block `htp_metadata` out of a package's config.json again: what is left are the bytes from before.

    Where another tool wrote the file again, and the block in its own way, the file is written as transformers does.

    Returns:
        Whether there was one.

    Raises:
        HtpError: The file is not UTF-8, or can't be written.
    """
    path = Path(directory, CONFIG)
    config = read_config(path)
    if config is None or METADATA_KEY not in config:
        return False
    text, member = _text(path), _member(config.pop(METADATA_KEY))
    left = json.dumps(config, indent=2) + "\n"
    for written in (f",{member}", member):
        candidate = text.replace(written, "", 1)
        with contextlib.suppress(ValueError):
            if json.loads(candidate.removeprefix("\ufeff")) == config:
                left = candidate
                break
    write_text_atomically(path, left)
    return True
