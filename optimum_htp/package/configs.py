"""Config, tokenizer and processor files: what they say, what Optimum left out, and our block in config.json.

Optimum saves these files itself. What it leaves out (custom code, and what it could only have read by running that code)
is copied from the model's own directory. Nothing here is executed and no weight is read.
"""

from __future__ import annotations

import ast
import json
import logging
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import PackageError, writing
from optimum_htp.package.json_files import parse_config, read_config, read_small, umask, write_text_atomically
from optimum_htp.package.limits import MAX_CODE_BYTES, MAX_CODE_FILES, MAX_CONFIG_BYTES, MAX_SMALL_BYTES
from optimum_htp.package.links import is_inside

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
VOCABULARY_FILES = tuple(
    "tokenizer.json vocab.json vocab.txt merges.txt spiece.model sentencepiece.bpe.model sentencepiece.model spm.model "
    "tokenizer.model source.spm target.spm bpe.codes dict.txt tekken.json emoji.json spm_char.model vocabulary.txt "
    "entity_vocab.json prophetnet.tokenizer vocab-src.json vocab-tgt.json normalizer.json qwen.tiktoken".split()
)
TOKENIZER_FILES = (TOKENIZER_CONFIG, *VOCABULARY_FILES, "special_tokens_map.json", "added_tokens.json")
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""What an image processor or a feature extractor may be read from."""

# Architectures whose class generates: the ends of their names.
GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel", "EncoderDecoderModel")

# The task that the end of an architecture's name stands for; the first that fits.
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


def generates(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a model that generates, as far as `architectures` says.

    >>> generates({"architectures": ["GPT2LMHeadModel"]}), generates({"architectures": ["BertModel"]})
    (True, False)
    """
    return any(name.endswith(GENERATING) for name in architectures(config))


def architectures(config: Mapping[str, Any]) -> list[str]:
    """The class names in `architectures`; empty if there are none, or something else."""
    listed = config.get("architectures")
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def task_of(config: Mapping[str, Any]) -> str | None:
    """The task that `architectures` stands for; None if it is ambiguous.

    >>> task_of({"architectures": ["BertForTokenClassification"]})
    'token-classification'
    """
    tasks = (task for name in architectures(config) for end, task in _TASKS if name.endswith(end))
    return next(tasks, None)


def code_files(*configs: Mapping[str, Any] | None) -> list[str]:
    """The Python files next to a config that its `auto_map` names; those of other repositories on the Hub are left out.

    >>> code_files({"auto_map": {"AutoModel": "modeling_x.Model", "AutoConfig": "org/name--other.Config"}})
    ['modeling_x.py']
    """
    names: dict[str, None] = {}
    for config in configs:
        mapped = (config or {}).get("auto_map")
        references = list(mapped.values()) if isinstance(mapped, dict) else mapped
        listed = references if isinstance(references, list) else []
        for reference in chain.from_iterable(item if isinstance(item, list) else [item] for item in listed):
            if isinstance(reference, str) and "--" not in reference:
                module, _, _ = reference.rpartition(".")
                if module and all(part.isidentifier() for part in module.split(".")):
                    names[module.replace(".", "/") + ".py"] = None
    return list(names)


def preprocessors_of(directory: Path) -> dict[str, bool]:
    """Whether a model directory, or a pipeline's, has what prepares its inputs: a `tokenizer`, a `processor`."""
    # In the sidecar of an export it is the only way to know that a package lost them: not every model has them.
    kinds = {
        "tokenizer": (("", "tokenizer", "tokenizer_2"), (TOKENIZER_CONFIG, *VOCABULARY_FILES)),
        "processor": (("", "feature_extractor"), PROCESSOR_FILES),
    }
    return {
        kind: any((directory / place / name).is_file() for place in places for name in names)
        for kind, (places, names) in kinds.items()
    }


def complete_package(
    directory: str | Path, source: str | Path, *, trust_remote_code: bool = False, destination: Path | None = None
) -> list[str]:
    """Copies what Optimum left out into a package; gives the copies.

    That is custom code (parsed for what it imports, never run), a tokenizer, processor or chat template that Optimum
    could not load without running it, and a generation config. What exists stays. A `source` that is not a directory
    gives nothing. With a `destination`, the copies go there and only they. Raises HtpError if a file can't be written.
    """
    directory, source = Path(directory), Path(source)
    target = destination or directory
    added: list[str] = []
    with writing(target):
        if source.is_dir() and directory.is_dir():
            missing = [name for name in _missing(directory, source) if not (directory / name).exists()]
            added = [name for name in missing if copy_file(source, target, name)]
            code = [name for name in _code(directory, source) if not (directory / name).exists()]
            code = [name for name in code if copy_file(source, target, name)]
            if code and not trust_remote_code:
                logger.info("Copied %s with the model; nothing of it was run.", ", ".join(code))
            added += code
    return added


def reset_modes(directory: Path) -> None:
    """Resets the permissions of all that is in a directory to the umask's defaults. Raises HtpError if it can't."""
    mask = umask()
    with writing(directory):
        for path in directory.rglob("*"):
            wanted = (0o777 if path.is_dir() else 0o666) & ~mask
            if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != wanted:
                path.chmod(wanted)


def _missing(directory: Path, source: Path) -> Iterator[str]:
    """The files to copy: of each kind, those of the source if the package has none."""

    def has_none(*names: str) -> bool:
        return not any((directory / name).exists() for name in names)

    if has_none(TOKENIZER_CONFIG, *VOCABULARY_FILES):
        yield from TOKENIZER_FILES
    if has_none(*PROCESSOR_FILES):
        yield from (*PROCESSOR_FILES, "video_preprocessor_config.json")
    if has_none(*CHAT_TEMPLATES) and "chat_template" not in _lenient(directory / TOKENIZER_CONFIG):
        yield from CHAT_TEMPLATES
    if has_none(GENERATION_CONFIG) and any(generates(_lenient(place / CONFIG)) for place in (directory, source)):
        yield GENERATION_CONFIG


def _lenient(path: Path) -> dict[str, Any]:
    try:
        return read_config(path) or {}
    except PackageError:
        return {}


def copy_file(source: Path, directory: Path, name: str) -> bool:
    """Copies one file, if it is there, is valid and is not in the package; says whether it did."""
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
    """The Python files that the configs of both name, and all that these import relatively."""
    names = (CONFIG, TOKENIZER_CONFIG, *PROCESSOR_FILES)
    code: set[str] = set()
    waiting = code_files(*(_lenient(home / name) for home in (directory, source) for name in names))
    while waiting and len(code) < MAX_CODE_FILES:
        name = waiting.pop()
        if name not in code and (source / name).is_file() and is_inside(source / name, source):
            code.add(name)
            waiting += _local_imports(source, name)
    return sorted(code)


def _local_imports(source: Path, name: str) -> Iterator[str]:
    """The files that a Python file imports relatively: `from .layers import Block`. It is parsed, never run."""
    try:
        tree = ast.parse(read_small(source / name, MAX_CODE_BYTES) or b"")
    except (PackageError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        logger.warning("%s: what it imports is not known (%s).", source / name, error)
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            for base in PurePosixPath(name).parents[node.level - 1 : node.level]:  # none where it leads out
                for module in modules:
                    path = base / module.replace(".", "/")
                    yield from (f"{path}.py", f"{path}/__init__.py")


def directory_with_config(folder: Path) -> Path | None:
    """The directory above a folder `onnx`, as many repositories have it, if the config that the folder lacks is there."""
    above = folder.absolute().parent
    found = [any((place / name).is_file() for name in (CONFIG, MODEL_INDEX)) for place in (folder, above)]
    return above if folder.name == "onnx" and found == [False, True] else None


def advice_without_config(directory: Path) -> str:
    """What to do where a package has no config."""
    above = directory_with_config(directory)
    return f"give {above}, which has one" if above else f"write it: optimum-cli htp tag {directory} --model MODEL"


def add_config_metadata(
    directory: str | Path, records: Mapping[str, FileRecord], *, destination: Path | None = None
) -> bool:
    """Adds the block `htp_metadata` to a package's config.json, or replaces it; every other byte stays as it is.

    With a `destination`, another directory, the result goes there. Says whether there is a config.json: a pipeline has
    none. Raises HtpError if it is broken or can't be written.
    """
    path = Path(directory, CONFIG)
    config = read_config(path)
    if config is None:
        return False
    text = _without_block(path, config)
    head = text.rstrip()[:-1].rstrip()
    comma = "" if head.endswith("{") else ","
    written = head + comma + _member(_block(records)) + text[len(head) :]
    write_text_atomically((destination or path.parent) / CONFIG, written)
    return True


def remove_config_metadata(directory: str | Path, *, destination: Path | None = None) -> bool:
    """Removes the block and leaves the bytes from before; says whether there was one. Raises what adding it does.

    If another tool wrote the file again, and moved the block, it is written as transformers does. What does not even have
    the word is left alone, broken or not.
    """
    path = Path(directory, CONFIG)
    config = _config_with_block(path)
    if config is None:
        return False
    write_text_atomically((destination or path.parent) / CONFIG, _without_block(path, config))
    return True


def has_config_metadata(directory: str | Path) -> bool:
    """Whether a package's config.json has the block. Raises what removing it does."""
    return _config_with_block(Path(directory, CONFIG)) is not None


def _config_with_block(path: Path) -> dict[str, Any] | None:
    content = read_small(path, MAX_CONFIG_BYTES) or b""
    config = parse_config(content, where=str(path)) if METADATA_KEY.encode() in content else {}
    return config if METADATA_KEY in config else None


def _without_block(path: Path, config: Mapping[str, Any]) -> str:
    """The text of a config.json without our block."""
    text = _text(path)
    if METADATA_KEY not in config:
        return text
    before, ours, after = text.rpartition(_member(config[METADATA_KEY]))
    if ours and after.strip() == "}":
        return before.removesuffix(",") + after
    left = {key: value for key, value in config.items() if key != METADATA_KEY}
    return json.dumps(left, indent=2) + "\n"


def _member(block: Any) -> str:
    """The block as the last member of config.json, as we write it."""
    return json.dumps({METADATA_KEY: block}, indent=2)[1:-2]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise PackageError(f"{path}: not UTF-8, so {METADATA_KEY!r} has no place in it; save it as UTF-8") from error


def _block(records: Mapping[str, FileRecord]) -> dict[str, Any]:
    files = {}
    for name, record in sorted(records.items()):
        classes = Counter(module.class_name for root in record.roots for module in root.tree)
        files[name] = {"modules": classes.total(), "module_types": dict(sorted(classes.items()))}
    return {"export_strategy": "htp", "files": files}
