"""ModelScope: one file of a repository, fetched by the maintainers' own library, checked, and then made known.

The library keeps partial files and goes on with them; it honours HTTPS_PROXY and MODELSCOPE_ENDPOINT.
"""

import glob
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The library reads these when it is imported: our own progress is the only one shown, and a slow line may take
# its time.
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT", str(24 * 3600))

import msgspec
import requests
from modelscope.hub.callback import ProgressCallback
from modelscope.hub.snapshot_download import snapshot_download
from modelscope_hub import HubApi
from modelscope_hub.errors import FileIntegrityError, HubError, NotExistError

from inference.errors import InferenceError
from inference.weights import GGUF, Manifest, Model, Progress, make_private

SPLIT = re.compile(r"_\d{5}_of_\d{5}\.gguf$")
SPARE = 512 * 1024 * 1024  # bytes of disk that are left alone
BLOCK = 8 * 1024 * 1024


class HubUnreachable(InferenceError):
    """ModelScope can't be reached."""


class FileNotListed(InferenceError):
    """The repository has no such file."""


class DiskTooSmall(InferenceError):
    """There is not enough room on the disk."""


class FileDamaged(InferenceError):
    """What was downloaded is not what the hub lists: run the command again to fetch it anew."""


class Entry(msgspec.Struct, frozen=True):
    """A file as the hub lists it."""

    path: str
    size: int
    sha256: str


def choose(entries: list[Entry], model: Model) -> Entry:
    """The one GGUF of the wanted quantisation; names are not assumed, only that it is named after its type."""
    wanted = [e for e in entries if _is_wanted(e.path, model)]
    if len(wanted) != 1:
        seen = ", ".join(e.path for e in entries if e.path.lower().endswith(".gguf")) or "no GGUF at all"
        raise FileNotListed(f"{model.repository} should list one {model.pattern} file; it lists {seen}.")
    return wanted[0]


def _is_wanted(path: str, model: Model) -> bool:
    """A whole GGUF of the quantisation, inside the repository."""
    name = path.lower().replace("-", "_")
    inside = not path.startswith("/") and ".." not in path.split("/")
    return inside and model.pattern in name and name.endswith(".gguf") and not SPLIT.search(name)


def fetch(model: Model, directory: Path, show: Callable[[Progress], None], endpoint: str | None) -> None:
    """Downloads the model's file into `directory`, checks it, and writes the manifest last.

    `endpoint`: a hub other than the one that MODELSCOPE_ENDPOINT or the library names.
    """
    logging.getLogger("modelscope").setLevel(logging.CRITICAL + 1)
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL + 1)
    with _plain_errors(model):
        entry = choose(_listing(model, endpoint), model)
        make_private(directory)
        _check_room(directory, entry)
        snapshot_download(
            model.repository, revision=model.revision, local_dir=str(directory), cache_dir=str(directory),
            allow_patterns=[glob.escape(entry.path)],
            progress_callbacks=[_reporter(entry, show)], endpoint=endpoint,
        )  # fmt: skip
        _verify(directory / entry.path, entry, show)
        (directory / entry.path).chmod(0o600)
        manifest = Manifest(model.repository, model.revision, entry.path, entry.size, entry.sha256)
        unfinished = directory / "manifest.json.new"
        unfinished.write_bytes(msgspec.json.encode(manifest))
        unfinished.replace(directory / "manifest.json")


def _listing(model: Model, endpoint: str | None) -> list[Entry]:
    files = HubApi(endpoint=endpoint).list_repo_files(model.repository, "model", revision=model.revision)
    return [Entry(file.path, file.size, file.sha256 or "") for file in files if not file.is_dir]


@contextmanager
def _plain_errors(model: Model) -> Iterator[None]:
    """The library's many ways to fail, as one line with its cure."""
    try:
        yield
    except FileIntegrityError as error:
        raise FileDamaged from error
    except NotExistError as error:
        raise FileNotListed(f"ModelScope has no {model.repository} at revision {model.revision}.") from error
    except (requests.RequestException, HubError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HubUnreachable(
            f"{model.repository} can't be fetched from ModelScope ({reason}): check the network, HTTPS_PROXY or "
            "MODELSCOPE_ENDPOINT, and run the command again; it goes on where it stopped."
        ) from error
    except OSError as error:
        raise DiskTooSmall(
            f"The model can't be written: {error.strerror or error}. Free some space, or set data_dir."
        ) from error


def _check_room(directory: Path, entry: Entry) -> None:
    have = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    free = shutil.disk_usage(directory).free
    if free + have < entry.size + SPARE:
        raise DiskTooSmall(
            f"{entry.path} needs {entry.size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: make room."
        )


def _reporter(entry: Entry, show: Callable[[Progress], None]) -> type[ProgressCallback]:
    """The library wants a class, and makes one of it for each file."""

    class Reporter(ProgressCallback):  # type: ignore[misc]
        def __init__(self, filename: str, file_size: int) -> None:
            super().__init__(filename, file_size)
            self._done = 0

        def update(self, size: int) -> Any:
            self._done += size  # negative where a part is fetched again
            show(Progress("downloading", self._done, entry.size))

    return Reporter


def _verify(path: Path, entry: Entry, show: Callable[[Progress], None]) -> None:
    """Compares size and SHA-256 with the listing. A file that differs goes, so that the next try starts anew."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        whole = file.read(len(GGUF)) == GGUF
        file.seek(0)
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            show(Progress("checking", done, entry.size))
    if not whole or done != entry.size or (entry.sha256 and digest.hexdigest() != entry.sha256.lower()):
        path.unlink()
        raise FileDamaged
