"""`export_metadata.json`, the sidecar of a package: what is written to it, and how it is read back.

The sidecar is the authority on what is known of a package: tools that drop the metadata of nodes leave it alone. It is
written last, so its presence says that the export is complete. `document.py` has the format of a file's record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimum_htp.collecting import no_collecting
from optimum_htp.errors import PackageError, reason
from optimum_htp.package.json_files import TooManyValuesError, parse_json, read_small, write_text_atomically
from optimum_htp.package.limits import BYTES_EACH_MODULE, FREE_MODULES, MAX_SIDECAR_BYTES
from optimum_htp.package.sidecar.document import file_document, making_modules, parse_members
from optimum_htp.package.sidecar.record import FileRecord

SIDECAR = "export_metadata.json"
SCHEMA_VERSION = 1
_LIBRARIES = ("optimum_htp", "optimum", "optimum-onnx", "transformers", "torch", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The content of `export_metadata.json`.

    Attributes:
        files: What is known of each ONNX file, by its path in the package.
        source: Model, revision, task, library, opset and dtype of the export, as far as they are known.
        timings: Seconds spent in Optimum and in the HTP pass.
        versions: The version of each library that took part.
    """

    files: dict[str, FileRecord]
    source: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> Path:
        """Writes `export_metadata.json`, atomically.

        Raises:
            HtpError: It could not be written; what was there is unchanged.
        """
        document = {
            "schema_version": SCHEMA_VERSION,
            "versions": self.versions,
            "source": self.source,
            "timings": self.timings,
            "files": {name: file_document(record) for name, record in self.files.items()},
        }
        path = directory / SIDECAR
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        # Half of a surrogate pair, as a path that is not UTF-8 has, can't be written.
        write_text_atomically(path, text.encode("utf-8", "replace").decode("utf-8") + "\n")
        return path

    @classmethod
    def read(cls, directory: Path) -> Sidecar | None:
        """Reads `export_metadata.json`, as `parse` does; None if there is none."""
        path = directory / SIDECAR
        content = read_small(path, MAX_SIDECAR_BYTES)
        return None if content is None else cls.parse(content, where=str(path))

    @classmethod
    @no_collecting()
    def parse(cls, content: bytes, *, where: str, beside_bytes: int | None = None) -> Sidecar:
        """Parses the content of `export_metadata.json`.

        Args:
            content: The content.
            where: What names it in errors.
            beside_bytes: How long the ONNX files are that it is of: it may list so many modules. None for one that may
                list any number, as it was read before.

        Raises:
            PackageError: It is not what an export writes.
        """
        try:
            if beside_bytes is not None:
                _check_modules(content, beside_bytes)
            document = parse_json(content, made_of=making_modules())
            version = document["schema_version"]
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema version {version!r:.80}; this optimum_htp reads version {SCHEMA_VERSION}")
            return cls(**parse_members(document))
        except (json.JSONDecodeError, UnicodeDecodeError, TooManyValuesError) as error:
            raise PackageError(f"{where}: not JSON ({error}); delete it and export again") from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            message = f"not written by optimum_htp ({reason(error)}); delete it, export again"
            raise PackageError(f"{where}: {message}") from error


def _check_modules(content: bytes, beside_bytes: int) -> None:
    limit = FREE_MODULES + (len(content) + beside_bytes) // BYTES_EACH_MODULE
    if content.count(b'"qualified_class"') > limit:
        raise ValueError(f"more than {limit:,} modules, which no package of this size has")


def library_versions() -> dict[str, str]:
    """The installed version of each library that takes part in an export."""
    from importlib import metadata  # with sockets and email in tow, a tenth of what `optimum-htp tree` takes

    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
