"""Which file is loaded, from what lies on the disk."""

from pathlib import Path

import msgspec
import pytest

from inference import weights
from inference.weights import Manifest, ModelMissing, NotAModel


def put(models: Path, *, size: int = 100, listed: int | None = None) -> Path:
    """A pulled qwen3-4b."""
    file = models / "qwen3-4b" / "q.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF" + bytes(size - 4))
    manifest = Manifest("Qwen/Qwen3-4B-GGUF", "master", "q.gguf", listed or size, "00")
    (file.parent / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return file


def test_auto_is_the_embedded_model_at_first(tmp_path: Path, embedded_gguf: Path) -> None:
    file = weights.resolve("auto", "", tmp_path)
    assert (file.name, file.path, file.demo, file.context) == ("embedded", embedded_gguf, True, 4096)


def test_auto_takes_the_pulled_model(tmp_path: Path) -> None:
    path = put(tmp_path)
    file = weights.resolve("auto", "", tmp_path)
    assert (file.name, file.path, file.demo, file.context) == ("qwen3-4b", path, False, 8192)
    assert [file.name for file in weights.on_disk(tmp_path)] == ["embedded", "qwen3-4b"]


def test_an_incomplete_model_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, listed=101)
    assert weights.resolve("auto", "", tmp_path).name == "embedded"
    with pytest.raises(ModelMissing, match="dswbot model pull qwen3-4b"):
        weights.resolve("qwen3-4b", "", tmp_path)


def test_a_broken_manifest_does_not_count(tmp_path: Path) -> None:
    (put(tmp_path).parent / "manifest.json").write_text("{")
    assert weights.resolve("auto", "", tmp_path).name == "embedded"


def test_a_path_wins(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    file = weights.resolve("qwen3-4b", str(path), tmp_path)
    assert (file.name, file.path, file.size, file.context) == ("mine", path, 64, 4096)


def test_a_path_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="can't be read"):
        weights.resolve("auto", str(tmp_path / "none.gguf"), tmp_path)
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(NotAModel):
        weights.resolve("auto", str(tmp_path / "text.gguf"), tmp_path)


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="embedded, qwen3-4b"):
        weights.resolve("gpt-9", "", tmp_path)


def test_pulling_the_embedded_model_fetches_nothing(tmp_path: Path) -> None:
    """Its file came with the installation."""
    assert weights.pull("embedded", tmp_path, lambda _: None).path.exists()
