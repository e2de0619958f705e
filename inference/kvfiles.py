"""Snapshots as files: header, tokens, state, and a SHA-256 over all three."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from io import BufferedReader
from pathlib import Path

import numpy as np
import structlog

from inference.kvindex import DIGEST, HEADER, TOKEN, Entry, State
from inference.weights import make_private

CHUNK = 4 << 20  # bytes read or written, and hashed, at a time: they are still in the CPU's cache for the hash
MAGIC, VERSION = b"DSW-KVSN", 1
SUFFIX = ".kv"

log = structlog.get_logger()


class Damaged(Exception):
    """A file is not the snapshot that its name promises."""


class Shelf:
    """The files of one fingerprint, in their sub-folder. What does not touch or delete may raise OSError."""

    def __init__(self, root: Path, fingerprint: str) -> None:
        self._root = root
        self._fingerprint = sha256(fingerprint.encode()).digest()
        self.path = root / self._fingerprint.hex()

    def prepare(self) -> None:
        make_private(self.path)
        self.path.chmod(0o700)

    def free(self) -> int:
        """Bytes that a user may still write to this disk."""
        return shutil.disk_usage(self.path).free

    def scan(self) -> list[Entry]:
        """What is stored, the longest unused first; deletes everything else. Reads no states."""
        os.utime(self.path)  # the age of a fingerprint is that of its folder
        entries = []
        for path in self.path.iterdir():
            if path.suffix != SUFFIX:  # a write that never ended
                delete(path)
                continue
            try:
                with open_to_read(path) as file:
                    entries.append((os.fstat(file.fileno()).st_mtime_ns, path.name, self._read_entry(file, path.stem)))
            except (OSError, Damaged) as error:
                report_unusable(path.stem, error)
                delete(path)
        return [entry for _, _, entry in sorted(entries, key=lambda found: found[:2])]

    def others(self) -> list[tuple[str, int]]:
        """Sub-folders of other fingerprints with their bytes, the longest unused first."""
        folders = [
            (path.stat().st_mtime_ns, path.name, sum(file.lstat().st_size for file in path.iterdir()))
            for path in self._root.iterdir()
            if re.fullmatch("[0-9a-f]{64}", path.name) and path != self.path and path.is_dir() and not path.is_symlink()
        ]
        return [(name, size) for _, name, size in sorted(folders)]

    def remove_other(self, name: str) -> None:
        shutil.rmtree(self._root / name, ignore_errors=True)

    def remove(self, key: str) -> None:
        delete(self._file(key))

    def touch(self, key: str) -> None:
        with suppress(OSError):
            os.utime(self._file(key), ns=(now := time.time_ns(), now))

    def write(self, entry: Entry, state: State, stop: Callable[[], bool]) -> bool:
        """The file is whole and on the disk, or it is not there; False if `stop` said to stop."""
        temporary, digest = self.path / f"{entry.key}.tmp", sha256()
        head = self._header(entry) + entry.tokens
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for part in (memoryview(head), *chunks(state)):
                    if stop():
                        return False
                    file.write(part)
                    digest.update(part)
                file.write(digest.digest())
                file.flush()
                os.utime(file.fileno(), ns=(now := time.time_ns(), now))
                os.fsync(file.fileno())
            temporary.replace(self._file(entry.key))
            self._sync_folder()
        except OSError:
            self.remove(entry.key)
            raise
        finally:
            delete(temporary)
        return True

    def read(self, entry: Entry) -> State:
        """The state that belongs to these very tokens. Raises Damaged."""
        with open_to_read(self._file(entry.key)) as file:
            head = self._header(entry) + entry.tokens
            if file.read(len(head)) != head:
                raise Damaged("its header or its tokens are not those expected")
            digest, state = sha256(head), np.empty(entry.size, np.uint8)
            for part in chunks(state):
                if file.readinto(part) != len(part):
                    raise Damaged("it is cut short")
                digest.update(part)
            if file.read(DIGEST + 1) != digest.digest():
                raise Damaged("its checksum does not match, or more follows it")
        return state

    def _read_entry(self, file: BufferedReader, name: str) -> Entry:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            raise Damaged("it is cut short")
        *_, count, size = HEADER.unpack(head)
        if HEADER.size + count * TOKEN + size + DIGEST != os.fstat(file.fileno()).st_size:
            raise Damaged("its length is not what its header says")
        entry = Entry(file.read(count * TOKEN), size)
        if head != self._header(entry) or entry.key != name:
            raise Damaged("its header is another model's, or its name another snapshot's")
        return entry

    def _header(self, entry: Entry) -> bytes:
        return HEADER.pack(MAGIC, VERSION, self._fingerprint, len(entry.tokens) // TOKEN, entry.size)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}{SUFFIX}"

    def _sync_folder(self) -> None:
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def chunks(state: State) -> Iterator[memoryview]:
    view = state.data
    return (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))


def open_to_read(path: Path) -> BufferedReader:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def delete(path: Path) -> None:
    """As far as the disk allows; what stays is checked again before it is believed."""
    with suppress(OSError):
        path.unlink()


def report_unusable(key: str, error: Exception) -> None:
    log.warning("a KV snapshot on disk is unusable and is deleted", snapshot=key, reason=str(error))
