"""Packages and models on the Hub, with a stand-in for its client and with the real one's cache, both offline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from optimum_htp import AutoModelForONNX, PackageError
from optimum_htp.models.torch_source import find_source

# The exports are shared.
pytestmark = pytest.mark.xdist_group("modeling")


class Hub:
    """Stands in for the client: one repository, of which it downloads what the caller's patterns let through."""

    def __init__(self, repository: Path, downloads: Path) -> None:
        self.repository, self.downloads = repository, downloads
        self.options: dict[str, Any] = {}

    def snapshot_download(
        self, repo_id: str, *, allow_patterns: Any = None, ignore_patterns: Any = None, **options: Any
    ) -> str:
        """As the client does it."""
        if repo_id != "org/model":
            raise RepositoryNotFoundError(f"404: {repo_id}", response=_response())
        self.options = options
        files = [path.relative_to(self.repository).as_posix() for path in self.repository.rglob("*") if path.is_file()]
        for name in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            target = self.downloads / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.repository / name, target)
        return str(self.downloads)

    @property
    def downloaded(self) -> set[str]:
        """The files that were downloaded."""
        return {path.relative_to(self.downloads).as_posix() for path in self.downloads.rglob("*") if path.is_file()}


def _response() -> Any:
    import httpx

    return httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/api/models/org/other"))


@pytest.fixture
def hub(
    exported: Callable[[str], Path],
    zoo_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Hub:
    """A repository that has a model's own weights, those of other frameworks, and its export."""
    repository = Path(shutil.copytree(zoo_model("bert"), tmp_path / "repository"))
    for name in ("model.onnx", "export_metadata.json"):
        shutil.copy(exported("bert") / name, repository)
    for name in ("tf_model.h5", "pytorch_model.bin", "flax_model.msgpack"):
        (repository / name).write_bytes(b"large")
    fake = Hub(repository, tmp_path / "downloads")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_package_on_the_hub(hub: Hub) -> None:
    """It is loaded without the weights of other frameworks; what the client is told comes from the caller."""
    model = AutoModelForONNX.from_pretrained("org/model", revision="v1", token="secret", local_files_only=None)
    assert type(model).__name__ == "ORTModelForSequenceClassification"
    assert hub.options == {"revision": "v1", "token": "secret"}
    assert {"model.onnx", "config.json", "export_metadata.json", "tokenizer_config.json"} <= hub.downloaded
    assert not any(name.endswith((".safetensors", ".h5", ".bin", ".msgpack")) for name in hub.downloaded)


def test_model_on_the_hub_that_is_exported_first(hub: Hub) -> None:
    """Then its own weights are needed."""
    (hub.repository / "model.onnx").unlink()
    for name in ("tf_model.h5", "pytorch_model.bin", "flax_model.msgpack"):
        (hub.repository / name).unlink()
    model = AutoModelForONNX.from_pretrained("org/model", export=True)
    assert type(model).__name__ == "ORTModelForSequenceClassification"
    assert "model.safetensors" in hub.downloaded


def test_no_such_repository(hub: Hub) -> None:
    """What the client raises becomes one line that says what to give."""
    with pytest.raises(PackageError, match=r"org/other: no such package; give a directory .* or is cached"):
        AutoModelForONNX.from_pretrained("org/other")
    with pytest.raises(
        PackageError, match=r"org/other: no such directory, .* RepositoryNotFoundError: 404: org/other"
    ):
        find_source("org/other")


def test_source_model_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    """Only its configs are downloaded, for `tag --model` needs no weights, and they are as good as a directory's."""
    source = find_source("org/model")
    assert (source.name, source.directory) == ("org/model", hub.downloads)
    assert {"config.json", "tokenizer_config.json", "tokenizer.json"} <= hub.downloaded
    assert not any(name.endswith((".safetensors", ".onnx", ".h5", ".bin")) for name in hub.downloaded)
    source.save_configs(tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").is_file()
    assert (tmp_path / "saved" / "tokenizer_config.json").is_file()


def test_client_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client raises errors of several libraries: each is one line."""

    def refused(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(PackageError, match=r"^org/model: no such directory, .* ConnectionError: no route to host$"):
        find_source("org/model")


def test_cached_package_needs_no_network(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """The real client, offline, finds the snapshot that a cache has."""
    commit = "0" * 40
    repository = tmp_path / "models--org--cached"
    shutil.copytree(exported("bert"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    model = AutoModelForONNX.from_pretrained("org/cached", cache_dir=tmp_path, local_files_only=True)
    assert type(model).__name__ == "ORTModelForSequenceClassification"
    with pytest.raises(PackageError, match="no such package"):
        AutoModelForONNX.from_pretrained("org/missing", cache_dir=tmp_path, local_files_only=True)
